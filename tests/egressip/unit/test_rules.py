"""The rules of the decision, each on the smallest cluster that shows it."""

from __future__ import annotations

from egress_router.egressip.api import (
    Decision,
    Disposition,
    HostSubnet,
    NamespaceDecision,
    NetNamespace,
    NodeDecision,
    Via,
    cluster_state,
)
from egress_router.egressip.assignment.decision import Evaluator, decide

SUBNETS = ("192.0.2.0/24", "2001:db8:2::/64")


def node(name: str, *ips: str, host: str | None = None, subnets: tuple[str, ...] = SUBNETS) -> HostSubnet:
    number = "abc".index(name) + 1
    return HostSubnet(name, host or f"192.0.2.{number}", egress_ips=ips, interface_subnets=subnets)


def space(name: str, *ips: str) -> NetNamespace:
    return NetNamespace(name, 7, ips)


def decided(*objects: NetNamespace | HostSubnet, offline: tuple[str, ...] = ()) -> Decision:
    spaces = [item for item in objects if isinstance(item, NetNamespace)]
    nodes = [item for item in objects if isinstance(item, HostSubnet)]
    return decide(cluster_state(spaces, nodes), offline)


def test_1_without_egress_ips_normal() -> None:
    assert decided(space("p"), node("a")).namespaces == {"p": NamespaceDecision(7, Disposition.NORMAL)}


def test_1_and_2_via_every_usable_ip() -> None:
    decision = decided(space("p", "192.0.2.54", "192.0.2.45"), node("a", "192.0.2.54"), node("b", "192.0.2.45"))
    assert decision.namespaces["p"] == NamespaceDecision(
        7, Disposition.EGRESS, (Via("192.0.2.45", "b"), Via("192.0.2.54", "a"))
    )
    assert decision.nodes == {"a": NodeDecision(("192.0.2.54",)), "b": NodeDecision(("192.0.2.45",))}


def test_1_no_holder_means_drop() -> None:
    verdict = decided(space("p", "192.0.2.45"), node("a")).namespaces["p"]
    assert verdict.disposition is Disposition.DROP
    assert verdict.reasons == (
        "192.0.2.45: no node lists it, and no online node may be given it (egressCIDRs, capacity, one per namespace)",
    )


def test_2_a_listing_that_no_namespace_shares_is_not_claimed() -> None:
    held = decided(node("a", "192.0.2.45")).nodes["a"]
    assert held == NodeDecision((), ("192.0.2.45: no namespace lists it; not claimed",))


def test_3_two_namespaces_lose_the_ip_and_keep_the_others() -> None:
    objects: list[NetNamespace | HostSubnet] = [
        space("p", "192.0.2.45", "192.0.2.46"),
        space("q", "192.0.2.45"),
        node("a", "192.0.2.45"),
        node("b", "192.0.2.46"),
    ]
    decision = decided(*objects)
    words = "192.0.2.45: listed by namespaces p and q; released until one is left"
    assert decision.namespaces["p"] == NamespaceDecision(7, Disposition.EGRESS, (Via("192.0.2.46", "b"),), (words,))
    assert decision.namespaces["q"] == NamespaceDecision(7, Disposition.DROP, (), (words,))
    assert decision.nodes["a"] == NodeDecision((), (words,))


def test_3_two_nodes_lose_the_ip_even_if_one_is_offline() -> None:
    objects: list[NetNamespace | HostSubnet] = [
        space("p", "192.0.2.45"),
        node("a", "192.0.2.45"),
        node("b", "192.0.2.45"),
    ]
    words = "192.0.2.45: listed by nodes a and b; released until one is left"
    for offline in ((), ("a",)):
        decision = decided(*objects, offline=offline)
        assert decision.namespaces["p"] == NamespaceDecision(7, Disposition.DROP, (), (words,))
        assert decision.nodes["a"] == decision.nodes["b"] == NodeDecision((), (words,))


def test_3_heals_when_the_conflict_ends() -> None:
    evaluator = Evaluator()
    evaluator.update({"p": space("p", "192.0.2.45")}, {"a": node("a", "192.0.2.45"), "b": node("b", "192.0.2.45")})
    evaluator.update(nodes={"b": node("b")})
    verdict = evaluator.namespace("p")
    assert verdict is not None
    assert verdict.via == (Via("192.0.2.45", "a"),)


