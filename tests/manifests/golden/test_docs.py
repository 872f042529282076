"""The commands of the install pages do what the pages say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

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
