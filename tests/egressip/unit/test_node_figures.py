"""What agents tell controllers of their nodes: gathered, told in parts, put together, and shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from egress_router import __version__
from egress_router.daemon.page.level import Level
from egress_router.daemon.page.query import Query
from egress_router.daemon.page.view import number
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.fleet.history import History
from egress_router.egressip.fleet.legs import LegRow, legs_by_node, legs_text
from egress_router.egressip.fleet.page import fleet_page
from egress_router.egressip.fleet.view import Fleet, fleet_view
from egress_router.egressip.health import Health
from egress_router.egressip.node.legs import GatewayLegs
from egress_router.egressip.node.source_ports import SourcePorts
from egress_router.egressip.node.told_figures import DROPS_EVERY, ToldFigures
from egress_router.egressip.node_figures import PORTS, NodeFigures
from egress_router.errors import PlatformError
from egress_router.net.agent_figures import MOST_PARTS, PART_ITEMS, as_message, parse_figures, parts_of
from egress_router.net.icmp_probe import Answer
from egress_router.net.tunnel_echo import Leg
from tests.egressip.unit.test_fleet import NOW, state

ALL_WELL = (LegRow("ICMP", True), LegRow("tunnel", True), LegRow("agent", True))


def heard(
    version: str = "0.1.0",
    connections: Mapping[str, int] | None = None,
    ports: Mapping[str, int] | None = None,
    drops: Mapping[str, int] | None = None,
    broken: Mapping[str, str] | None = None,
) -> NodeFigures:
    """Return what a controller knows when an agent has told all of this."""
    found = NodeFigures()
    for part in parts_of(version, connections or {}, ports or {}, drops or {}, broken or {}):
        found.take(part, 1.0)
    return found


class Jobs:
    """Does jobs when it is told to; ``dropped`` is the kernel."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waiting: list[Any] = []
        self.drops: dict[str, int] = {"no_way": 1}

    def job(self, name: str, work: Any, done: Any, failed: object) -> None:
        self.waiting.append(lambda: done(work()))

    def dropped(self) -> dict[str, int]:
        if not self.drops:
            raise PlatformError("nft hangs")
        return self.drops


def test_an_agent_gathers_and_tells() -> None:
    jobs = Jobs()
    told = ToldFigures(jobs.job, jobs.dropped, lambda: jobs.now)
    first = parse_figures(told.part(0))
    assert first is not None
    assert (first.version, first.parts, first.connections) == (__version__, 1, {}), "before anything is known"
    ports = SourcePorts(jobs.job, print, connections={"192.0.2.1": 7, "192.0.2.99": 9}, most={"192.0.2.1": 5})
    legs = {"well": GatewayLegs(), "ill": GatewayLegs()}
    for _ in range(3):
        legs["well"].note(Answer(True, True, False, frozenset(), legs={Leg.TUNNEL: True}, answers_tunnel=True))
        legs["ill"].note(Answer(True, True, False, frozenset(), legs={Leg.TUNNEL: False}, answers_tunnel=True))
    held = [f"192.0.2.{n}" for n in range(1, 22)]
    told.gather(held, ports, legs)
    told.gather(held, ports, legs)
    assert len(jobs.waiting) == 1, "the kernel is asked once at a time"
    jobs.waiting.pop()()
    told.gather(held, ports, legs)
    one, two = (parse_figures(told.part(number)) for number in (0, 1))
    assert one is not None
    assert two is not None
    assert (one.drops, one.broken, one.parts) == ({"no_way": 1}, {"ill": "tunnel"}, 2)
    assert one.connections["192.0.2.1"] == 7
    assert {*one.connections, *two.connections} == set(held), "what it holds and nothing else, with or without any"
    assert one.ports == {"192.0.2.1": 5}
    assert told.part(2) == told.part(0), "there is no third"
    jobs.now += DROPS_EVERY
    jobs.drops = {}
    told.gather(held, ports, legs)
    jobs.waiting.pop()()
    told.gather(held, ports, legs)
    assert told.part(0)["drops"] == {"no_way": 1}, "what the kernel does not say stays"


def test_a_controller_puts_parts_together() -> None:
    first, second, third = parts_of("0.1.0", {f"192.0.2.{n}": n for n in range(1, 46)}, {}, {"no_way": 1}, {})
    known = NodeFigures()
    known.take(second, 1.0)
    known.take(first, 1.0)
    known.take(third, 1.0)
    assert (known.heard, known.connections) == (None, {}), "the second one is missing"
    assert known.version == "0.1.0"
    for part in (second, first, second, third):
        known.take(part, 2.0)
    assert len(known.connections) == 45
    known.take(parts_of("0.1.0", {"192.0.2.7": 1}, {}, {}, {})[0], 3.0)
    assert known.connections == {"192.0.2.7": 1}, "what went away is gone"


