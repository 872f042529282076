"""`migrate egressip`: no pod and no address moves; what cannot go over is named, whatever the objects are."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from egress_router.cli.main import guarded, run
from egress_router.config.inputs import Problems, SourceText
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.assignment.staying import joined, staying, with_staying
from egress_router.egressip.source import api_objects
from egress_router.egressip.source.groups import ApiObjects, cluster_state
from egress_router.kubernetes.selectors import Selector, parse_selector
from egress_router.manifests.egress_ips.fields import MOST_NETWORKS, egress_address, everything_but
from egress_router.manifests.egress_ips.migrate import migrate_egress_ips
from egress_router.manifests.values import Note, NoteKind

GOLDEN = Path(__file__).parents[1] / "golden" / "migrate_egressip"
CASES = sorted(
    path.name
    for path in GOLDEN.iterdir()
    if path.is_dir() and not path.name.startswith("refused-") and not (path / "args").exists()
)
#: Labels of every node; those that a case needs otherwise come after.
LABELS = {
    "k8s.ovn.org/egress-assignable": "",
    "egress-node": "true",
    "network-role": "egress-gateway",
    "egress": "true",
}
OTHER_LABELS = {"shared-addresses": {"egress": "yes"}}


def migrated(*items: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[Note], Problems]:
    problems = Problems()
    text, notes = migrate_egress_ips([SourceText("old.json", "\n".join(map(json.dumps, items)))], problems)
    return list(yaml.safe_load_all(text)), notes, problems


def lost(notes: list[Note]) -> list[str]:
    return [note.text for note in notes if note.kind is NoteKind.LOST]


def egress(name: str, namespaces: Mapping[str, Any], ip: str = "192.0.2.81", node: str = "") -> dict[str, Any]:
    """An Egress of Antrea: several may have one address."""
    return {
        "apiVersion": "crd.antrea.io/v1beta1",
        "kind": "Egress",
        "metadata": {"name": name},
        "spec": {"appliedTo": namespaces, "egressIP": ip, "externalIPPool": "pool"},
        "status": {"egressIP": ip, "egressNode": node},
    }


POOL = {
    "apiVersion": "crd.antrea.io/v1beta1",
    "kind": "ExternalIPPool",
    "metadata": {"name": "pool"},
    "spec": {"nodeSelector": {"matchLabels": {"egress": "true"}}},
}


@pytest.mark.parametrize("case", CASES)
def test_the_controller_leaves_each_address_where_it_is(case: str) -> None:
    """As soon as every node has said that it is there, and though others are idle."""
    items = list(yaml.safe_load_all((GOLDEN / case / "new.yaml").read_text()))
    for number, item in enumerate(items):
        item["metadata"] |= {"uid": str(number), "creationTimestamp": "2026-01-01T00:00:00Z"}
    nodes = {}
    for number, item in enumerate(item for item in items if item["kind"] == "EgressNode"):
        name = item["metadata"]["name"]
        item["status"] = {"hostIPs": [f"198.18.0.{number + 1}"]}
        labels = {**LABELS, **OTHER_LABELS.get(case, {}), "kubernetes.io/hostname": name}
        nodes[name] = api_objects.Labelled(name, name, labels)
    for number in range(2):
        # Nodes that could have everything too, and have nothing.
        name = f"idle-{number}"
        nodes[name] = api_objects.Labelled(
            name, name, {**LABELS, **OTHER_LABELS.get(case, {}), "kubernetes.io/hostname": name}
        )
        spec = {"egressCIDRs": ["192.0.2.0/24"]}
        status = {"hostIPs": [f"198.18.1.{number + 1}"]}
        items.append({"kind": "EgressNode", "metadata": {"name": name, "uid": name}, "spec": spec, "status": status})
    objects = ApiObjects(
        {item["metadata"]["uid"]: api_objects.egress_ip(item) for item in items if item["kind"] == "EgressIP"},
        {item["metadata"]["uid"]: api_objects.egress_node(item) for item in items if item["kind"] == "EgressNode"},
        {
            item["metadata"]["uid"]: api_objects.assignment(item)
            for item in items
            if item["kind"] == "EgressIPAssignment"
        },
        nodes=nodes,
    )
    state = cluster_state(objects, {}, None)
    stay = staying(state, ())
    assert stay == {entry.egress_ip: entry.node for entry in objects.assignments.values()}
    decision = joined(decide(replace(state, nodes=with_staying(state.nodes, stay))), stay)
    for node, ips in state.assignment.items():
        assert set(ips) <= set(decision.assignment[node])
        assert set(ips) <= set(decision.nodes[node].claims)
    for own in objects.egress_nodes.values():
        assert set(own.egress_ips) <= set(decision.nodes[own.name].claims)


# One address, several objects


Selectors = tuple[Selector, Selector]


def selects(selectors: Selectors, namespace: Mapping[str, str], pod: Mapping[str, str]) -> bool:
    return selectors[0].matches(namespace) and selectors[1].matches(pod)


def selectors_of(applied: Mapping[str, Any]) -> Selectors:
    def fail(*_: object) -> None:
        raise AssertionError

    spaces, pods = (parse_selector("", applied[name], fail) for name in ("namespaceSelector", "podSelector"))
    return spaces, pods


KEYS, VALUES = ("kubernetes.io/metadata.name", "team"), ("a", "b", "c")
EXPRESSIONS = st.fixed_dictionaries(
    {
        "matchExpressions": st.lists(
            st.builds(
                lambda key, values: {"key": key, "operator": "In", "values": sorted(values)},
                st.sampled_from(KEYS),
                st.sets(st.sampled_from(VALUES), min_size=1),
            )
            | st.builds(
                lambda key, what: {"key": key, "operator": what}, st.sampled_from(KEYS), st.sampled_from(["Exists"])
            ),
            max_size=2,
        )
    }
)
#: All sets of labels that the selectors tell apart.
EVERY = [
    {key: value for key, value in (("kubernetes.io/metadata.name", name), ("team", team)) if value}
    for name in VALUES
    for team in (*VALUES, "")
]
APPLIED = st.fixed_dictionaries({"namespaceSelector": EXPRESSIONS, "podSelector": EXPRESSIONS})


@given(st.lists(APPLIED, min_size=1, max_size=6), st.integers(0, 5))
def test_what_has_one_address_selects_the_same_pods_as_before(applied: list[Any], holder: int) -> None:
    old = [egress(f"e{number}", one, node="node-1" if number == holder else "") for number, one in enumerate(applied)]
    items, notes, problems = migrated(POOL, *old)
    assert not problems.errors
    written = [item for item in items if item["kind"] == "EgressIP"]
    assert len(written) == 1
    left_out = {note.where for note in notes if note.kind is NoteKind.LOST}
    kept = [item for item in old if f"Egress/{item['metadata']['name']}" not in left_out]
    assert kept
    if holder < len(old) and not left_out:
        assert {"node": "node-1"}.items() <= items[-1]["spec"].items()
    value = api_objects.egress_ip(written[0])
    after = (value.namespace_selector, value.pod_selector)
    before = [selectors_of(item["spec"]["appliedTo"]) for item in kept]
    for namespace in EVERY:
        for pod in EVERY:
            assert selects(after, namespace, pod) == any(selects(one, namespace, pod) for one in before)


def test_many_objects_with_one_address_take_no_longer_for_each() -> None:
    def seconds(count: int) -> float:
        old = [
            egress(f"e{number}", {"namespaceSelector": {"matchLabels": {"team": f"t{number}", "x": str(number % 7)}}})
            for number in range(count)
        ]
        began = time.process_time()
        items, notes, _ = migrated(POOL, *old)
        assert sum(item["kind"] == "EgressIP" for item in items) == 1
        assert lost(notes)
        return time.process_time() - began

    seconds(100)
    assert seconds(4000) < 8 * seconds(1000) + 0.5


def test_of_two_that_no_selector_can_say_the_one_on_a_node_keeps_the_address() -> None:
    first = egress("first", {"namespaceSelector": {"matchLabels": {"team": "a"}}})
    second = egress("second", {"podSelector": {"matchLabels": {"app": "b"}}}, node="node-1")
    items, notes, _ = migrated(POOL, first, second)
    assert [item["metadata"]["name"] for item in items if item["kind"] == "EgressIP"] == ["second"]
    assert any("192.0.2.81 goes to Egress/second" in text for text in lost(notes))


# Destinations


NETWORKS = st.lists(
    st.builds(
        lambda ip, length: str(ip_network((ip, length), strict=False)), st.integers(0, 2**32 - 1), st.integers(1, 32)
    ),
    min_size=1,
    max_size=4,
)


@given(NETWORKS, st.integers(0, 2**32 - 1))
def test_the_networks_around_are_all_others(only: list[str], number: int) -> None:
    around = everything_but(only, {4})
    probe = ip_address(number)
    candidates = [probe, *(ip_network(text)[0] for text in only), *(ip_network(text)[-1] for text in only)]
    for address in candidates:
        inside = any(address in ip_network(text) for text in only)
        assert inside != any(address in ip_network(text) for text in around)


def cilium(**spec: Any) -> dict[str, Any]:
    whole = {
        "selectors": [{"podSelector": {"matchLabels": {"app": "a"}}}],
        "destinationCIDRs": ["0.0.0.0/0"],
        "egressGateway": {"nodeSelector": {"matchLabels": {"egress": "true"}}, "egressIP": "192.0.2.50"},
        **spec,
    }
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": "policy"},
        "spec": whole,
    }


def test_too_many_networks_around_are_named() -> None:
    few = [f"198.51.100.{number}/32" for number in range(0, 20, 2)]
    items, notes, _ = migrated(cilium(destinationCIDRs=few[:3]))
    assert len(items[0]["spec"]["destinations"]["except"]) <= MOST_NETWORKS
    scattered = [f"{number}.1.1.1/32" for number in range(10, 50, 10)]
    items, notes, _ = migrated(cilium(destinationCIDRs=scattered))
    assert items == []
    assert any("more than 64 networks" in text for text in lost(notes))


def test_without_nodes_nobody_knows_where_an_address_of_cilium_is() -> None:
    items, notes, _ = migrated(cilium())
    assert [item["kind"] for item in items] == ["EgressIP"]
    assert any("kubectl get nodes" in text for text in lost(notes))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.45", "192.0.2.45"),
        (" 192.0.2.45\n", "192.0.2.45"),
        ("2001:DB8:0::1", "2001:db8::1"),
        *[(text, None) for text in ("192.0.2.45/24", "0.1.2.3", "240.0.0.1", "255.255.255.255", "127.0.0.1", "::2")],
        *[(text, None) for text in ("::ffff:192.0.2.1", "fe80::1", "fe80::1%eth0", "ff02::1", "224.0.0.1", "x", "")],
    ],
)
def test_addresses_that_a_node_can_hold(text: str, expected: str | None) -> None:
    assert egress_address(text) == expected


# Pools


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"cidr": "192.0.2.64/28"}, {"cidr": "192.0.2.64/28"}),
        ({"cidr": "192.0.2.70/28"}, {"cidr": "192.0.2.64/28"}),
        ({"start": "192.0.2.2", "end": "192.0.2.10"}, {"start": "192.0.2.2", "end": "192.0.2.10"}),
        ({"start": "2001:DB8::2", "end": "2001:db8::a"}, {"start": "2001:db8::2", "end": "2001:db8::a"}),
        *[({"start": first, "end": last}, None) for first, last in (("192.0.2.9", "192.0.2.2"), ("192.0.2.9", "::9"))],
        *[({"cidr": cidr}, None) for cidr in ("0.0.0.0/0", "::/64", "127.0.0.0/8", "x", "192.0.2.1")],
        *[(entry, None) for entry in ({}, {"start": "192.0.2.9"}, {"cidr": None, "start": "192.0.2.9"})],
    ],
)
def test_ranges_of_pools(entry: dict[str, Any], expected: dict[str, str] | None) -> None:
    items, notes, _ = migrated({**POOL, "spec": {"ipRanges": [entry], "nodeSelector": {}}})
    assert [item["spec"]["ipRanges"] for item in items] == ([[expected]] if expected else [])
    assert bool(lost(notes)) == (expected is None)


# Odd and hostile objects


PARSERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "EgressIP": api_objects.egress_ip,
    "EgressNode": api_objects.egress_node,
    "EgressIPAssignment": api_objects.assignment,
    "EgressIPPool": api_objects.egress_ip_pool,
}
JUNK: list[Any] = [None, [], {}, "", "x\x1b[31m", -1, 1e308, True, [[]], [{}], {"a": []}, ["192.0.2.1/24"], "é" * 300]


@pytest.mark.parametrize("case", CASES)
def test_any_value_in_any_place_is_survived(case: str) -> None:
    """Each value of each object, replaced by junk of every kind: an answer, or a problem; never a fault."""
    documents = [item for item in yaml.safe_load_all((GOLDEN / case / "old.yaml").read_text()) if item]
    places: list[tuple[Any, ...]] = []

    def walk(value: Any, path: tuple[Any, ...]) -> None:
        if path:
            places.append(path)
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            walk(value[key], (*path, key))

    walk(documents, ())
    for number, path in enumerate(places):
        mutant = copy.deepcopy(documents)
        inner: Any = mutant
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = JUNK[number % len(JUNK)]
        problems = Problems()
        text, notes = migrate_egress_ips(
            [SourceText("old.json", "\n".join(json.dumps(one) for one in mutant))], problems
        )
        migrate_egress_ips([SourceText("old.json", "\n".join(map(json.dumps, mutant)))], Problems(), to_files=True)
        assert text or notes or problems.errors
        assert all(note.text.isprintable() for note in notes)
        for item in yaml.safe_load_all(text):
            PARSERS[item["kind"]](item)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good = yaml.safe_dump({"kind": "NetNamespace", "metadata": {"name": "shop"}, "egressIPs": ["192.0.2.45"]})
    bad = good.replace("192.0.2.45", "192.0.2.999")
    Path("good.yaml").write_text(good)
    Path("bad.yaml").write_text(bad + "---\n" + good.replace("shop", "lab"))
    Path("broken.yaml").write_text("a: [")

    def code(*words: str) -> int:
        return guarded(lambda: run(["migrate", "egressip", *words]))

    assert code("good.yaml") == 0
    assert code("-f", "good.yaml") == 0
    assert code("bad.yaml") == 65
    assert "name: lab" in capsys.readouterr().out
    assert code("bad.yaml", "--accept-losses") == 0
    assert code() == 2
    assert code("--source", "192.0.2.1", "good.yaml") == 2
    capsys.readouterr()
    assert code("good.yaml", "broken.yaml") == 78
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "broken.yaml" in printed.err
    # A file of that name is no verb.
    Path("egressip").write_text(good)
    assert guarded(lambda: run(["migrate", "./egressip"])) == 78
    assert "has no egress router" in capsys.readouterr().err


@pytest.mark.parametrize("to_files", [False, True])
@pytest.mark.parametrize("word", ["NodeIP", "Drop", None, "nodeip", {}])
def test_what_becomes_of_pods_without_an_address_goes_over(to_files: bool, word: object) -> None:
    space = {"kind": "NetNamespace", "metadata": {"name": "p"}, "netid": 7, "egressIPs": ["192.0.2.45"]}
    ours = {
        "apiVersion": "egress-router.io/v1alpha1",
        "kind": "EgressIP",
        "metadata": {"name": "e"},
        "spec": {
            "egressIPs": ["192.0.2.46"],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "q"}},
        },
    }
    if word is not None:
        space["whenUnavailable"] = ours["spec"]["whenUnavailable"] = word  # type: ignore[index]
    text, notes = migrate_egress_ips(
        [SourceText("old.json", f"{json.dumps(space)}\n{json.dumps(ours)}")], Problems(), to_files=to_files
    )
    written = [item for item in yaml.safe_load_all(text) if item["kind"] in ("EgressIP", "NetNamespace")]
    assert len(written) == 2
    expected = "NodeIP" if word == "NodeIP" else None
    assert [item.get("spec", item).get("whenUnavailable") for item in written] == [expected] * 2
    assert sum("whenUnavailable" in text for text in lost(notes)) == (0 if word in ("NodeIP", "Drop", None) else 2)
