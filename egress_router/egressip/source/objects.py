"""YAML or JSON text with Kubernetes objects → the cluster's state. Field names are those of OpenShift. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from egress_router.config.inputs import Problems
from egress_router.config.kubernetes_yaml import YamlError, parse_documents, parse_json
from egress_router.egressip.api import (
    DROP,
    NODE_IP,
    ClusterState,
    HostSubnet,
    NetNamespace,
    Pod,
    address_key,
    address_text,
    except_network,
)
from egress_router.errors import described

MAX_NETID = 2**24 - 1
MAX_NAME = 253
#: Pods in these phases run no process any more, and their addresses may belong to others.
ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class RecordedAssignment:
    """The automatic assignment as it was written down last: egress IPs by node, the nodes that were offline, and the
    node that takes each address over.
    """

    name: str
    assignment: Mapping[str, tuple[str, ...]]
    offline: tuple[str, ...] = ()
    standbys: Mapping[str, str] = field(default_factory=dict)


ClusterObject = NetNamespace | HostSubnet | Pod | RecordedAssignment


class _Fields:
    """Reads the fields of one object and notes what is wrong with them."""

    def __init__(self, file: str, raw: Mapping[str, Any], problems: Problems) -> None:
        self.raw = raw
        self.file = file
        self.problems = problems
        self.broken = False
        metadata = raw.get("metadata")
        self.metadata: Mapping[str, Any] = metadata if isinstance(metadata, Mapping) else {}
        name = self.metadata.get("name")
        self.label = f"{described(raw.get('kind'))} {described(name)}"
        self.name = name if isinstance(name, str) else ""
        if not self.name or len(self.name) > MAX_NAME:
            self.wrong("metadata.name", name, "is not a name", f"text of 1 to {MAX_NAME} characters")

    def wrong(self, field: str, value: object, message: str, expected: str) -> None:
        """Note a problem; the object will not be used."""
        self.broken = True
        shown = "" if value is None else described(value)
        self.problems.error(self.file, None, shown, f"{self.label}: {field} {message}", expected)

    def texts(self, field: str) -> tuple[str, ...]:
        """Return a list of texts; absent and null are empty. What stands in the texts is judged later."""
        value = self.raw.get(field)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.wrong(field, value, "is not a list of texts", "such as [192.0.2.45, 192.0.2.54]")
            return ()
        return tuple(value)

    def networks(self, field: str) -> tuple[str, ...]:
        """Return a list of networks without host bits, as canonical text."""
        found = []
        for text in self.texts(field):
            network, expected = except_network(text)
            if expected:
                self.wrong(field, text, "is not a network without host bits", expected)
            found.append(network)
        return tuple(dict.fromkeys(found))

    def text(self, field: str) -> str:
        """Return a text; absent and null are empty."""
        value = self.raw.get(field)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.wrong(field, value, "is not a text", "an address or a CIDR in quotes")
            return ""
        return value

    def number(self, field: str, highest: int | None, *, needed: bool) -> int | None:
        """Return a whole number from 0; absent is None, a problem when it is needed."""
        value = self.raw.get(field)
        if value is None and not needed:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= (highest or value):
            return value
        limit = "0 or more" if highest is None else f"0 to {highest}"
        self.wrong(field, value, "is not a number that fits", f"a whole number, {limit}")
        return None


def parse_object(file: str, raw: object, problems: Problems) -> ClusterObject | None:
    """Return the value of one object; None when it is of no kind that matters, or when a problem was noted."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("kind"), str):
        problems.error(file, None, described(raw), "is not a Kubernetes object", "a mapping with kind and metadata")
        return None
    make = _KINDS.get(raw["kind"])
    if make is None:
        return None
    fields = _Fields(file, raw, problems)
    made = make(fields)
    return None if fields.broken else made


def _net_namespace(fields: _Fields) -> NetNamespace:
    netid = fields.number("netid", MAX_NETID, needed=True)
    when = fields.raw.get("whenUnavailable")
    if when not in (None, DROP, NODE_IP):
        fields.wrong("whenUnavailable", when, "says nothing that is known", f"{DROP} or {NODE_IP}")
    listed, excepted = fields.texts("egressIPs"), fields.networks("except")
    return NetNamespace(fields.name, netid or 0, listed, excepted, node_ip=when == NODE_IP)


def _host_subnet(fields: _Fields) -> HostSubnet:
    return HostSubnet(
        fields.name,
        fields.text("hostIP"),
        fields.text("subnet"),
        fields.texts("egressIPs"),
        fields.texts("egressCIDRs"),
        fields.number("egressIPCapacity", None, needed=False),
        fields.texts("interfaceSubnets"),
    )


