"""One folder a case: ``env`` (variables as JSON) and either ``squid.conf`` with its sets or ``error``.

After a change of the template, ``pytest --golden-update`` writes the files anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from egress_router.config.inputs import Inputs, Problems
from egress_router.errors import ConfigurationError
from egress_router.http_proxy.config import parse_http_settings
from egress_router.http_proxy.squid.config import SHOWN, render_squid
from egress_router.policy.compile import compile_policy
from egress_router.policy.parse import parse_policy
from egress_router.policy.shadowed import shadow_warnings
from tests.support.golden import updating

CASES = sorted(path for path in (Path(__file__).parent / "expected").iterdir() if path.is_dir())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Path) -> None:
    problems = Problems()
    inputs = Inputs(json.loads((case / "env").read_text()))
    policy = parse_policy(inputs, problems, required=True)
    settings = parse_http_settings(inputs, problems)
    try:
        problems.raise_if_any()
        assert policy is not None
        files = render_squid(compile_policy(policy), settings, SHOWN)
        if warnings := [*problems.warnings, *shadow_warnings(policy)]:
            files["warnings"] = "".join(f"{warning}\n" for warning in warnings)
    except ConfigurationError as error:
        files = {"error": f"{error}\n"}
    if updating():
        for old in case.iterdir():
            if old.name not in ("env", *files):
                old.unlink()
        for name, text in files.items():
            (case / name).write_text(text)
    assert {path.name for path in case.iterdir()} == {"env", *files}
    for name, text in files.items():
        assert (case / name).read_text() == text


def test_there_are_cases() -> None:
    assert len(CASES) >= 5
