"""The fleet's page: what is wrong comes first, changes have causes, names of others are text and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.daemon.page.assets import html_headers
from egress_router.daemon.page.html import age
from egress_router.daemon.page.level import Level
from egress_router.daemon.page.query import Query
from egress_router.daemon.page.view import AskForm, Reply
from egress_router.egressip.api import ClusterState, HostSubnet, NetNamespace, Pod
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.fleet.ask import ask
from egress_router.egressip.fleet.history import MOST, SPAN, History, Kind
from egress_router.egressip.fleet.page import fleet_page
from egress_router.egressip.fleet.picture import draw
from egress_router.egressip.fleet.view import Fleet, fleet_view, matching
from egress_router.egressip.health import Health

NOW = 1_700_000_000.0
FORM = AskForm("x", "y", lambda target, client: [Reply(True, target + client)])
HOSTILE = '"><script>alert(1)</script><a href="javascript:x">\'{{ 7*7 }}'


def state(
    names: tuple[str, ...] = ("shop", "bank"),
    nodes: tuple[HostSubnet, ...] = (
        HostSubnet("node-1", "192.0.2.11", egress_ips=("192.0.2.45",)),
        HostSubnet("node-2", "192.0.2.12", egress_ips=("192.0.2.54",)),
        HostSubnet("node-3", "192.0.2.13"),
    ),
) -> ClusterState:
    lists = (("192.0.2.45", "192.0.2.54"), ("192.0.2.77",))
    namespaces = {
        name: NetNamespace(name, number, ips) for number, (name, ips) in enumerate(zip(names, lists, strict=True))
    }
    pods = {(name, "a"): Pod(name, "a", "node-3", (f"198.51.100.{n}",)) for n, name in enumerate(names, 2)}
    return ClusterState({**namespaces, "plain": NetNamespace("plain", 9)}, {n.name: n for n in nodes}, pods)


def view(cluster: ClusterState, offline: tuple[str, ...] = (), history: History | None = None) -> Fleet:
    health = {name: Health.DOWN if name in offline else Health.UP for name in cluster.nodes}
    return fleet_view(cluster, decide(cluster, offline), health, history or History(), NOW)


def test_who_leaves_with_the_nodes_address_is_not_cut_off() -> None:
    """`whenUnavailable: NodeIP`."""
    cluster = state()
    bank = replace(cluster.namespaces["bank"], node_ip=True)
    fleet = view(replace(cluster, namespaces={**cluster.namespaces, "bank": bank}))
    (row,) = [row for row in fleet.namespaces if row.name == "bank"]
    assert (row.level, row.state) == (
        Level.DEGRADED,
        "leaves with the addresses of its pods' nodes; no egress IP is usable",
    )
    assert fleet.pods_cut_off == 0


def test_what_is_cut_off_comes_first() -> None:
    fleet = view(state(), ("node-2",))
    assert fleet.level is Level.CUT_OFF
    assert [item.where for item in fleet.troubles[:2]] == ["HostSubnet/node-2", "NetNamespace/bank"]
    assert [row.name for row in fleet.namespaces] == ["bank", "shop"]
    assert (fleet.pods, fleet.pods_cut_off, fleet.normal_namespaces) == (2, 1, 1)
    rows = {row.ip: row for row in fleet.addresses}
    assert rows["192.0.2.45"].state == "in use"
    assert rows["192.0.2.54"].state == "its node is down"
    assert (rows["192.0.2.77"].state, rows["192.0.2.77"].node) == ("no node has it", "")


def test_a_fleet_without_trouble_is_fine() -> None:
    cluster = state(nodes=(HostSubnet("a", "192.0.2.11", egress_ips=("192.0.2.45", "192.0.2.77")),
                           HostSubnet("b", "192.0.2.12", egress_ips=("192.0.2.54",))))  # fmt: skip
    fleet = view(cluster)
    assert (fleet.level, fleet.troubles) == (Level.FINE, ())
    assert "everything that should leave leaves" in fleet_page(fleet)


def test_an_address_of_two_namespaces_is_a_conflict() -> None:
    cluster = state()
    cluster = ClusterState(
        {**cluster.namespaces, "rival": NetNamespace("rival", 7, ("192.0.2.45",))}, cluster.nodes, cluster.pods
    )
    row = next(row for row in view(cluster).addresses if row.ip == "192.0.2.45")
    assert (row.level, row.namespaces) == (Level.CUT_OFF, ("rival", "shop"))
    assert "listed by namespaces rival and shop" in row.state


def test_changes_have_causes() -> None:
    history, cluster = History(), state()
    up = dict.fromkeys(cluster.nodes, Health.UP)
    history.observe(decide(cluster), up, NOW)
    assert history.changes(NOW) == [], "what was there did not change"
    down = {**up, "node-1": Health.DOWN}
    history.observe(decide(cluster, ("node-1",)), down, NOW + 1)
    newest = history.changes(NOW + 1)
    assert {(item.kind, item.subject) for item in newest} == {(Kind.NODE, "node-1"), (Kind.RELEASED, "192.0.2.45")}
    released = next(item for item in newest if item.kind is Kind.RELEASED)
    assert (released.before, released.after, released.cause) == ("node-1", "nobody", "node node-1 is down")
    assert history.since("192.0.2.45") == NOW + 1
    assert history.since("192.0.2.54") is None
    history.observe(decide(cluster), up, NOW + 2)
    assert history.changes(NOW + 2)[0].kind is Kind.ASSIGNED
    assert len(history.changes(NOW + 2 + SPAN)) == 2, "an hour later the first two are over"
    history.observe(decide(cluster), up, NOW + 3 + SPAN)
    assert history.changes(NOW + 3 + SPAN) == []


def test_a_fail_over_is_called_one() -> None:
    def cluster(node: str) -> ClusterState:
        nodes = tuple(HostSubnet(f"n{n}", f"192.0.2.1{n}", egress_cidrs=("192.0.2.0/24",)) for n in (1, 2))
        found = state(nodes=nodes)
        return ClusterState(found.namespaces, found.nodes, found.pods, {node: ("192.0.2.45",)})

    history = History()
    history.observe(decide(cluster("n1")), {"n1": Health.UP, "n2": Health.UP}, NOW)
    holder = next(via.node for via in decide(cluster("n1")).namespaces["shop"].via if via.ip == "192.0.2.45")
    other = {"n1": "n2", "n2": "n1"}[holder]
    history.observe(decide(cluster("n1"), (holder,)), {holder: Health.DOWN, other: Health.UP}, NOW + 1)
    moved = [item for item in history.changes(NOW + 1) if item.subject == "192.0.2.45"]
    assert [(item.kind, item.before, item.after) for item in moved] == [(Kind.FAILED_OVER, holder, other)]


def test_history_is_bounded() -> None:
    history, cluster = History(), state()
    history.observe(decide(cluster), {}, NOW)
    for round_ in range(MOST + 10):
        history.observe(decide(cluster), {"node-1": Health.UP if round_ % 2 else Health.DOWN}, NOW + round_ / 100)
    assert len(history.changes(NOW + 30)) == MOST
    assert history.forgotten == 10


class Tags(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def tags_of(page: str) -> Tags:
    parser = Tags()
    parser.feed(page)
    return parser


@given(st.text(min_size=1, max_size=40) | st.just(HOSTILE), st.text(max_size=20) | st.just(HOSTILE))
def test_names_of_others_are_text(name: str, query: str) -> None:
    nodes = (HostSubnet(name, name, egress_ips=("192.0.2.45", name)), HostSubnet("b", "192.0.2.12"))
    history = History()
    cluster = state((name, f"{name}2"), nodes)
    history.observe(decide(cluster), {}, NOW)
    history.observe(decide(cluster), {name: Health.DOWN}, NOW)
    parsed = tags_of(fleet_page(view(cluster, history=history), Query(words=query, target=query, client=name), FORM))
    assert parsed.tags.count("script") == 1, "ours"
    assert not [value for key, value in parsed.attributes if key.startswith("on")]
    assert {value for key, value in parsed.attributes if key == "href"} <= {"#main", "?", "/status", "/metrics"}
    assert not [key for key, _ in parsed.attributes if key in ("src", "srcdoc", "style")]


def test_a_standby_is_shown_beside_the_holder() -> None:
    recorded = replace(state(), standbys={"192.0.2.45": "node-3"})
    decided = replace(decide(recorded), standbys={"192.0.2.45": "node-2"})
    up = dict.fromkeys(recorded.nodes, Health.UP)
    for decision, standby in ((decide(recorded), "node-3"), (decided, "node-2")):
        fleet = fleet_view(recorded, decision, up, History(), NOW)
        rows = {row.ip: row.standby for row in fleet.addresses}
        assert rows == {"192.0.2.45": standby, "192.0.2.54": "", "192.0.2.77": ""}
        assert f"standby {standby}" in fleet_page(fleet)
        assert [row.ip for row in matching(fleet, standby).addresses if row.node != standby] == ["192.0.2.45"]


def test_a_filter_keeps_what_fits() -> None:
    fleet = matching(view(state(), ("node-2",)), "SHOP node-1")
    assert [row.ip for row in fleet.addresses] == ["192.0.2.45"]
    assert [row.name for row in fleet.namespaces] == ["shop"]
    assert "Nothing fits" in fleet_page(view(state()), Query(words="nothing like this"))


def test_a_report_can_go_into_a_ticket() -> None:
    nodes = (HostSubnet("alpha", "192.0.2.11", egress_ips=("192.0.2.45",)), HostSubnet("beta", "192.0.2.12"))
    history, cluster = History(), replace(state(nodes=nodes), standbys={"192.0.2.45": "beta"})
    history.observe(decide(cluster), {}, NOW)
    history.observe(decide(cluster, ("alpha",)), {"alpha": Health.DOWN}, NOW)
    fleet = view(cluster, ("alpha",), history)
    told = re.compile(r"192\.0\.2|shop|bank|alpha|beta")
    assert not told.search(fleet_page(fleet, Query(report=True, redact=True)))
    clear = fleet_page(fleet, Query(report=True))
    assert len(set(told.findall(clear))) == 5, "the control"
    assert "standby beta" in clear
    assert "<script" not in clear


def test_the_standby_of_an_assigned_address_stands_once_and_is_hidden_in_a_ticket() -> None:
    nodes = tuple(
        HostSubnet(name, f"192.0.2.{number}", egress_cidrs=("192.0.2.0/24",))
        for number, name in enumerate(("alpha", "beta"), start=11)
    )
    cluster = state(nodes=nodes)
    decision = decide(cluster, standby=True)
    assert decision.standbys, "the control"
    fleet = fleet_view(cluster, decision, dict.fromkeys(cluster.nodes, Health.UP), History(), NOW)
    assert fleet_page(fleet).count("standby ") == len(decision.standbys)
    assert not re.search("alpha|beta", fleet_page(fleet, Query(report=True, redact=True)))


def test_what_is_gone_is_not_told_in_a_ticket_either() -> None:
    """Nodes that were removed within the hour, and who listed an address together."""
    history = History()
    before = state(
        nodes=(HostSubnet("alpha", "192.0.2.11", egress_ips=("192.0.2.45",)), HostSubnet("beta", "192.0.2.12"))
    )
    both = replace(before.namespaces["bank"], egress_ips=("192.0.2.45",))
    conflict = replace(before, namespaces={**before.namespaces, "bank": both})
    after = state(nodes=(HostSubnet("beta", "192.0.2.12", egress_ips=("192.0.2.45",)),))
    for cluster in (before, conflict, before, after):
        history.observe(decide(cluster), dict.fromkeys(cluster.nodes, Health.UP), NOW)
    fleet = view(after, history=history)
    told = re.compile(r"192\.0\.2|shop|bank|alpha|beta")
    assert len(set(told.findall(fleet_page(fleet, Query(report=True))))) == 5, "the control"
    assert "conflict" in fleet_page(fleet, Query(report=True, redact=True))
    assert not told.search(fleet_page(fleet, Query(report=True, redact=True)))


def test_policy_allows_our_own_and_nothing_else() -> None:
    policy = html_headers()["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "now"), (40, "40 s"), (119, "119 s"), (130, "2 min"), (7300, "2 h"), (200_000, "2 d")]
)
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_many_nodes_are_a_field() -> None:
    nodes = tuple(HostSubnet(f"n{n}", f"10.0.{n >> 8}.{n & 255}", egress_cidrs=("192.0.2.0/24",)) for n in range(1, 60))
    fleet = view(state(nodes=nodes))
    assert not draw(fleet).cells, "only a few hold addresses"
    many = tuple(HostSubnet(f"n{n}", f"10.0.0.{n}", egress_ips=(f"192.0.2.{n + 100}",)) for n in range(1, 60))
    namespaces = {f"s{n}": NetNamespace(f"s{n}", n, (f"192.0.2.{n + 100}",)) for n in range(1, 60)}
    picture = draw(view(ClusterState(namespaces, {node.name: node for node in many})))
    assert len(picture.cells) == 59
    assert "59 nodes" in picture.text


def answers(client: str, target: str, cluster: ClusterState | None = None) -> list[tuple[bool | None, str]]:
    objects = cluster or state()
    return [(reply.allowed, reply.text) for reply in ask(objects, decide(objects), client, target)]


def test_what_a_pod_sends() -> None:
    pods = {
        ("shop", "here"): Pod("shop", "here", "node-1", ("10.0.0.5",)),
        ("shop", "far"): Pod("shop", "far", "node-9", ("10.0.9.5", "fd00::5")),
        ("free", "one"): Pod("free", "one", "node-1", ("10.0.0.6",)),
    }
    cluster = replace(state(), pods=pods)
    ((allowed, text),) = answers("shop/here", "203.0.113.7", cluster)
    assert (allowed, text) == (
        True,
        "pod shop/here (10.0.0.5 on node-1) to 203.0.113.7: with 192.0.2.45 by node-1, its own node",
    )
    ((allowed, text),) = answers("10.0.9.5", "203.0.113.7", cluster)
    assert allowed
    assert text.endswith("through the tunnel")
    ((allowed, text),) = answers("shop/far", "2001:db8::7", cluster)
    assert not allowed
    assert "dropped: the namespace has no usable egress IP of IPv6" in text
    assert answers("shop/here", "2001:db8::7", cluster) == [(False, "shop/here has no IPv6 address to send from")]
    assert answers("free/one", "203.0.113.7", cluster)[0][1].startswith("pod free/one")


def test_what_a_namespace_sends() -> None:
    ((allowed, text),) = answers("shop", "203.0.113.7")
    assert allowed
    assert "namespace shop to 203.0.113.7: with 192.0.2.45 on node-1" in text
    assert answers("nowhere", "203.0.113.7") == [
        (False, "namespace nowhere to 203.0.113.7: dropped: no object tells of the namespace")
    ]


@pytest.mark.parametrize(
    ("client", "target"),
    [
        ("shop", "example.com"),
        ("shop", ""),
        ("", "203.0.113.7"),
        ("shop/none", "203.0.113.7"),
        ("10.9.9.9", "203.0.113.7"),
    ],
)
def test_what_cannot_be_answered(client: str, target: str) -> None:
    ((allowed, text),) = answers(client, target)
    assert allowed is None
    assert text
