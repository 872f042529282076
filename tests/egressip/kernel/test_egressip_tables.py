"""The nft tables by themselves: what they stop without any help, and that a change ends where a new load ends."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

import pytest

from egress_router.egressip.node.nft_rules import change_script, replace_script
from egress_router.egressip.node.state import Direct, EgressPath, Gateway, NodeSettings, NodeState, Remote
from lab import LAN, PODS, Lab, NoReply

pytestmark = pytest.mark.root

SERVICE, EGRESS_IP = "203.0.113.25", "192.0.2.45"
SETTINGS = NodeSettings("node-1", "eth0", (LAN[4], LAN[6], PODS[4], PODS[6]))


def test_a_connection_with_another_source_is_stopped_not_passed(make_lab: Callable[..., Lab]) -> None:
    """A connection that began with the node's address goes on with it in conntrack; the guard drops it."""
    lab = make_lab()
    node = lab.nodes[0]
    lab.echo(SERVICE, udp=53)
    client = lab.pod("client")
    ip = str(client.addresses[4])
    with client.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow:
        flow.settimeout(0.5)
        flow.connect((SERVICE, 53))
        flow.send(b"x")
        assert flow.recv(200).decode().startswith(str(node.addresses[4])), "positive control"
        node.add_addresses([EGRESS_IP])
        state = NodeState(
            {ip: Direct.LOCAL_GATEWAY}, {ip: EGRESS_IP}, frozenset({ip}), frozenset({EGRESS_IP}), pods=frozenset({ip})
        )
        node.nft(replace_script(SETTINGS, state, 1450))
        with lab.capture() as capture:
            flow.send(b"x")
            with pytest.raises(TimeoutError):
                flow.recv(200)
            assert not capture.outgoing()
        assert lab.udp(client, SERVICE, 53, payload="x").split()[0] == EGRESS_IP


def test_a_pod_that_no_object_tells_of(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    node = lab.nodes[0]
    lab.echo(SERVICE, udp=53)
    client = lab.pod("client")
    state = NodeState(pods=frozenset({"198.51.100.0/27"}))
    for pass_unknown in (True, False):
        settings = NodeSettings("node-1", "eth0", SETTINGS.cluster, pass_unknown=pass_unknown)
        node.nft(replace_script(settings, state, 1450))
        if pass_unknown:
            assert lab.udp(client, SERVICE, 53, payload="x").split()[0] == str(node.addresses[4])
        else:
            with pytest.raises(NoReply):
                lab.udp(client, SERVICE, 53, payload="x", timeout=0.3)


def some_state(rng: random.Random) -> NodeState:
    pods = [f"198.51.100.{n}" for n in range(2, 12)] + [f"2001:db8:a:1::{n:x}" for n in range(2, 8)]
    chosen = rng.sample(pods, rng.randint(0, len(pods)))
    holders = tuple(
        Gateway(slot, f"n{slot}", f"192.0.2.{slot}") for slot in sorted(rng.sample(range(1, 6), rng.randint(0, 3)))
    )
    ways: list[EgressPath] = [
        Direct.NODE_ADDRESS,
        Direct.NO_GATEWAY,
        Direct.LOCAL_GATEWAY,
        *(Remote(holder.slot) for holder in holders),
    ]
    translated = rng.sample(chosen, rng.randint(0, len(chosen)))
    return NodeState(
        {pod: rng.choice(ways) for pod in chosen},
        {
            pod: rng.choice(["2001:db8:2::45", "2001:db8:2::46"] if ":" in pod else ["192.0.2.45", "192.0.2.46"])
            for pod in translated
        },
        frozenset(rng.sample(chosen, rng.randint(0, len(chosen)))),
        frozenset(rng.sample(["192.0.2.45", "192.0.2.46", "2001:db8:2::45"], rng.randint(0, 3))),
        frozenset(rng.sample(["192.0.2.45", "2001:db8:2::45"], rng.randint(0, 2))),
        frozenset(rng.sample(["198.51.100.64/27", "198.51.100.7", "2001:db8:a:9::/64"], rng.randint(0, 3))),
        frozenset(holder.host_ip for holder in holders),
        holders,
    )


def test_a_change_ends_where_a_new_load_ends(make_lab: Callable[..., Lab]) -> None:
    node = make_lab().nodes[0]
    rng = random.Random(7)

    def listing() -> list[str]:
        tables = [
            node.run(["nft", "list", "table", *table]).stdout
            for table in (["inet", "egress_node"], ["arp", "egress_node"])
        ]
        return sorted(word for table in tables for word in table.replace(",", " ").split())

    before = NodeState()
    node.nft(replace_script(SETTINGS, before, 1450))
    for _ in range(12):
        after = some_state(rng)
        node.nft(change_script(before, after))
        changed = listing()
        node.nft(replace_script(SETTINGS, after, 1450))
        assert changed == listing()
        assert change_script(after, after) == ""
        before = after
