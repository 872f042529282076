"""margins.toml, and what is said about a run."""

from __future__ import annotations

import pytest

from bench import margins
from bench.figures import Ratio, Value
from bench.questions import questions
from bench.results import Results

ONE = """
[[margin]]
question = "start-up"
metric = "wall"
arm = "ours"
size = 10
base = "plain"
at_most = {limit}
reason = "as it was"
"""


@pytest.mark.parametrize(("limit", "good", "word"), [(2.5, True, "ok"), (2.4, False, "WORSE")])
def test_judged(results: Results, limit: float, good: bool, word: str) -> None:
    text, found = margins.judge(margins.read_margins(ONE.format(limit=limit)), results)
    assert found is good
    row = text.splitlines()[1]
    assert row.startswith(f"{word} ")
    assert f"≤ {limit}" in row
    assert "2–3" in row


def test_what_a_question_did_not_measure_is_a_failure(results: Results) -> None:
    missing = ONE.replace('"ours"', '"nobody"').format(limit=9)
    text, good = margins.judge(margins.read_margins(missing), results)
    assert not good
    assert "not measured" in text


def test_a_question_that_was_not_asked_is_left_out(results: Results) -> None:
    other = ONE.replace("start-up", "packets").format(limit=0)
    assert margins.judge(margins.read_margins(other), results) == (margins.judge({}, results)[0], True)


@pytest.mark.parametrize(
    "text",
    [
        ONE.replace('reason = "as it was"', ""),
        ONE.replace("at_most = {limit}", ""),
        ONE.replace("at_most", "at_mots"),
        ONE.replace('arm = "ours"', ""),
    ],
)
def test_mistakes(text: str) -> None:
    with pytest.raises(ValueError, match=r"margins\.toml"):
        margins.read_margins(text.format(limit=1))


def test_the_margins_name_what_is_measured() -> None:
    found = margins.read_margins(margins.FILE.read_text())
    assert sum(map(len, found.values())) >= 10
    for name, checks in found.items():
        question = questions()[name]
        arms = {arm for table in question.tables for arm in _arms(table)}
        for check in checks:
            assert question.metric(check.what.metric)
            assert check.what.arm in arms
            assert isinstance(check.what, Value) or (isinstance(check.what, Ratio) and check.what.base in arms)


def _arms(table: object) -> set[str]:
    names = {arm if isinstance(arm, str) else arm[0] for arm in getattr(table, "arms", ())}
    return (
        names
        | set(getattr(table, "sizeless", ()))
        | ({base} if isinstance(base := getattr(table, "base", 0), str) else set())
    )
