"""What nodes that are drained may be given: nothing new, and what only they can have."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from egress_router.egressip.api import ClusterState, Decision, HostSubnet, NetNamespace, cluster_state
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.controller.drained_nodes import decide_drained
from egress_router.net.icmp_probe import DrainPhase

IPS = [f"192.0.2.{number}" for number in range(40, 46)] + ["2001:db8::40", "2001:db8::41"]
ANY = ("192.0.2.0/24", "2001:db8::/64")


def drained(state: ClusterState, given_: Mapping[str, tuple[str, ...]], phases: Mapping[str, DrainPhase]) -> Decision:
    def with_changed(changed: Mapping[str, HostSubnet]) -> Decision:
        return decide(ClusterState(state.namespaces, {**state.nodes, **changed}), present=given_)

    return decide_drained(state.nodes, given_, phases, with_changed)


def test_what_the_node_may_not_have_any_more_does_not_stay() -> None:
    """The drain restricts what its object allows, and never widens it."""
    spaces = [NetNamespace(f"space{number}", number, (ip,)) for number, ip in enumerate(IPS)]
    state = cluster_state(spaces, [HostSubnet("a", "192.0.2.11", egress_cidrs=("192.0.2.40/31",))])
    found = drained(state, {"a": tuple(IPS)}, {"a": DrainPhase.OVER})
    assert found.assignment == {"a": ("192.0.2.40", "192.0.2.41")}


@given(
    st.lists(st.sampled_from(["", "waits", "over"]), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
    st.lists(st.integers(0, 3), min_size=len(IPS), max_size=len(IPS)),
    st.lists(st.integers(0, 4), min_size=len(IPS), max_size=len(IPS)),
)
def test_as_many_have_an_address_as_without_a_drain_and_none_goes_to_a_drained_node(
    phases: list[str], capacities: list[int], spaces: list[int], before: list[int]
) -> None:
    nodes = [
        HostSubnet(f"n{number}", f"192.0.2.{number + 10}", egress_cidrs=ANY, capacity=capacities[number])
        for number in range(len(phases))
    ]
    names: dict[int, list[str]] = {}
    for ip, space in zip(IPS, spaces, strict=True):
        names.setdefault(space, []).append(ip)
    state = cluster_state([NetNamespace(f"s{space}", space, tuple(ips)) for space, ips in names.items()], nodes)
    had = {
        node.name: tuple(ip for ip, at in zip(IPS, before, strict=True) if at == number)
        for number, node in enumerate(nodes)
    }
    # What a node had by a decision, not by chance.
    had = {name: tuple(ips) for name, ips in decide(state, present=had).assignment.items()}
    found = drained(state, had, {f"n{n}": DrainPhase(phase) for n, phase in enumerate(phases) if phase})
    count = sum(map(len, found.assignment.values()))
    assert count == sum(map(len, had.values())), "nothing is dropped because of a drain"
    for number, phase in enumerate(phases):
        kept = set(found.assignment.get(f"n{number}", ()))
        assert not phase or kept <= set(had.get(f"n{number}", ())), "nothing new"
