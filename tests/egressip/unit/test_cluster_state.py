"""Objects as text → the state, with every problem named."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.inputs import Problems
from egress_router.egressip.api import ClusterState, HostSubnet, NetNamespace, Pod
from egress_router.egressip.source.objects import parse_cluster_state
from tests.support.examples import examples

GOOD = """
kind: NetNamespace
metadata: {name: toto}
netid: 12
egressIPs: [192.0.2.45, "2001:db8::45"]
---
kind: List
items:
- {kind: HostSubnet, metadata: {name: n1}, hostIP: 192.0.2.11, subnet: 10.1.0.0/24, egressIPCapacity: 4,
   egressCIDRs: [192.0.2.0/24], egressIPs: null, interfaceSubnets: [192.0.2.0/24]}
- kind: Pod
  metadata: {name: web, namespace: toto}
  spec: {nodeName: n1}
  status: {podIPs: [{ip: 10.1.0.7}, {ip: "2001:DB8:1::7"}]}
- {kind: Pod, metadata: {name: waits, namespace: toto}, spec: {}}
- {kind: Pod, metadata: {name: host, namespace: toto}, spec: {nodeName: n1, hostNetwork: true},
   status: {podIP: 192.0.2.11}}
- {kind: Pod, metadata: {name: over, namespace: toto}, spec: {nodeName: n1}, status: {podIP: 10.1.0.7, phase: Failed}}
- {kind: Service, metadata: {name: other}}
"""


def parse(**files: str) -> tuple[ClusterState, list[str]]:
    problems = Problems()
    state = parse_cluster_state({name.replace("_", "."): text for name, text in files.items()}, problems)
    return state, [str(problem) for problem in problems.errors]


def test_objects() -> None:
    state, problems = parse(
        all_yaml=GOOD,
        rest_json='{"kind": "EgressIPAssignment", "metadata": {"name": "x"}, "assignment": {"n1": ["192.0.2.46"]}}',
    )
    assert problems == []
    assert state == ClusterState(
        {"toto": NetNamespace("toto", 12, ("192.0.2.45", "2001:db8::45"))},
        {"n1": HostSubnet("n1", "192.0.2.11", "10.1.0.0/24", (), ("192.0.2.0/24",), 4, ("192.0.2.0/24",))},
        {("toto", "web"): Pod("toto", "web", "n1", ("10.1.0.7", "2001:db8:1::7"))},
        {"n1": ("192.0.2.46",)},
    )


def test_every_problem_is_named() -> None:
    state, problems = parse(
        a_yaml="kind: NetNamespace\nmetadata: {name: p}\negressIPs: 192.0.2.1",
        b_yaml="a: [1\n",
        c_json="{",
        d_yaml="- 7",
        e_yaml="{kind: Pod, metadata: {name: x, namespace: toto}, spec: {nodeName: n1}, status: {podIP: 10.0.0.256}}",
        f_yaml="{kind: HostSubnet, metadata: {name: n1}, hostIP: 1.5, egressIPCapacity: true}",
    )
    assert state == ClusterState()
    text = "\n".join(problems)
    for part in (
        "NetNamespace p: netid",
        "NetNamespace p: egressIPs",
        "b.yaml line 2",
        "c.json line 1",
        "d.yaml",
        "Pod x: status.podIPs",
        "HostSubnet n1: hostIP",
        "HostSubnet n1: egressIPCapacity",
    ):
        assert part in text


def test_an_object_twice() -> None:
    one = "{kind: NetNamespace, metadata: {name: p}, netid: %d}"
    state, problems = parse(b_yaml=one % 2, a_yaml=one % 1)
    assert state.namespaces["p"].netid == 1
    assert len(problems) == 1
    assert "b.yaml" in problems[0]
    assert "a.yaml" in problems[0]


@examples(60)
@given(st.text(max_size=60), st.sampled_from(["x.yaml", "x.json"]))
def test_any_text_is_parsed_or_reported(text: str, name: str) -> None:
    parse_cluster_state({name: text}, Problems())


scalars: st.SearchStrategy[object] = st.one_of(
    st.none(), st.integers(), st.text(max_size=3), st.lists(st.text(max_size=3), max_size=2), st.just({})
)


@given(
    st.dictionaries(
        st.sampled_from(["netid", "egressIPs", "hostIP", "egressCIDRs", "spec", "status", "metadata"]), scalars
    ),
    st.sampled_from(["NetNamespace", "HostSubnet", "Pod", "EgressIPAssignment"]),
)
def test_any_object_is_parsed_or_reported(fields: dict[str, object], kind: str) -> None:
    import json

    problems = Problems()
    parse_cluster_state({"x.json": json.dumps({"metadata": {"name": "n"}, **fields, "kind": kind})}, problems)
