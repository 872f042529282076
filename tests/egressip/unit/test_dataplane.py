"""What the agent does to its kernel, change by change, on fakes of nftables and rtnetlink: at no moment is there a path
by which a packet leaves with a wrong source.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from egress_router.egressip.node import dataplane as dataplane_module
from egress_router.egressip.node import tunnel as tunnel_module
from egress_router.egressip.node.claims import egress_ips
from egress_router.egressip.node.dataplane import NodeDataplane
from egress_router.egressip.node.nft_rules import INET, except_chain
from egress_router.egressip.node.routes import present_slots
from egress_router.egressip.node.state import TUNNEL, Direct, Gateway, NodeSettings, NodeState, Remote
from egress_router.net.nft.fake import FakeNft
from egress_router.net.nft.values import NftTable
from egress_router.net.rtnetlink.fake import FakeRtnetlink
from egress_router.net.rtnetlink.values import Link

OUTSIDE = Link(2, "eth0", "veth", "02:00:00:00:00:01", 1500, up=True, lower_up=True)
HOST_IP, POD, OTHER, OWN, SECOND = "192.0.2.11", "198.51.100.2", "198.51.101.2", "192.0.2.45", "192.0.2.46"
B, C = Gateway(1, "b", "192.0.2.12"), Gateway(2, "c", "192.0.2.13")
ALL = NodeState(
    pods=frozenset({"198.51.100.0/24", POD}), egress=frozenset({POD}), peers=frozenset({B.host_ip, C.host_ip})
)

#: States that an agent comes from and goes to.
STATES = {
    "nobody": replace(ALL, paths={POD: Direct.NO_GATEWAY}),
    "by b": replace(ALL, paths={POD: Remote(1)}, gateways=(B,), probed=(B,)),
    "by c": replace(ALL, paths={POD: Remote(2)}, gateways=(C,), probed=(C,)),
    "by b, c drains": replace(ALL, paths={POD: Remote(1)}, gateways=(B, C), probed=(B, C), draining=frozenset({2})),
    "here": replace(ALL, paths={POD: Direct.LOCAL_GATEWAY}, translations={POD: OWN}, assigned=frozenset({OWN})),
    "here with another": replace(
        ALL,
        paths={POD: Direct.LOCAL_GATEWAY},
        translations={POD: SECOND, OTHER: SECOND},
        egress=frozenset({POD, OTHER}),
        assigned=frozenset({SECOND}),
    ),
    "here, some directly": replace(
        ALL,
        paths={POD: Direct.LOCAL_GATEWAY},
        translations={POD: OWN},
        assigned=frozenset({OWN}),
        excepted={POD: ("10.0.0.0/8",)},
    ),
    "by b, others directly": replace(
        ALL, paths={POD: Remote(1)}, gateways=(B,), probed=(B,), excepted={POD: ("10.0.0.0/8", "192.168.0.0/16")}
    ),
    "for others": replace(
        ALL,
        paths={POD: Remote(1)},
        gateways=(B,),
        probed=(B,),
        translations={OTHER: OWN},
        assigned=frozenset({OWN, SECOND}),
    ),
}


class Wrong(AssertionError):
    """A packet could leave with a wrong source now."""


class Kernel:
    """A node's kernel in memory, looked at before and after each change."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.started = False
        #: What is translated to although it has gone to another node.
        self.lingering: set[str] = set()
        self.netlink = FakeRtnetlink([OUTSIDE], self._before)
        self.nft = LookedAtNft(self)

    def _before(self, name: str) -> None:
        self.look()
        self.steps.append(name)

    def look(self) -> None:
        """Raise Wrong when what stands now would let a packet out with a wrong source."""
        table = self.nft.tables.get(INET)
        if table is None:
            if self.netlink.link(TUNNEL) is not None:
                raise Wrong("what comes out of the tunnel is judged by nobody")
            return
        chains = {chain.name for chain in table.chains}
        if lost := jumps(table) - chains:
            raise Wrong(f"jumps to chains that are not there, so the kernel refuses all: {lost}")
        own = egress_ips(self.netlink, OUTSIDE)
        if missing := translated_to(table) - own - self.lingering:
            raise Wrong(f"translated to what this machine does not have: {missing}")
        if self.started and (missing_slots := slots(table) - set(present_slots(self.netlink).values())):
            raise Wrong(f"sent where nothing leads: {missing_slots}")


class LookedAtNft(FakeNft):
    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self._kernel = kernel

    def _store(self, what: str, tables: Iterable[NftTable], remove: Iterable[str] = ()) -> None:
        super()._store(what, tables, remove)
        self._kernel.steps.append(what)
        self._kernel.look()


def translated_to(table: NftTable) -> set[str]:
    """Return the addresses that pods are translated to."""
    return {
        value.split()[-1]
        for item in table.sets
        if item.name.startswith("snat")
        for value in item.elements.values()
        if value
    }


def jumps(table: NftTable) -> set[str]:
    """Return the chains that elements lead to."""
    values = (str(value) for item in table.sets for value in item.elements.values())
    return {value.split()[1] for value in values if value.startswith(("jump ", "goto "))}


def slots(table: NftTable) -> set[int]:
    """Return the slots of the gateways that new connections of pods are sent to."""
    values = (str(value) for item in table.sets if item.name.startswith("path") for value in item.elements.values())
    return {int(found[1]) for value in values if (found := re.search(r"gateway_(\d+)", value))}


