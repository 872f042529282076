"""The status as people read it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from egress_router.egressip.api import HostSubnet, NetNamespace, Pod, cluster_state
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.health import Health, NodeHealth
from egress_router.egressip.node.drop_reasons import DROPS
from egress_router.egressip.node.gateways import Gateways, LocalAssignments
from egress_router.egressip.node.nft_rules import node_tables, replace_script
from egress_router.egressip.node.state import Direct, NodeSettings, NodeState
from egress_router.egressip.node.status import AgentStatus, drain_status, node_status, status_text
from egress_router.errors import Problem

WANTED = """\
node a: NOT READY, draining, 3 pod addresses
  PROBLEM state.json: is not JSON
  PROBLEM 192.0.2.46 is not claimed: 02:00:00:00:00:01 answers
namespace blue: DROP
    192.0.2.60: no node lists it, and no online node may be given it (egressCIDRs, capacity, one per namespace)
namespace green: DROP until a holder has its address: 192.0.2.48 on b (not used: not on its interface yet)
namespace red: leaves with 192.0.2.45 on b (up)
    192.0.2.46: node a hands over (node drain); it carries what is open and gets nothing new
    192.0.2.47: node c does not answer, or its agent does not yet say that it is ready
    192.0.2.50: node d hands over (node drain); it carries what is open and gets nothing new
holder c: down
holder d: draining
dropped 1 packet: their namespace has no usable egress IP in that family
dropped 2 packets: new connections from outside to an egress IP
namespace white: leaves with 192.0.2.49 on b (up)
1 namespace without egress IPs leaves with the address of the pod's node
holds 192.0.2.46
holder b: up"""


def test_problems_come_first_and_every_drop_has_a_reason() -> None:
    state = cluster_state(
        [
            NetNamespace("plain", 1),
            NetNamespace("blue", 2, ("192.0.2.60",)),
            NetNamespace("green", 3, ("192.0.2.48",)),
            NetNamespace("red", 4, ("192.0.2.45", "192.0.2.46", "192.0.2.47", "192.0.2.50")),
            NetNamespace("white", 5, ("192.0.2.49",)),
        ],
        [
            HostSubnet("a", "192.0.2.11", egress_ips=("192.0.2.46",)),
            HostSubnet("b", "192.0.2.12", egress_ips=("192.0.2.45", "192.0.2.48", "192.0.2.49")),
            HostSubnet("c", "192.0.2.13", egress_ips=("192.0.2.47",)),
            HostSubnet("d", "192.0.2.14", egress_ips=("192.0.2.50",)),
        ],
    )
    view = AgentStatus(state, decide(state, {"a", "c", "d"}), (Problem("state.json", None, "", "is not JSON"),))
    states = {"b": Health.UP, "c": Health.DOWN, "d": Health.DRAINING}
    holders = Gateways(3, 5, {name: NodeHealth(3, 5, health) for name, health in states.items()})
    holdings = LocalAssignments("eth0", frozenset({"192.0.2.46"}), {"192.0.2.46": "02:00:00:00:00:01 answers"})
    applied = NodeState(paths=dict.fromkeys(("198.51.100.2", "198.51.100.3", "198.51.100.4"), Direct.NODE_ADDRESS))
    drops = {"no_way": 1, "refused": 2, "unknown_pod": 0}
    shown = node_status(
        "a",
        view,
        holders,
        holdings,
        applied,
        [],
        ["192.0.2.48"],
        drops,
        drain_status(view, ["192.0.2.46"], {"a"}, None, 9, done=False),
    )
    assert status_text(shown) == WANTED


@pytest.mark.parametrize(
    ("done", "words"),
    [(False, "ready, draining, 24 connections left, 9 s to wait"), (True, "ready, drained, 24 connections left")],
)
def test_a_hand_over_shows_what_is_left(done: bool, words: str) -> None:
    spaces = [
        NetNamespace("blue", 1, ("192.0.2.46",)),
        NetNamespace("green", 2, ("192.0.2.47",)),
        NetNamespace("red", 3, ("192.0.2.45", "192.0.2.48", "2001:db8:2::45")),
    ]
    nodes = [
        HostSubnet("a", "192.0.2.11", egress_ips=("192.0.2.45", "192.0.2.46", "2001:db8:2::45")),
        HostSubnet("b", "192.0.2.12", egress_ips=("192.0.2.48",)),
    ]
    state = replace(cluster_state(spaces, nodes), pods={("red", "shop"): Pod("red", "shop", "a", ("198.51.100.2",))})
    left = Counter({f"198.51.100.{number}": 1 for number in range(3, 24)} | {"198.51.100.2": 3})
    view = AgentStatus(state, decide(state), ready=True)
    drain = drain_status(view, ["192.0.2.45", "192.0.2.46", "2001:db8:2::45"], {"a"}, left, 9.04, done=done)
    assert drain["connections"] == 24
    assert drain["pods"][0] == {"pod": "red/shop", "ip": "198.51.100.2", "connections": 3}
    assert len(drain["pods"]) == 20
    assert drain["alone"] == ["blue", "red"], "red in one family"
    shown = node_status("a", view, Gateways(3, 5), LocalAssignments("eth0"), NodeState(), [], [], {}, drain)
    assert words in status_text(shown)


def test_every_drop_is_counted_under_a_reason() -> None:
    """No rule drops or refuses without a counter, and no counter is without words."""
    script = replace_script(NodeSettings("a", "eth0", ()), NodeState(), 1450)
    rules = [line for line in script.splitlines() if line.endswith(" drop") and "counter name" not in line]
    assert all("@nd_suppressed" in rule or "arp daddr" in rule for rule in rules), (
        "only neighbours' questions are not counted"
    )
    used = {line.split("counter name ")[1].split()[0] for line in script.splitlines() if "counter name" in line}
    assert used == set(DROPS)


def test_multicast_is_dropped_at_the_outside_interface_alone() -> None:
    """Groups inside the cluster network stay reachable, and a reason has its words."""
    tables = node_tables(NodeSettings("a", "outside0", ()), NodeState(egress=frozenset({"198.51.100.2"})), 1450)
    chains = {chain.name: chain.rules for table in tables for chain in table.chains}
    leading = [rule for rules in chains.values() for rule in rules if rule.endswith(" outbound_multicast")]
    assert leading == ['oifname "outside0" jump outbound_multicast']
    assert [rule.split(" counter ")[1] for rule in chains["outbound_multicast"]] == ["name multicast drop"] * 2
    shown = node_status(
        "a", AgentStatus(), Gateways(3, 5), LocalAssignments("eth0"), NodeState(), [], [], {"multicast": 2}
    )
    assert "dropped 2 packets: from a pod with egress IPs to a group, out of this node" in status_text(shown)
