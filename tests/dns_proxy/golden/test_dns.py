"""One folder a case: ``env`` (variables as JSON) and either ``haproxy.cfg`` or ``error``.

After a change of the template, ``pytest --golden-update`` writes the files anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from egress_router.config.inputs import Inputs, Problems
from egress_router.dns_proxy.destinations import parse_dns_proxy
from egress_router.dns_proxy.haproxy.config import render_haproxy
from egress_router.errors import ConfigurationError
from tests.support.golden import updating

CASES = sorted(path for path in (Path(__file__).parent / "expected").iterdir() if path.is_dir())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Path) -> None:
    problems = Problems()
    config = parse_dns_proxy(Inputs(json.loads((case / "env").read_text())), problems, required=True)
    try:
        problems.raise_if_any()
        assert config is not None
        name, text = "haproxy.cfg", render_haproxy(config)
    except ConfigurationError as error:
        name, text = "error", f"{error}\n"
    if updating():
        (case / name).write_text(text)
    assert {path.name for path in case.iterdir()} == {"env", name}
    assert (case / name).read_text() == text


def test_there_are_cases() -> None:
    assert len(CASES) >= 4
