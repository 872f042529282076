"""What is taken of a pod's event without reading the rest says the same as the whole, however a server spells it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import permutations
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from egress_router.egressip.source.api_objects import LabelledParts, PodParts, labelled, pod
from egress_router.errors import EgressRouterError
from egress_router.kubernetes.informer import CHANGES, EventParts, _identity, whole_event

#: Texts that look like the end of where they stand, and like what is looked for.
HOSTILE = [
    '"}},"spec":{"nodeName":"evil"},"status":{"podIPs":[{"ip":"198.51.100.9"}]}}}\n',
    '},"managedFields":[{}]},"spec":{',
    "\\",
    '\\"',
    "\\u0022",
    "\u2028\x00é\U0001f600",
    '{"metadata":{"uid":"other"}}',
]
texts = st.sampled_from(HOSTILE) | st.text(max_size=4)
names = st.sampled_from(
    [
        *("metadata", "spec", "status", "uid", "name", "namespace", "labels", "nodeName", "podIPs", "podIP", "ip"),
        *("phase", "hostNetwork", "resourceVersion", "type", "object", "managedFields", "annotations", "NodeName"),
    ]
)


class Members(tuple[tuple[str, Any], ...]):
    """An object as it is spelled: members in this order, names perhaps twice."""


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(names, inner), max_size=3).map(Members),
    max_leaves=6,
)


def members(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[Members]:
    """Some of these members, each mostly as it should be, among others, in any order."""
    each = [st.tuples(st.just(name), value | value | value | values) for name, value in known.items()]
    listed = st.lists(st.one_of(*each) | st.tuples(names, values), max_size=8)
    complete = st.tuples(*each).flatmap(st.permutations)
    return (listed | complete | complete).map(Members)


labels = st.dictionaries(st.sampled_from(["app", "env", "x"]), texts, max_size=3).map(lambda d: Members(d.items()))
addresses = st.sampled_from(["10.1.2.3", "2001:db8::5", "2001:DB8::0:5", "0.0.0.0", "no address"])
metadata = members(
    uid=st.sampled_from(["u1", "u2"]),
    resourceVersion=st.sampled_from(["7", "12345678901234567890123", "x"]),
    name=texts,
    namespace=texts,
    labels=labels,
    annotations=labels,
    managedFields=values,
)
spec = members(nodeName=st.sampled_from(["a", "b", ""]), hostNetwork=st.booleans(), volumes=values)
status = members(
    phase=st.sampled_from(["Running", "Pending", "Succeeded", "Failed"]),
    podIP=addresses,
    podIPs=st.lists(addresses.map(lambda ip: Members([("ip", ip)])), max_size=2),
    conditions=values,
)
objects = members(kind=st.just("Pod"), apiVersion=st.just("v1"), metadata=metadata, spec=spec, status=status)
events = members(type=st.sampled_from([*CHANGES, "BOOKMARK", "ERROR"]), object=objects)


def spelled(value: object, space: str, *, ascii_only: bool) -> str:
    if isinstance(value, Members):
        inner = [
            f"{json.dumps(name)}{space}:{space}{spelled(item, space, ascii_only=ascii_only)}" for name, item in value
        ]
        return "{" + space + f"{space},{space}".join(inner) + space + "}"
    if isinstance(value, list):
        return "[" + f"{space},".join(spelled(item, space, ascii_only=ascii_only) for item in value) + space + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def meaning(convert: Any, found: tuple[object, Mapping[str, Any]]) -> object:
    kind, raw = found
    try:
        return kind, _identity(raw), convert(raw)
    except EgressRouterError as error:
        return kind, str(error)


@example(Members([("type", "ADDED"), ("object", Members([("metadata", Members([("uid", "\ud800")]))]))]), "", True)
@given(events, st.sampled_from(["", " ", "\t\r"]), st.booleans())
def test_parts_of_a_pod_say_what_the_whole_says(event: Members, space: str, ascii_only: bool) -> None:
    line = (spelled(event, space, ascii_only=ascii_only) + "\n").encode("utf-8", "surrogatepass")
    for shape, convert in ((PodParts, pod), (LabelledParts, labelled)):
        parts = EventParts(shape).of(line)
        if parts is not None:
            assert meaning(convert, parts) == meaning(convert, whole_event(line))


@pytest.mark.parametrize("kind", CHANGES)
def test_usual_events_are_read_in_parts_whatever_the_order(kind: str) -> None:
    """Positive control: what a server sends is not left to the way that reads all."""
    metadata = {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "9", "labels": {"env": HOSTILE[0]}}
    parts = {
        "kind": "Pod",
        "metadata": {"managedFields": [{"fieldsV1": {"f:spec": {}}}], **metadata, "annotations": {"a": HOSTILE[0]}},
        "spec": {"nodeSelector": {"nodeName": "b"}, "nodeName": "a", "containers": [{"env": [{"nodeName": "c"}]}]},
        "status": {"podIPs": [{"ip": "10.1.2.3"}, {"ip": "2001:db8::5"}], "podIP": "10.1.2.3", "phase": "Running"},
    }
    reader = EventParts(PodParts)
    for order in permutations(parts):
        event = {"type": kind, "object": {name: parts[name] for name in order}}
        for members_of_event in (event, dict(reversed(event.items()))):
            found = reader.of(json.dumps(members_of_event).encode())
            assert found is not None
            assert found[1].keys() == {"metadata", "spec", "status"}, "nothing else is made an object"
            assert found[1]["metadata"] == metadata
            made = pod(found[1])
            assert made is not None
            assert (made.node, made.ips, made.labels) == ("a", ("10.1.2.3", "2001:db8::5"), (("env", HOSTILE[0]),))


USUAL: Mapping[str, Any] = {
    "metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "9"},
    "spec": {"nodeName": "a"},
    "status": {"phase": "Running", "podIP": "10.1.2.3"},
}


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("metadata", "name", "q"),
        ("metadata", "namespace", "m"),
        ("metadata", "uid", "v"),
        ("metadata", "resourceVersion", "10"),
        ("metadata", "labels", {"env": "x"}),
        ("spec", "nodeName", "b"),
        ("spec", "hostNetwork", True),
        ("status", "phase", "Failed"),
        ("status", "podIP", "10.1.2.4"),
        ("status", "podIPs", [{"ip": "10.1.2.5"}]),
    ],
)
def test_each_field_that_counts_is_among_the_parts(part: str, field: str, value: object) -> None:
    changed = {**USUAL, part: {**USUAL[part], field: value}}
    before, after = (
        EventParts(PodParts).of(json.dumps({"type": "MODIFIED", "object": pod_object}).encode())
        for pod_object in (USUAL, changed)
    )
    assert before is not None
    assert after is not None
    assert meaning(pod, before) != meaning(pod, after)
    assert meaning(pod, after) == meaning(pod, ("MODIFIED", changed))


@pytest.mark.parametrize(
    "event",
    [
        {"type": "BOOKMARK", "object": {"metadata": {"annotations": {"k8s.io/initial-events-end": "true"}}}},
        {"type": "ERROR", "object": {"code": 410, "message": "too old", "metadata": {}}},
        {"type": "ADDED", "object": {"metadata": None}},
        {"type": "ADDED", "object": []},
        {"object": {"metadata": {}}},
    ],
)
def test_other_events_are_read_whole(event: Mapping[str, Any]) -> None:
    assert EventParts(PodParts).of(json.dumps(event).encode()) is None
