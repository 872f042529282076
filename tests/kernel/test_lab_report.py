"""A kernel test that fails shows what the kernel and the capture knew."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.root

FAILING = """
def test_fails(lab):
    pod = lab.pod("client")
    lab.echo("203.0.113.25", tcp=80)
    with lab.capture():
        lab.tcp(pod, "203.0.113.25", 80)
        assert lab is None
"""


def test_failure_shows_state_and_capture(pytester: pytest.Pytester) -> None:
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text())
    pytester.makepyfile(FAILING)
    result = pytester.runpytest_inprocess("-k", "bridge")
    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(
        [
            "*lab erl-* (bridge)*",
            "===== client (erl-*-client)",
            "default via 198.51.100.1 dev eth0*",
            "*captured on gateway eth0*",
            "*IP 192.0.2.11.* > 203.0.113.25.80 tcp [[]S[]]*",
        ]
    )