class Watch:
    tunnel = 0

    def __init__(self, *_: object) -> None:
        pass


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()

    def noted(name: str, result: Any) -> None:
        def note(*_: object) -> Any:
            kernel.look()
            kernel.steps.append(name)
            return result

        monkeypatch.setattr(dataplane_module, name, note)

    monkeypatch.setattr(dataplane_module, "tables", lambda: kernel.nft)
    monkeypatch.setattr(dataplane_module, "Rtnetlink", lambda: kernel.netlink)
    monkeypatch.setattr(dataplane_module, "NetworkWatch", Watch)
    monkeypatch.setattr(dataplane_module, "assigned_before", frozenset)
    monkeypatch.setattr(dataplane_module, "marks_before", lambda: (0, {}))
    monkeypatch.setattr(tunnel_module, "read_sysctl", lambda item: item.value)
    monkeypatch.setattr(tunnel_module, "set_sysctl", lambda *_: None)
    for name in ("cut_egress_ips", "cut_slot", "cut_stale"):
        noted(name, 0)
    noted("take_over_marks", None)
    return kernel


def agent(kernel: Kernel) -> NodeDataplane:
    return NodeDataplane(NodeSettings("a", OUTSIDE.name, ()), HOST_IP, OUTSIDE, lambda _: None)


def go(dataplane: NodeDataplane, state: NodeState) -> None:
    """Do as the agent does: addresses come before what is translated to them."""
    for ip in sorted(state.assigned):
        dataplane.add(ip)
    dataplane.apply(state)


@pytest.mark.parametrize(("first", "second"), list(permutations(STATES, 2)))
def test_at_no_moment_does_a_packet_leave_with_a_wrong_source(kernel: Kernel, first: str, second: str) -> None:
    dataplane = agent(kernel)
    go(dataplane, STATES[first])
    kernel.look()
    kernel.started = True
    go(dataplane, STATES[second])
    kernel.look()
    table = kernel.nft.tables[INET]
    assert egress_ips(kernel.netlink, OUTSIDE) == STATES[second].assigned
    assert translated_to(table) == set(STATES[second].translations.values())
    assert set(present_slots(kernel.netlink).values()) == {gateway.slot for gateway in STATES[second].gateways}
    excepted = {except_chain(networks) for networks in STATES[second].excepted.values()}
    assert {chain.name for chain in table.chains if chain.name.startswith("except_")} == excepted
    kernel.steps.clear()
    dataplane.apply(STATES[second])
    assert "change" not in kernel.steps, "nothing is left to do"


@pytest.mark.parametrize("name", STATES)
def test_an_agent_that_begins_anew_finds_what_was_left(kernel: Kernel, name: str) -> None:
    go(agent(kernel), STATES[name])
    kernel.started = True
    fresh = agent(kernel)
    assert fresh.adopt() == STATES[name].assigned
    kernel.steps.clear()
    go(fresh, STATES[name])
    assert not {"put", "replace", "change", "remove_address", "add_rule", "remove_rule"} & set(kernel.steps)


def test_connections_are_cut_after_their_path_is_gone_and_before_the_address_goes(kernel: Kernel) -> None:
    dataplane = agent(kernel)
    go(dataplane, STATES["here"])
    kernel.steps.clear()
    go(dataplane, STATES["by b"])
    steps = kernel.steps
    assert steps.index("add_rule") < steps.index("change"), "the path to b before anyone is sent there"
    assert (
        steps.index("change") < steps.index("cut_egress_ips") < steps.index("remove_address") < steps.index("cut_stale")
    )


def test_an_address_that_is_given_away_is_translated_to_and_its_connections_go_on(kernel: Kernel) -> None:
    dataplane = agent(kernel)
    go(dataplane, STATES["here"])
    kernel.steps.clear()
    kernel.lingering = {OWN}
    gives = replace(STATES["here"], assigned=frozenset(), lingering=frozenset({OWN}))
    dataplane.apply(gives)
    assert "remove_address" in kernel.steps
    assert "cut_egress_ips" not in kernel.steps
    assert (egress_ips(kernel.netlink, OUTSIDE), translated_to(kernel.nft.tables[INET])) == (frozenset(), {OWN})
    kernel.steps.clear()
    dataplane.apply(gives)
    assert kernel.steps == ["change"] * kernel.steps.count("change"), "nothing is done twice"
    dataplane.apply(STATES["by b"])
    assert kernel.steps.index("change") < kernel.steps.index("cut_egress_ips"), "nothing makes any again"
    assert translated_to(kernel.nft.tables[INET]) == set()
    dataplane.apply(gives)
    kernel.steps.clear()
    go(dataplane, STATES["here"])
    assert "cut_egress_ips" not in kernel.steps, "it is back"


def test_what_an_earlier_agent_left_keeps_its_connections(kernel: Kernel) -> None:
    go(agent(kernel), STATES["by b"])
    kernel.steps.clear()
    go(agent(kernel), STATES["by c"])
    marks = [at for at, name in enumerate(kernel.steps) if name == "take_over_marks"]
    assert marks[0] < kernel.steps.index("put") < marks[-1], "before the tables change, and once more after it"


def test_the_look_can_fail(kernel: Kernel) -> None:
    dataplane = agent(kernel)
    go(dataplane, STATES["for others"])
    kernel.started = True
    kernel.look()
    kernel.netlink._rules.clear()
    kernel.netlink._routes.clear()
    with pytest.raises(Wrong, match="nothing leads"):
        kernel.look()
    kernel.started = False
    kernel.netlink._addresses.clear()
    with pytest.raises(Wrong, match="does not have"):
        kernel.look()
    kernel.nft.tables.clear()
    with pytest.raises(Wrong, match="nobody"):
        kernel.look()
