"""What becomes of an environment. ``pytest --golden-update`` writes the files anew: read the diff."""

from __future__ import annotations

from itertools import product

import pytest

from egress_router.redirect.values import Mode
from tests.redirect.golden.cases import BACKENDS, Case, cases, covered, outcome
from tests.support.golden import updating


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_outcome(case: Case) -> None:
    found = outcome(case)
    if updating():
        for stale in {"error", "network", "nft", "iptables"} - found.keys():
            (case.path / stale).unlink(missing_ok=True)
        for name, text in found.items():
            (case.path / name).write_text(text)
    for name, text in found.items():
        assert text == (case.path / name).read_text(), f"{case.name}/{name} differs; right? pytest --golden-update"


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_every_file_is_used(case: Case) -> None:
    assert {path.name for path in case.path.iterdir()} == case.used_files()


def test_every_mode_has_a_case_on_every_backend() -> None:
    assert covered() == set(product(Mode, BACKENDS))


def test_there_are_errors_among_the_cases() -> None:
    assert sum("error" in outcome(case) for case in cases()) >= 5