@pytest.mark.parametrize("count", [0, 1, 20, 21, 1279, 1280, 1281, 1300, 5000])
def test_what_an_agent_with_very_many_addresses_tells_is_believed_and_what_it_leaves_out_is_named(count: int) -> None:
    held = {f"2001:db8::{n:x}": n % 7 for n in range(1, count + 1)}
    # The last ones by name: nearly without source ports, and with many connections.
    ports = {f"2001:db8::{n:x}": 60_000 for n in range(max(1, count - 2), count + 1)}
    known = NodeFigures()
    parts = parts_of("0.1.0", held, ports, {"no_way": 1}, {"b": "tunnel"})
    for part in parts:
        message = json.loads(json.dumps(as_message(part)))
        assert len(json.dumps(message)) < 8000, "it fits a datagram"
        believed = parse_figures(message)
        assert believed == part
        known.take(part, 1.0)
    assert known.heard == 1.0, "all parts there are have come"
    told = min(count, MOST_PARTS * PART_ITEMS)
    assert (len(known.connections), known.untold) == (told, count - told)
    assert known.ports == ports, "those of which somebody has to hear are told"
    assert all(held[ip] == number for ip, number in known.connections.items())
    assert (known.version, known.drops, known.broken) == ("0.1.0", {"no_way": 1}, {"b": "tunnel"})
    present = state()
    fleet = fleet_view(present, decide(present), {}, History(), NOW, figures={"node-1": known})
    named = [item for item in fleet.troubles if f"tells no figures of {count - told} of them" in item.text]
    assert [item.where for item in named] == (["HostSubnet/node-1"] if count > told else [])


@pytest.mark.parametrize("untold", [-1, True, "7", 1.5, 1 << 63, None])
def test_a_number_of_addresses_that_is_none_is_left_out(untold: object) -> None:
    message = {**as_message(parts_of("0.1.0", {"192.0.2.1": 1}, {}, {}, {})[0]), "untold": untold}
    believed = parse_figures(message)
    assert believed is not None
    assert believed.untold == 0


def test_legs_by_probes_and_by_the_words_of_others() -> None:
    health = {"a": Health.UP, "b": Health.UP, "c": Health.DOWN, "d": Health.UP}
    told = {
        "a": heard(broken={"b": "tunnel", "c": "tunnel", "d": "agent"}),
        "c": heard(broken={"a": "tunnel"}),
        "d": heard(broken={"b": "full_size", "a": "nonsense"}),
    }
    legs = legs_by_node(health, told, {"b"})
    assert legs["a"] == ALL_WELL, "what a node said before it went down does not count, nor what nobody knows"
    assert legs["b"] == (LegRow("ICMP", True), LegRow("tunnel", True, ("a", "d")), LegRow("agent", False))
    assert legs["c"] == (LegRow("ICMP", False),)
    assert legs["d"][2] == LegRow("agent", True, ("a",))
    assert legs_text(legs["a"]) == "ICMP, tunnel, agent work"
    assert legs_text(legs["b"]) == "tunnel fails from a, d; agent fails; ICMP works"
    assert legs_text(legs["c"]) == "ICMP fails"
    assert legs_text(()) == "–"
    assert [leg.name for leg in legs_by_node(health, {}, ())["a"]] == ["ICMP", "agent"], "nobody was heard of tunnels"


def shown(told: Mapping[str, NodeFigures], silent: tuple[str, ...] = ()) -> Fleet:
    cluster = state()
    up = dict.fromkeys(cluster.nodes, Health.UP)
    return fleet_view(cluster, decide(cluster), up, History(), NOW, figures=told, silent=silent)


def test_the_page_shows_them() -> None:
    told = {
        "node-1": heard(connections={"192.0.2.45": 1234}, ports={"192.0.2.45": PORTS // 2}, drops={"refused": 77}),
        "node-2": heard("0.2.0", connections={"192.0.2.54": 0}),
        "node-3": heard(broken={"node-1": "tunnel"}),
    }
    fleet = shown(told)
    rows = {row.ip: row for row in fleet.addresses}
    assert (rows["192.0.2.45"].connections, rows["192.0.2.45"].share) == (1234, "50 %")
    assert (rows["192.0.2.54"].connections, rows["192.0.2.54"].share) == (0, "0 %")
    assert (rows["192.0.2.77"].connections, rows["192.0.2.77"].share) == (None, "–"), "nobody has it"
    assert fleet.versions == (("0.1.0", 2), ("0.2.0", 1))
    troubles = [item.text for item in fleet.troubles if item.where == "HostSubnet/node-1"]
    assert troubles == ["node node-1 is not reached through the tunnel as it should from node-3"]
    assert next(row for row in fleet.nodes if row.name == "node-1").drops == (("refused", 77),)
    page = fleet_page(fleet)
    for words in ("tunnel fails from node-3; ICMP, agent work", number(1234), "50 %", "refused 77", "0.2.0"):
        assert words in page, words
    hidden = fleet_page(fleet, Query(report=True, redact=True))
    assert "node-1" in page
    assert "tunnel fails from node-" in hidden
    assert "192.0.2" not in hidden


def test_source_ports_that_run_out_are_a_trouble() -> None:
    told = {"node-1": heard(connections={"192.0.2.45": 1}, ports={"192.0.2.45": int(PORTS * 0.85)})}
    (trouble,) = [item for item in shown(told).troubles if "source ports" in item.text]
    assert (trouble.level, trouble.where) == (Level.DEGRADED, "HostSubnet/node-1")
    assert "192.0.2.45 uses 85 % of its source ports" in trouble.text
    told = {"node-1": heard(connections={"192.0.2.45": 1}, ports={"192.0.2.45": int(PORTS * 0.75)})}
    assert not [item for item in shown(told).troubles if "source ports" in item.text]


def test_names_from_agents_are_text() -> None:
    """A machine of the nodes' network can speak as a node where agents do not sign."""
    hostile = '"><script>alert(1)</script>'
    told = {"node-1": heard(hostile, {"192.0.2.45": 1}, {}, {hostile: 1}, {hostile: "tunnel", "node-2": hostile})}
    assert fleet_page(shown(told)).count("<script>") == 1, "ours"
