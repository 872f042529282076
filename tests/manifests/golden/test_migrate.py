"""One folder a case: ``old.yaml`` and ``args`` of `egress-router migrate`; ``new.yaml`` and ``notes``, or ``error``.

After a change, ``pytest --golden-update`` writes the files anew.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from kubernetes_validate import latest_version, validate

from egress_router.cli.main import run
from egress_router.config.inputs import Problems, SourceText
from egress_router.errors import ConfigurationError
from egress_router.manifests.containers import manifest_pods
from egress_router.manifests.judge import judge_pods
from egress_router.manifests.objects import read_objects
from egress_router.manifests.pod import parse_manifest_pod
from tests.support.golden import updating

CASES = sorted(path for path in (Path(__file__).parent / "migrate").iterdir() if path.is_dir())
GOOD = [case for case in CASES if not case.name.startswith("refused-")]
CUSTOM = {"SecurityContextConstraints", "NetworkAttachmentDefinition"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case)
    try:
        assert run(["migrate", "old.yaml", *shlex.split((case / "args").read_text())]) == 0
        found = {}
    except ConfigurationError as error:
        found = {"error": f"{error}\n"}
    printed = capsys.readouterr()
    found |= {"new.yaml": printed.out, "notes": printed.err}
    found = {name: text for name, text in found.items() if text}
    if updating():
        for name, text in found.items():
            (case / name).write_text(text)
    assert {path.name for path in case.iterdir()} == {"args", "old.yaml", *found}
    for name, text in found.items():
        assert (case / name).read_text() == text
    assert ("error" in found) == case.name.startswith("refused-")
    assert ("new.yaml" in found) != ("error" in found)


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_what_is_written_can_be_used(case: Path) -> None:
    text = (case / "new.yaml").read_text()
    for item in yaml.safe_load_all(text):
        if item["kind"] not in CUSTOM:
            validate(item, latest_version(), strict=True)
    problems = Problems()
    objects = read_objects([SourceText("new.yaml", text)], problems)
    pods = manifest_pods(objects, problems)
    judge_pods(pods, objects, problems)
    assert len(pods) == 1
    for pod in pods:
        parse_manifest_pod(pod, problems)
    assert not problems.warnings
    assert not problems.errors


@pytest.mark.parametrize(
    ("case", "source", "node"),
    [("seed-redirect", "10.42.253.46", "node-role.kubernetes.io/infra"), ("seed-http-proxy", "10.42.253.43", None)],
)
def test_the_seed_keeps_its_meaning(case: str, source: str, node: str | None) -> None:
    items = list(yaml.safe_load_all((Path(__file__).parent / "migrate" / case / "new.yaml").read_text()))
    spec = next(item for item in items if item["kind"] == "Deployment")["spec"]["template"]["spec"]
    env = {one["name"]: one.get("value") for one in spec["initContainers"][0]["env"]}
    assert env["EGRESS_SOURCE"] == source
    assert env["EGRESS_GATEWAY"] == "10.42.253.1"
    assert node is None or spec["nodeSelector"] == {node: "true"}
