"""Objects of the Kubernetes API as the state that everything is decided from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.egressip.api import Disposition
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.source import api_objects
from egress_router.egressip.source.api_objects import ASSIGNABLE, Unusable, assignment_name
from egress_router.egressip.source.groups import (
    UNKNOWN,
    UNSELECTED,
    ApiObjects,
    Grouping,
    LocalNode,
    cluster_state,
    without_assigned,
)

ME = LocalNode("a", ("192.0.2.11", "2001:db8:1::11"))


def meta(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", **more}


def egress_ip(name: str, ips: list[str], selector: dict[str, Any], created: str = "2026-01-01", **spec: Any) -> Any:
    return api_objects.egress_ip(
        {
            "metadata": meta(name, creationTimestamp=created),
            "spec": {"egressIPs": ips, "namespaceSelector": selector, **spec},
        }
    )


def env(value: str) -> dict[str, Any]:
    return {"matchLabels": {"env": value}}


def pod(name: str, namespace: str, node: str, *ips: str, **labels: str) -> Any:
    return api_objects.pod(
        {
            "metadata": meta(name, namespace=namespace, labels=labels),
            "spec": {"nodeName": node},
            "status": {"podIPs": [{"ip": ip} for ip in ips]},
        }
    )


def labelled(name: str, **labels: str) -> Any:
    return api_objects.labelled({"metadata": meta(name, labels=labels)})


def node(name: str, host_ip: str = "", **spec: Any) -> Any:
    status = {"hostIPs": [host_ip], "interfaceSubnets": ["192.0.2.0/24"]} if host_ip else {}
    return api_objects.egress_node({"metadata": meta(name), "spec": spec, "status": status})


def assigned(address: str, to: str, epoch: int = 1) -> Any:
    return api_objects.assignment(
        {
            "metadata": meta(assignment_name(address)),
            "spec": {"egressIP": address, "node": to, "epoch": epoch},
        }
    )


def objects(*values: Any) -> ApiObjects:
    found = ApiObjects({}, {}, {}, {}, {}, {})
    for value in values:
        table: Any = {
            "EgressIP": found.egress_ips,
            "EgressNode": found.egress_nodes,
            "Assignment": found.assignments,
            "ApiPod": found.pods,
        }[type(value).__name__]
        table[value.uid] = value
    return found


def with_labels(found: ApiObjects, namespaces: list[Any], nodes: list[Any] | None = None) -> ApiObjects:
    found.namespaces = {value.uid: value for value in namespaces}
    found.nodes = {value.uid: value for value in nodes or []}
    return found


SHOP = egress_ip("shop", ["192.0.2.45", "2001:db8::45"], env("shop"))


def test_each_pod_is_in_the_group_of_its_egress_ip() -> None:
    found = with_labels(
        objects(
            SHOP,
            pod("web", "web", "a", "10.0.0.1", "fd00::1"),
            pod("plain", "other", "a", "10.0.0.2"),
            pod("early", "unseen", "a", "10.0.0.3"),
        ),
        [labelled("web", env="shop"), labelled("other")],
    )
    pods = Grouping().follow(found)
    assert {(p.namespace, p.name, p.ips) for p in pods.values()} == {
        ("shop", "web/web", ("10.0.0.1", "fd00::1")),
        (UNSELECTED, "other/plain", ("10.0.0.2",)),
        (UNKNOWN, "unseen/early", ("10.0.0.3",)),
    }
    decision = decide(cluster_state(found, pods, ME))
    assert decision.namespaces[UNSELECTED].disposition is Disposition.NORMAL
    assert decision.namespaces["shop"].disposition is Disposition.DROP, "no node has its addresses"
    assert UNKNOWN not in decision.namespaces, "a pod whose namespace is not known yet is dropped"


def test_the_oldest_egress_ip_counts_then_the_first_name() -> None:
    older = egress_ip("z-older", ["192.0.2.50"], env("shop"), "2025-12-31T00:00:00Z")
    twin = egress_ip("a-twin", ["192.0.2.51"], env("shop"), "2026-01-01")
    found = with_labels(objects(SHOP, twin, pod("p", "web", "a", "10.0.0.1")), [labelled("web", env="shop")])
    assert {p.namespace for p in Grouping().follow(found).values()} == {"a-twin"}
    found.egress_ips = {**found.egress_ips, older.uid: older}
    assert {p.namespace for p in Grouping().follow(found).values()} == {"z-older"}


def test_a_change_of_labels_or_selectors_is_a_change_of_group() -> None:
    grouping = Grouping()
    canary = egress_ip(
        "canary", ["192.0.2.50"], env("shop"), "2025-01-01", podSelector={"matchLabels": {"track": "canary"}}
    )
    found = with_labels(
        objects(SHOP, canary, pod("p", "web", "a", "10.0.0.1", track="canary")), [labelled("web", env="shop")]
    )

    def group() -> str:
        return next(iter(grouping.follow(found).values())).namespace

    assert group() == "canary"
    found.pods = {"uid-p": pod("p", "web", "a", "10.0.0.1", track="stable")}
    assert group() == "shop"
    found.namespaces = {"uid-web": labelled("web", env="test")}
    assert group() == UNSELECTED
    found.egress_ips = {"uid-shop": egress_ip("shop", ["192.0.2.45"], env("test"))}
    assert group() == "shop"


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        ({}, {"podIP": "10.0.0.1"}),
        ({"nodeName": "a", "hostNetwork": True}, {"podIP": "192.0.2.11"}),
        ({"nodeName": "a"}, {"podIP": "10.0.0.1", "phase": "Succeeded"}),
        ({"nodeName": "a"}, {"podIP": "10.0.0.1", "phase": "Failed"}),
        ({"nodeName": "a"}, {}),
    ],
)
def test_pods_that_have_no_traffic_of_their_own(spec: dict[str, Any], status: dict[str, Any]) -> None:
    assert api_objects.pod({"metadata": meta("p", namespace="n"), "spec": spec, "status": status}) is None


def test_a_pending_pod_with_an_address_counts() -> None:
    raw = {"metadata": meta("p", namespace="n"), "spec": {"nodeName": "a"}, "status": {"podIP": "10.0.0.1"}}
    found = api_objects.pod({**raw, "status": {"podIP": "10.0.0.1", "phase": "Pending"}})
    assert found is not None
    assert found.ips == ("10.0.0.1",), "init containers send while the phase is Pending"


def test_two_objects_of_one_name_both_count() -> None:
    first, second = pod("p", "web", "a", "10.0.0.1"), pod("p", "web", "a", "10.0.0.2")
    found = with_labels(objects(SHOP), [labelled("web", env="shop")])
    found.pods = {"old": first, "new": second}
    assert sorted(ip for p in Grouping().follow(found).values() for ip in p.ips) == ["10.0.0.1", "10.0.0.2"]


def test_the_agent_uses_what_it_knows_of_its_own_node() -> None:
    state = cluster_state(objects(node("a", "198.51.100.9"), node("b", "192.0.2.12"), node("new")), {}, ME)
    assert {name: host.host_ip for name, host in state.nodes.items()} == {"a": "192.0.2.11", "b": "192.0.2.12"}
    assert cluster_state(objects(), {}, ME).nodes["a"].host_ip == "192.0.2.11", "before the controller has made it"


def test_recorded_assignments_by_node() -> None:
    found = objects(
        assigned("2001:db8::", "b"), assigned("192.0.2.45", "a"), assigned("192.0.2.9", "a"), assigned("192.0.2.7", "")
    )
    state = cluster_state(found, {}, ME)
    assert state.assignment == {"a": ("192.0.2.9", "192.0.2.45"), "b": ("2001:db8::",)}
    listed = cluster_state(objects(node("a", "192.0.2.11", egressIPs=["192.0.2.45", "2001:DB8::1"])), {}, ME)
    less = without_assigned(listed, "a", {"192.0.2.45", "2001:db8::1"})
    assert less.nodes["a"].egress_ips == ()
    assert without_assigned(state, "a", {"192.0.2.45"}).assignment["a"] == ("192.0.2.9",)


@pytest.mark.parametrize(("by_hand", "staying"), [([], {"192.0.2.45": "a"}), (["192.0.2.45"], {})])
def test_an_address_that_is_listed_by_hand_by_now_stays_no_more(by_hand: list[str], staying: dict[str, str]) -> None:
    """Or it would stand on two nodes, and nobody would have it."""
    shop = egress_ip("shop", ["192.0.2.45"], env("shop"))
    given = replace(assigned("192.0.2.45", "a"), stays=True)
    found = with_labels(
        objects(shop, node("a", "192.0.2.11"), node("b", "192.0.2.12", egressIPs=by_hand), given),
        [],
        [labelled("a", **{ASSIGNABLE: ""}), labelled("b")],
    )
    assert cluster_state(found, {}, None).staying == staying


@pytest.mark.parametrize(
    ("address", "name"),
    [("192.0.2.45", "192.0.2.45"), ("2001:db8::5", "2001-db8--5"), ("2001:db8::", "2001-db8--0")],
)
def test_the_name_of_an_assignment(address: str, name: str) -> None:
    assert assignment_name(address) == name


@pytest.mark.parametrize("own_nodes", [False, True], ids=["by label", "one object chooses its nodes"])
def test_which_nodes_may_be_given_which_address(own_nodes: bool) -> None:
    special = egress_ip(
        "special",
        ["192.0.2.60"],
        env("special"),
        egressNodeSelector={"matchLabels": {"zone": "b"}} if own_nodes else {},
    )
    found = with_labels(
        objects(
            SHOP,
            special,
            node("a", "192.0.2.11"),
            node("b", "192.0.2.12"),
            node("c", "192.0.2.13", egressCIDRs=["192.0.2.44/31"]),
            node("d", "192.0.2.14"),
        ),
        [],
        [labelled("a", **{ASSIGNABLE: ""}), labelled("b", zone="b"), labelled("c"), labelled("d")],
    )
    decision = decide(cluster_state(found, {}, None))
    holders = {ip: name for name, ips in decision.assignment.items() for ip in ips}
    if own_nodes:
        assert holders == {"192.0.2.45": "c", "192.0.2.60": "b"} or holders == {"192.0.2.45": "a", "192.0.2.60": "b"}
    else:
        assert holders["192.0.2.60"] == "a"
        assert holders["192.0.2.45"] in ("a", "c")
    assert "d" not in decision.assignment
    assert "2001:db8::45" not in holders, "outside the subnets of every interface"


def test_what_cannot_be_used_is_told_with_what_would_be_right() -> None:
    with pytest.raises(Unusable) as raised:
        egress_ip("bad", [], {"matchExpressions": [{"key": "env", "operator": "Is"}]}, podSelector={"matchLabels": 5})
    told = "\n".join(map(str, raised.value.problems))
    assert "EgressIP bad" in told
    for part in ("spec.egressIPs is empty", "is not an operator", "In, NotIn, Exists", "matchLabels is not a mapping"):
        assert part in told, told


def test_an_empty_selector_of_namespaces_is_refused_here_too() -> None:
    with pytest.raises(Unusable, match="selects nothing in particular"):
        egress_ip("all", ["192.0.2.45"], {})


def test_selectors_of_pods() -> None:
    chosen = egress_ip(
        "chosen",
        ["192.0.2.45"],
        env("shop"),
        podSelector={
            "matchExpressions": [
                {"key": "app", "operator": "In", "values": ["a", "b"]},
                {"key": "old", "operator": "DoesNotExist"},
                {"key": "tier", "operator": "NotIn", "values": ["db"]},
                {"key": "team", "operator": "Exists"},
            ]
        },
    )
    matches = chosen.pod_selector.matches
    assert matches({"app": "a", "team": "x"})
    assert not matches({"app": "c", "team": "x"})
    assert not matches({"app": "a", "team": "x", "old": ""})
    assert not matches({"app": "a", "team": "x", "tier": "db"})
    assert not matches({"app": "a"})
    assert chosen.pod_selector.query() == "app in (a,b),!old,tier notin (db),team"


NAMES = ("p", "q", "r")
labels_of = st.sampled_from([{}, {"env": "shop"}, {"env": "lab"}])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("pod"), st.sampled_from("abcdef"), st.sampled_from(NAMES), st.sampled_from(("web", "lab"))),
        st.tuples(st.just("gone"), st.sampled_from("abcdef"), st.none(), st.none()),
        st.tuples(st.just("labels"), st.sampled_from(("web", "lab")), labels_of, st.none()),
        st.tuples(st.just("object"), st.sampled_from(("one", "two")), labels_of, st.none()),
    ),
    max_size=25,
)


@given(steps)
def test_changes_one_by_one_and_all_at_once_come_to_the_same(steps: list[tuple[str, str, Any, Any]]) -> None:
    grouping = Grouping()
    found = ApiObjects({}, {}, {}, {}, {}, {})
    for number, (kind, name, first, second) in enumerate(steps):
        changes: dict[str, Any] = {}
        if kind in ("pod", "gone"):
            changes[name] = None if kind == "gone" else pod(first, second, "a", f"10.0.0.{number + 1}")
            found.pods = {uid: value for uid, value in {**found.pods, **changes}.items() if value is not None}
        elif kind == "labels":
            found.namespaces = {**found.namespaces, name: labelled(name, **first)}
        elif first:
            found.egress_ips = {**found.egress_ips, name: egress_ip(name, ["192.0.2.45"], {"matchLabels": first})}
        else:
            found.egress_ips = {uid: value for uid, value in found.egress_ips.items() if uid != name}
        step_by_step = grouping.follow(found, changes)
        at_once = Grouping().follow(found)

        def said(pods: dict[tuple[str, str], Any]) -> list[tuple[str, str, tuple[str, ...]]]:
            assert all(key[0] == value.namespace for key, value in pods.items())
            return sorted((p.namespace, p.name, p.ips) for p in pods.values())

        assert said(step_by_step) == said(at_once)
        assert len(step_by_step) == len(found.pods)
