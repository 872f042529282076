"""The planner that remembers: after any changes it says what a plan from scratch says, and what the wording says."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from egress_router.egressip.api import ClusterState, HostSubnet, NetNamespace, Pod
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.node.nft_rules import node_tables
from egress_router.egressip.node.plan import PlanInputs, Planner, node_plan
from egress_router.egressip.node.state import Direct, Gateway, NodeSettings, NodeState, Remote
from egress_router.egressip.node.table_maker import TableMaker
from tests.egressip.unit.plan_oracle import PlanOracle
from tests.support.examples import examples

PODS = (*(f"198.51.100.{n}" for n in range(2, 7)), "2001:db8:a::2", "192.0.2.11")
IPS = ("192.0.2.45", "192.0.2.46", "2001:db8:2::45", "2001:DB8:2::46")
CANONICAL = ("192.0.2.45", "192.0.2.46", "2001:db8:2::45", "2001:db8:2::46")
NAMES = ("p", "q", "r", "unknown")

pods = st.dictionaries(
    st.tuples(st.sampled_from(NAMES), st.sampled_from("xyz")),
    st.tuples(st.sampled_from("abc"), st.lists(st.sampled_from(PODS), min_size=1, max_size=2, unique=True)),
    max_size=6,
).map(lambda found: {key: Pod(key[0], key[1], node, tuple(ips)) for key, (node, ips) in found.items()})


@dataclass
class Inputs:
    """Everything a plan depends on but its pods."""

    state: ClusterState
    offline: frozenset[str]
    slots: dict[str, int]
    assigned: frozenset[str]
    pending: frozenset[str]
    draining: frozenset[str]
    unconfirmed: dict[str, frozenset[str]]

    def inputs(self) -> PlanInputs:
        decision = decide(self.state, self.offline)
        return PlanInputs(
            "a",
            self.state.namespaces,
            self.state.nodes,
            decision,
            self.slots,
            self.assigned,
            self.pending,
            self.draining,
            self.unconfirmed,
        )


nodes = st.frozensets(st.sampled_from("abc"), max_size=2)
some_nodes = st.frozensets(st.sampled_from("abc"), min_size=1, max_size=2)


@st.composite
def all_inputs(draw: st.DrawFn) -> Inputs:
    lists = st.lists(st.sampled_from(IPS), max_size=3, unique=True).map(tuple)
    spaces = {name: NetNamespace(name, 1, draw(lists), draw(st.sampled_from([(), ("10.0.0.0/8",)]))) for name in "pqr"}
    hosts = {
        name: HostSubnet(name, f"192.0.2.{11 + number}", egress_ips=draw(lists)) for number, name in enumerate("abc")
    }
    return Inputs(
        ClusterState(spaces, hosts),
        draw(nodes),
        draw(st.dictionaries(st.sampled_from("bc"), st.integers(1, 3), max_size=2)),
        draw(st.frozensets(st.sampled_from(CANONICAL), max_size=3)),
        draw(st.frozensets(st.sampled_from(CANONICAL), max_size=2)),
        draw(nodes),
        draw(
            st.dictionaries(
                st.sampled_from(PODS), st.frozensets(st.sampled_from("abc"), min_size=1, max_size=2), max_size=2
            )
        ),
    )


@given(st.lists(st.tuples(st.one_of(st.none(), all_inputs()), pods), min_size=1, max_size=4), all_inputs())
@examples(200, deadline=None)
def test_any_changes_end_where_a_plan_from_scratch_ends(
    steps: list[tuple[Inputs | None, dict[tuple[str, str], Pod]]], now: Inputs
) -> None:
    planner = Planner()
    for changed, present in steps:
        now = changed or now
        inputs = now.inputs()
        plan = planner.plan(inputs, present, frozenset(), now.slots)
        state = replace(now.state, pods=dict(reversed(present.items())))
        assert plan == node_plan(
            "a",
            state,
            inputs.decision,
            now.slots,
            now.assigned,
            pending=now.pending,
            draining=now.draining,
            unconfirmed=now.unconfirmed,
        ), "whatever the order of the pods is"
        oracle = PlanOracle(
            "a", state, inputs.decision, now.slots, now.assigned, now.pending, now.draining, now.unconfirmed
        )
        assert dict(plan.paths) == oracle.paths
        assert dict(plan.translations) == oracle.translations
        assert plan.egress == oracle.egress
        assert plan.duplicate_pod_ips.keys() == oracle.duplicates
        assert dict(plan.translating_nodes) == oracle.translating


def test_a_plan_does_not_change_afterwards() -> None:
    state = ClusterState(
        {"p": NetNamespace("p", 1, ("192.0.2.45",))},
        {"a": HostSubnet("a", "192.0.2.11", egress_ips=("192.0.2.45",))},
    )
    inputs = Inputs(state, frozenset(), {}, frozenset({"192.0.2.45"}), frozenset(), frozenset(), {}).inputs()
    planner = Planner()
    one = {("p", "x"): Pod("p", "x", "b", ("198.51.100.2",))}
    first = planner.plan(inputs, one, frozenset(), {})
    before = replace(first)
    second = planner.plan(inputs, {**one, ("p", "y"): Pod("p", "y", "a", ("198.51.100.3",))}, frozenset(), {})
    assert first == before
    assert second.translations == {"198.51.100.2": "192.0.2.45", "198.51.100.3": "192.0.2.45"}


def test_one_pod_more_costs_one_pod(monkeypatch: object) -> None:
    """Of ten thousand pods only the addresses that have changed are looked at."""
    from egress_router.egressip.node import plan as module

    judged: list[str] = []
    judge = module._Here.judge

    def counted(here: object, ip: str, found: object) -> object:
        judged.append(ip)
        return judge(here, ip, found)  # type: ignore[arg-type]

    state = ClusterState(
        {"p": NetNamespace("p", 1, ("192.0.2.45",))},
        {"a": HostSubnet("a", "192.0.2.11", egress_ips=("192.0.2.45",))},
    )
    inputs = Inputs(state, frozenset(), {}, frozenset({"192.0.2.45"}), frozenset(), frozenset(), {}).inputs()
    many = {("p", f"n{n}"): Pod("p", f"n{n}", "b", (f"10.1.{n >> 8}.{n & 255}",)) for n in range(10_000)}
    planner = Planner()
    planner.plan(inputs, many, frozenset(), {})
    monkeypatch.setattr(module._Here, "judge", counted)  # type: ignore[attr-defined]
    changed = {
        **many,
        ("p", "n7"): Pod("p", "n7", "b", ("10.2.0.1",)),
        ("p", "new"): Pod("p", "new", "a", ("10.2.0.2",)),
    }
    changed.pop(("p", "n8"))
    again = PlanInputs(**{name: getattr(inputs, name) for name in inputs.__slots__})
    planner.plan(again, changed, frozenset(), {})
    assert sorted(judged) == ["10.1.0.7", "10.1.0.8", "10.2.0.1", "10.2.0.2"]


addresses = st.sampled_from((*PODS, "2001:db8:a::3"))
states = st.builds(
    NodeState,
    paths=st.dictionaries(addresses, st.sampled_from([Direct.NODE_ADDRESS, Direct.NO_GATEWAY, Remote(1)]), max_size=3),
    translations=st.dictionaries(addresses, st.sampled_from(CANONICAL), max_size=5),
    egress=st.frozensets(addresses, max_size=5),
    assigned=st.frozensets(st.sampled_from(CANONICAL), max_size=2),
    pods=st.frozensets(st.sampled_from(("198.51.100.0/24", "2001:db8:a::/64", "192.0.2.11")), max_size=2),
    gateways=st.sampled_from([(), (Gateway(1, "b", "192.0.2.12"),)]),
    excepted=st.dictionaries(st.just(PODS[0]), st.sampled_from([("10.0.0.0/8",), ("10.0.0.0/9",)]), max_size=1),
)


@given(st.lists(states, min_size=1, max_size=5))
@examples(100, deadline=None)
def test_the_tables_that_are_changed_are_those_from_scratch(steps: list[NodeState]) -> None:
    settings = NodeSettings("a", "eth0", ())
    maker = TableMaker(settings)
    for state in steps:
        tables = maker.make(state, 1450)
        assert tables == node_tables(settings, state, 1450)
        for item, again in zip(
            tables[0].sets, maker.make(replace(state, peers=frozenset()), 1450)[0].sets, strict=True
        ):
            if item.name.rstrip("46") in ("egress_pods", "translated_pods", "allowed_pairs", "snat"):
                assert item.elements is again.elements, "what has not changed is seen at once"


def test_what_was_made_does_not_change_afterwards() -> None:
    maker = TableMaker(NodeSettings("a", "eth0", ()))
    first = maker.make(NodeState(translations={PODS[0]: CANONICAL[0]}), 1450)
    copy = node_tables(NodeSettings("a", "eth0", ()), NodeState(translations={PODS[0]: CANONICAL[0]}), 1450)
    maker.make(NodeState(translations={PODS[1]: CANONICAL[0]}), 1450)
    assert first == copy
