"""Dashboard, alerts and documentation name figures that the processes export (tests/figures), and all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import figures

CHECKOUT = Path(__file__).parents[3]
MODES = sorted(path.name for path in figures.FOLDER.iterdir())
NAME = re.compile(r"egress_router_\w+")
#: What the parts of a summary are called.
SUFFIX = re.compile(r"_(?:sum|count)$")


def exported() -> set[str]:
    return {item.split()[0] for mode in MODES for item in figures.listed(mode)}


def panels() -> list[dict[str, Any]]:
    found = json.loads((CHECKOUT / "deploy/monitoring/dashboard.json").read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def of_dashboard() -> set[str]:
    return {
        SUFFIX.sub("", name) for panel in panels() for item in panel["targets"] for name in NAME.findall(item["expr"])
    }


def test_every_process_has_a_list() -> None:
    assert MODES == ["controller", "dns-proxy", "dns-proxy-by-name", "http-proxy", "node", "redirect"]


def test_the_dashboard_shows_all_figures_and_no_others() -> None:
    assert of_dashboard() == exported()


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


@pytest.mark.parametrize("mode", MODES)
def test_every_figure_is_documented(mode: str) -> None:
    own = mode in ("node", "controller")
    page = (CHECKOUT / "docs" / ("egress-ips.md" if own else "monitoring.md")).read_text()
    prefix = f"egress_router_{mode}_" if own else "egress_router_"
    names = [item.split()[0].removeprefix(prefix) for item in figures.listed(mode)]
    # Behind others of a row, `_held` may stand for `egress_ips_held`.
    assert [n for n in names if not re.search(rf"`(?:egress_router_)?{n}|`_{n.rpartition('_')[2]}`", page)] == []


def test_every_alert_is_documented_and_asks_for_what_there_is() -> None:
    groups = yaml.safe_load((CHECKOUT / "deploy/monitoring/alerts.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {name for rule in rules for name in NAME.findall(rule["expr"])} <= exported()
    page = (CHECKOUT / "docs/monitoring.md").read_text()
    documented = re.findall(r"^\| (Egress\w+) \| (\w+) \|", page, re.MULTILINE)
    assert documented == [(rule["alert"], rule["labels"]["severity"]) for rule in rules]
