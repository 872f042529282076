"""One folder a case: ``old.yaml`` (and ``args``) of `egress-router migrate egressip`; ``new.yaml`` and ``notes``, or
``error``; the last line of notes is the exit code.

After a change, ``pytest --golden-update`` writes the files anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from egress_router.cli.main import run
from egress_router.config.inputs import Problems, SourceText
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.source import api_objects
from egress_router.egressip.source.objects import parse_cluster_state
from egress_router.errors import ConfigurationError
from egress_router.manifests.egress_ips.migrate import migrate_egress_ips
from tests.support.golden import updating

CASES = sorted(path for path in (Path(__file__).parent / "migrate_egressip").iterdir() if path.is_dir())
GOOD = [case for case in CASES if not case.name.startswith("refused-")]
OURS: dict[str, Callable[[dict[str, Any]], object]] = {
    "EgressIP": api_objects.egress_ip,
    "EgressNode": api_objects.egress_node,
    "EgressIPAssignment": api_objects.assignment,
    "EgressIPPool": api_objects.egress_ip_pool,
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case)
    try:
        code = run(["migrate", "egressip", "old.yaml", *_args(case)])
        found = {}
    except ConfigurationError as error:
        code = error.exit_code
        found = {"error": f"{error}\n"}
    printed = capsys.readouterr()
    found |= {"new.yaml": printed.out, "notes": f"{printed.err}exit code {code}\n"}
    found = {name: text for name, text in found.items() if text}
    if updating():
        for name, text in found.items():
            (case / name).write_text(text)
    assert {path.name for path in case.iterdir()} - {"args"} == {"old.yaml", *found}
    for name, text in found.items():
        assert (case / name).read_text() == text
    assert ("error" in found) == case.name.startswith("refused-")


def _args(case: Path) -> list[str]:
    return (case / "args").read_text().split() if (case / "args").exists() else []


@pytest.mark.parametrize("case", [case for case in GOOD if not _args(case)], ids=lambda case: case.name)
def test_what_is_written_is_read_and_comes_out_again(case: Path) -> None:
    text = (case / "new.yaml").read_text()
    problems = Problems()
    again, notes = migrate_egress_ips([SourceText("new.yaml", text)], problems)
    assert again == text
    assert not problems.errors
    assert not [str(note) for note in notes if not str(note).startswith("same")]
    given = set()
    listed: list[str] = []
    for item in yaml.safe_load_all(text):
        value = OURS[item["kind"]](item)
        if isinstance(value, api_objects.EgressIP):
            listed += value.egress_ips
        elif isinstance(value, api_objects.Assignment):
            assert value.name == api_objects.assignment_name(value.egress_ip)
            given.add(value.egress_ip)
    assert len(set(listed)) == len(listed)
    assert given <= set(listed)


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_agents_on_files_take_what_is_written_for_them(case: Path) -> None:
    problems = Problems()
    old = SourceText("old.yaml", (case / "old.yaml").read_text())
    text, _ = migrate_egress_ips([old], problems, to_files=True)
    state = parse_cluster_state({"new.yaml": text}, problems)
    assert not problems.errors
    decision = decide(state)
    assert not [line for node in decision.nodes.values() for line in node.problems]
    given = {ip for ips in state.assignment.values() for ip in ips}
    assert given <= {ip for ips in decision.assignment.values() for ip in ips}
    # And they come out as they are.
    if text:
        again, _ = migrate_egress_ips([SourceText("new.yaml", text)], Problems(), to_files=True)
        assert again == text
