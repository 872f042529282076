"""A kernel test that fails shows what the kernel and the capture knew; a run that is ended cleans up."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab import registry

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
    pytester.makeconftest((Path(__file__).parents[2] / "support/kernel.py").read_text())
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


WAITING = """
import time
def test_waits(lab):
    lab.pod("client")
    print(lab.name, flush=True)
    time.sleep(60)
def test_never_runs(): pass
"""


def test_sigterm_ends_the_run_with_its_labs(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    pytester.makeconftest((Path(__file__).parents[2] / "support/kernel.py").read_text())
    pytester.makepyfile(WAITING)
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "-k", "bridge or never"]
    process = pytester.popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        name = next(word for line in process.stdout for word in line.split() if word.startswith(registry.PREFIX + "-"))
        assert registry.namespaces_of(name)
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert "ended by SIGTERM" in rest
    assert "passed" not in rest
    assert registry.namespaces_of(name) == ()