def test_4_second_ip_on_a_node_does_not_count() -> None:
    for order in (("192.0.2.45", "192.0.2.46"), ("192.0.2.46", "192.0.2.45")):
        decision = decided(space("p", *order), node("a", "192.0.2.45", "192.0.2.46"))
        assert decision.namespaces["p"].via == (Via(order[0], "a"),)
        assert decision.namespaces["p"].reasons == (
            f"{order[1]}: node a holds {order[0]} of this namespace already; "  # noqa: ISC004
            "a second one there gives no redundancy and is not used",
        )
        assert decision.nodes["a"].claims == ("192.0.2.45", "192.0.2.46")


def test_4_one_of_each_family_is_no_second() -> None:
    decision = decided(space("p", "192.0.2.45", "2001:db8:2::45"), node("a", "2001:DB8:2::45", "192.0.2.45"))
    assert decision.namespaces["p"].via == (Via("192.0.2.45", "a"), Via("2001:db8:2::45", "a"))


def test_5_never_claimed() -> None:
    bad = {
        "192.0.2.2": "192.0.2.2: the own address of node b",
        "198.51.100.7": "198.51.100.7: outside the interface subnets of node a",
        "192.0.2.255": "192.0.2.255: outside the interface subnets of node a",
        "192.0.2.300": '"192.0.2.300" is not an address that a node can hold',
        "127.0.0.1": '"127.0.0.1" is not an address that a node can hold',
        "::ffff:192.0.2.9": '"::ffff:192.0.2.9" is not an address that a node can hold',
    }
    for ip, reason in bad.items():
        decision = decided(space("p", ip), node("a", ip), node("b"))
        assert decision.namespaces["p"] == NamespaceDecision(7, Disposition.DROP, (), (reason,))
        assert decision.nodes["a"].claims == ()
        assert len(decision.nodes["a"].problems) == 1
        assert reason in decision.nodes["a"].problems[0]


def test_5_two_nodes_with_one_host_ip_hold_nothing() -> None:
    decision = decided(space("p", "192.0.2.45"), node("a", "192.0.2.45"), node("b", host="192.0.2.1"))
    assert decision.namespaces["p"].disposition is Disposition.DROP
    assert decision.nodes["a"].claims == ()
    assert "hostIP 192.0.2.1 stands on nodes a and b; none holds an egress IP" in decision.nodes["b"].problems


def test_6_offline_node_keeps_its_claim_and_leaves_via() -> None:
    objects: list[NetNamespace | HostSubnet] = [
        space("p", "192.0.2.45", "192.0.2.46"),
        node("a", "192.0.2.45"),
        node("b", "192.0.2.46"),
    ]
    decision = decided(*objects, offline=("a",))
    assert decision.nodes["a"].claims == ("192.0.2.45",)
    assert decision.namespaces["p"].via == (Via("192.0.2.46", "b"),)
    assert decision.namespaces["p"].reasons == ("192.0.2.45: node a is offline",)
    assert len(decided(*objects).namespaces["p"].via) == 2


def test_7_changed_host_ip() -> None:
    """The claim goes with the object; the old address is nobody's own any more, the new one is."""
    evaluator = Evaluator()
    spaces = {"p": space("p", "192.0.2.45"), "q": space("q", "192.0.2.9")}
    evaluator.update(spaces, {"a": node("a", "192.0.2.45", "192.0.2.1"), "b": node("b", "192.0.2.9")})
    evaluator.update(nodes={"a": node("a", "192.0.2.45", host="192.0.2.9")})
    decision = evaluator.decision()
    assert decision.nodes["a"].claims == ("192.0.2.45",)
    assert decision.namespaces["p"].via == (Via("192.0.2.45", "a"),)
    assert decision.namespaces["q"].reasons == ("192.0.2.9: the own address of node a",)


def test_8_hand_and_automatic_do_not_meet() -> None:
    """b lists an address of p by hand, so p gets no second one there; capacity counts what is held by hand."""
    nodes = [
        HostSubnet("a", "192.0.2.1", egress_cidrs=("192.0.2.0/24",), egress_ips=("192.0.2.30",), capacity=2),
        HostSubnet("b", "192.0.2.2", egress_cidrs=("192.0.2.0/24",), egress_ips=("192.0.2.20",)),
    ]
    spaces = [space("p", "192.0.2.20", "192.0.2.21"), space("q", "192.0.2.30"), space("r", "192.0.2.22", "192.0.2.23")]
    decision = decide(cluster_state(spaces, nodes))
    assert decision.assignment == {"a": ("192.0.2.21",), "b": ("192.0.2.22",)}
    assert decision.nodes["a"].claims == ("192.0.2.21", "192.0.2.30")
