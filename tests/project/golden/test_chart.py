"""The Helm chart is what tests/support/chart.py makes of the Kustomize base today; its values are documented.

``pytest --golden-update`` writes its files anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from egress_router import __version__
from tests.support.chart import CHART, chart_files, left_out
from tests.support.golden import updating

CHECKOUT = Path(__file__).parents[3]
MADE = chart_files(CHECKOUT)
FOLDER = CHECKOUT / CHART
WRITTEN_BY_HAND = {
    ".helmignore",
    "Chart.yaml",
    "README.md",
    "templates/NOTES.txt",
    "values.schema.json",
    "values.yaml",
}


@pytest.mark.parametrize("name", MADE)
def test_file_is_current(name: str) -> None:
    if updating():
        (FOLDER / name).write_text(MADE[name])
    assert (FOLDER / name).read_text() == MADE[name]


def test_nothing_is_forgotten() -> None:
    assert left_out(CHECKOUT) == {"namespace.yaml"}
    found = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    assert found == {*MADE, *WRITTEN_BY_HAND}


def leaves(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The values that somebody sets, by path; a mapping of free names is one."""
    for name, value in values.items():
        path = f"{before}{name}"
        if isinstance(value, dict) and name not in ("nodeSelector", "resources"):
            yield from leaves(value, f"{path}.")
        else:
            yield path


def test_every_value_is_documented_and_in_the_schema() -> None:
    values = yaml.safe_load((FOLDER / "values.yaml").read_text())
    page = (FOLDER / "README.md").read_text()
    documented = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert documented == set(leaves(values))
    schema = json.loads((FOLDER / "values.schema.json").read_text())
    for path in leaves(values):
        part = schema
        for name in path.split("."):
            properties = part.get("properties", {})
            if name not in properties:
                properties = schema["definitions"]["workload"]["properties"]
            part = properties[name]


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((FOLDER / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == __version__
    kustomization = yaml.safe_load((CHECKOUT / "deploy/egress-ips/base/kustomization.yaml").read_text())
    values = yaml.safe_load((FOLDER / "values.yaml").read_text())
    (image,) = kustomization["images"]
    assert (values["image"]["repository"], chart["appVersion"]) == (image["newName"], image["newTag"])