def _pod(fields: _Fields) -> Pod | None:
    """A pod counts from when it has a node and addresses of its own until it has ended."""
    spec, status = fields.raw.get("spec") or {}, fields.raw.get("status") or {}
    namespace = fields.metadata.get("namespace")
    if not isinstance(namespace, str) or not namespace:
        fields.wrong("metadata.namespace", namespace, "is not a name", "the name of the pod's namespace")
    if not isinstance(spec, Mapping) or not isinstance(status, Mapping):
        fields.wrong("spec and status", None, "are not mappings", "as Kubernetes writes them")
        return None
    node = spec.get("nodeName")
    if not node or spec.get("hostNetwork") is True or status.get("phase") in ENDED:
        return None
    if not isinstance(node, str):
        fields.wrong("spec.nodeName", node, "is not a name", "the name of the pod's node")
        return None
    listed = status.get("podIPs")
    entries = listed if isinstance(listed, list) and listed else [{"ip": status.get("podIP")}]
    ips = []
    for entry in entries:
        ip = entry.get("ip") if isinstance(entry, Mapping) else entry
        if ip is None:
            continue
        key = address_key(ip) if isinstance(ip, str) else None
        if key is None:
            fields.wrong("status.podIPs", ip, "is not the address of a pod", "such as [{ip: 192.0.2.7}]")
        else:
            ips.append(address_text(key))
    return Pod(str(namespace), fields.name, node, tuple(ips)) if ips else None


def _assignment(fields: _Fields) -> RecordedAssignment:
    value = fields.raw.get("assignment") or {}
    if not isinstance(value, Mapping) or not all(
        isinstance(node, str) and isinstance(ips, list) and all(isinstance(ip, str) for ip in ips)
        for node, ips in value.items()
    ):
        fields.wrong("assignment", None, "is not a mapping of nodes to lists", "such as {node-1: [192.0.2.45]}")
        return RecordedAssignment(fields.name, {})
    standbys = fields.raw.get("standbys") or {}
    if not isinstance(standbys, Mapping) or not all(
        isinstance(word, str) for pair in standbys.items() for word in pair
    ):
        fields.wrong("standbys", None, "is not a mapping of addresses to nodes", "such as {192.0.2.45: node-2}")
        standbys = {}
    assignment = {node: tuple(ips) for node, ips in value.items()}
    return RecordedAssignment(fields.name, assignment, fields.texts("offline"), dict(standbys))


_KINDS: dict[str, Callable[[_Fields], ClusterObject | None]] = {
    "NetNamespace": _net_namespace,
    "HostSubnet": _host_subnet,
    "Pod": _pod,
    "EgressIPAssignment": _assignment,
}


def parse_objects(file: str, text: str, problems: Problems) -> list[ClusterObject]:
    """Return the objects in one file: JSON, or YAML with any number of documents, Lists unpacked.

    Objects of other kinds are passed over. ``file`` is the name to blame. An object with a problem is left out.
    """
    found = []
    for document in documents(file, text, problems):
        for raw in unpacked(document):
            parsed = parse_object(file, raw, problems)
            if parsed is not None:
                found.append(parsed)
    return found


def documents(file: str, text: str, problems: Problems) -> list[object]:
    """Return the documents of a file as plain data; none when the text is neither JSON nor YAML."""
    try:
        if file.endswith(".json"):
            return [parse_json(text)]
        return [document.value for document in parse_documents(text)]
    except YamlError as error:
        problems.error(file, error.line, "", error.message)
    return []


def unpacked(document: object, kind: str = "") -> Iterator[object]:
    """Yield the object, or the items of a List (as ``kubectl get -o yaml`` prints), NetNamespaceList …, whose own kind
    may be left out there.
    """
    if isinstance(document, Mapping):
        written = document.get("kind")
        own = written if isinstance(written, str) and written else kind
        items = document.get("items")
        if own.endswith("List") and isinstance(items, list):
            for item in items:
                yield from unpacked(item, own.removesuffix("List"))
            return
        if own and "kind" not in document:
            document = {"kind": own, **document}
    yield document


def assemble(files: Mapping[str, list[ClusterObject]], problems: Problems) -> ClusterState:
    """Put the objects of all files together. Of an object that stands in two places the one in the file with the
    first name counts, and that is a problem: nobody can tell which one is meant.
    """
    namespaces: dict[str, NetNamespace] = {}
    nodes: dict[str, HostSubnet] = {}
    pods: dict[tuple[str, str], Pod] = {}
    assignments: dict[str, RecordedAssignment] = {}
    where: dict[tuple[str, str], str] = {}
    for file in sorted(files):
        for item in files[file]:
            identity = (type(item).__name__, f"{item.namespace}/{item.name}" if isinstance(item, Pod) else item.name)
            if isinstance(item, RecordedAssignment):
                identity = ("EgressIPAssignment", "")
            if identity in where:
                problems.error(
                    file,
                    None,
                    identity[1],
                    f"this {identity[0]} stands in {where[identity]} too",
                    "one object of a name",
                )
                continue
            where[identity] = file
            if isinstance(item, NetNamespace):
                namespaces[item.name] = item
            elif isinstance(item, HostSubnet):
                nodes[item.name] = item
            elif isinstance(item, Pod):
                pods[item.namespace, item.name] = item
            else:
                assignments[item.name] = item
    recorded = next(iter(assignments.values()), None)
    if recorded is None:
        return ClusterState(namespaces, nodes, pods)
    return ClusterState(
        namespaces, nodes, pods, dict(recorded.assignment), recorded.offline, standbys=recorded.standbys
    )


def parse_cluster_state(files: Mapping[str, str], problems: Problems) -> ClusterState:
    """Return the state that the files (name → text) describe together."""
    return assemble({file: parse_objects(file, text, problems) for file, text in files.items()}, problems)


#: The kinds that decide; objects of others are passed over.
KINDS = tuple(_KINDS)
