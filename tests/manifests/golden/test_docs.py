"""The commands of the install pages do what the pages say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from egress_router.cli.main import run

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ["install-images.md", "install-kubernetes-multus.md", "install-openshift-sdn.md", "install-ovn-kubernetes.md"]


def commands(page: str) -> list[list[str]]:
    """Return the words of each `egress-router manifests` in the code blocks of a page, without what is made of it."""
    blocks = re.findall(r"^ *```\n(.*?)^ *```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [
        shlex.split(re.split(r"[|>]", line)[0])[1:] for line in lines if line.startswith("egress-router manifests ")
    ]


@pytest.mark.parametrize("page", PAGES)
def test_the_manifests_of_the_pages(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shop.txt").write_text("443 tcp 203.0.113.25\n")
    assert commands(page)
    for words in commands(page):
        assert run(words) == 0
        printed = capsys.readouterr()
        assert not printed.err
        Path("shop.yaml").write_text(printed.out)
        assert run(["check", "-f", "shop.yaml"]) == 0
        assert not capsys.readouterr().err
        kinds = [item["kind"] for item in yaml.safe_load_all(printed.out)]
        # What the pages say is written, and what they say is not.
        assert "Namespace" not in kinds
        assert ("NetworkAttachmentDefinition" in kinds) == ("--parent-interface" in words)
        assert ("SecurityContextConstraints" in kinds) == ("openshift" in words)


#: What `kubectl delete all` takes of what is written here.
ALL = {"service", "deployment", "replicationcontroller"}
#: A set with every kind of object, in the namespace of the pages and in another one.
EVERYTHING = (
    "manifests redirect --name shop --source 192.0.2.46 --source 192.0.2.47 --gateway 192.0.2.1 "
    "--destinations shop.txt --platform openshift --parent-interface eth1 --service-monitor --namespace"
)


def test_remove_takes_all_of_one_set_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shop.txt").write_text("443 tcp 203.0.113.25\n")
    objects: list[dict[str, Any]] = []
    for namespace in ("egress-routers", "other"):
        assert run([*EVERYTHING.split(), namespace]) == 0
        objects += yaml.safe_load_all(capsys.readouterr().out)
    page = (DOCS / "install-images.md").read_text().partition("**Remove**")[2]
    deletes = [shlex.split(line, comments=True) for line in re.findall(r"^kubectl .*delete .*$", page, re.MULTILINE)]
    assert len(deletes) == 4
    gone = [item for item in objects if any(deleted(item, words) for words in deletes)]
    assert gone == [item for item in objects if "other" not in str(item["metadata"])]
    # Charts of Helm label their objects with the same key.
    labels = {"app.kubernetes.io/instance": "shop"}
    metadata = {"namespace": "egress-routers", "name": "shop", "labels": labels}
    foreign = {"kind": "NetworkAttachmentDefinition", "metadata": metadata}
    assert not any(deleted(foreign, words) for words in deletes)


def deleted(item: dict[str, Any], words: list[str]) -> bool:
    """Return whether a `kubectl delete` of the page takes an object."""
    kinds = words[words.index("delete") + 1].replace("-", "").replace("scc", "securitycontextconstraints").split(",")
    kind = item["kind"].lower()
    metadata = item["metadata"]
    if not any(one in (kind, f"{kind}s") or (one == "all" and kind in ALL) for one in kinds):
        return False
    if "-l" not in words:
        return bool(metadata["name"] == words[-1])
    wanted = dict(label.split("=") for label in words[words.index("-l") + 1].split(","))
    here = "-n" not in words or metadata.get("namespace") == words[words.index("-n") + 1]
    return here and all(metadata["labels"].get(key) == value for key, value in wanted.items())
