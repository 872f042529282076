"""Objects of the Kubernetes API → values: EgressIP, EgressNode, EgressIPAssignment, pods, labels. Pure.

The server has checked objects of our own against the schema (deploy/egress-ips/base/crds). What is checked here again
is what the code depends on, so that another version of the schema cannot mislead it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any, TypedDict

from egress_router.egressip.api import (
    DROP,
    NODE_IP,
    address_key,
    address_text,
    except_network,
    family,
    network_range,
)
from egress_router.errors import Problem, described
from egress_router.kubernetes.selectors import EVERYTHING, Selector, parse_selector

GROUP = "egress-router.io"
VERSION = "v1alpha1"
API = f"{GROUP}/{VERSION}"
EGRESS_IPS = f"/apis/{API}/egressips"
EGRESS_NODES = f"/apis/{API}/egressnodes"
ASSIGNMENTS = f"/apis/{API}/egressipassignments"
POOLS = f"/apis/{API}/egressippools"
#: Nodes with this label may be given the addresses of every EgressIP without an egressNodeSelector.
ASSIGNABLE = f"{GROUP}/egress-assignable"
#: The annotation of an EgressIPAssignment that keeps its address where it is, whatever the balance, until the node
#: dies, is drained or may not have it any more.
STAYS = f"{GROUP}/stays"
#: The annotation of an EgressNode by which the controller tells its agent that the Node is cordoned.
CORDONED = f"{GROUP}/cordoned"


@dataclass(frozen=True, slots=True)
class EgressIP:
    """Which pods leave with which addresses. ``created`` is metadata.creationTimestamp: RFC 3339, sorts as text."""

    name: str
    uid: str
    created: str
    generation: int
    egress_ips: tuple[str, ...]
    namespace_selector: Selector
    pod_selector: Selector = EVERYTHING
    node_selector: Selector | None = None
    #: Networks that these pods reach directly.
    excepted: tuple[str, ...] = ()
    #: The pool that addresses are given from, and how many of each family. ``egress_ips`` are then those that were
    #: given, see groups.with_given.
    pool: str = ""
    pool_addresses: int = 1
    #: Whether pods leave as without egress IPs while there is no usable one.
    node_ip: bool = False
    #: The present status, to write only what differs.
    status: str = ""


@dataclass(frozen=True, slots=True)
class EgressNode:
    """A node: what the administrator wants of it (``egress_ips`` to ``drain``), and what its agent says."""

    name: str
    uid: str
    egress_ips: tuple[str, ...] = ()
    egress_cidrs: tuple[str, ...] = ()
    capacity: int | None = None
    drain: bool = False
    host_ips: tuple[str, ...] = ()
    interface_subnets: tuple[str, ...] = ()
    held_ips: frozenset[str] = frozenset()
    pending: Mapping[str, str] | None = None
    ready: bool = False
    #: The controller's word that the Node is cordoned, and the agent's that nothing uses this node any more.
    cordoned: bool = False
    handed_over: bool = False


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which node shall have an address. ``announced``: the reason that its agent gives, "" before it said anything."""

    name: str
    uid: str
    version: str
    egress_ip: str
    node: str
    epoch: int
    announced_by: str = ""
    announced: str = ""
    #: Not to be moved for the balance between nodes.
    stays: bool = False
    #: The uid of the EgressIP that the address of a pool was given to, and the pool; empty when it is of no pool.
    given_to: str = ""
    pool: str = ""
    #: The node that takes the address over, "" when there is none.
    standby: str = ""


@dataclass(frozen=True, slots=True)
class EgressIPPool:
    """A pool of addresses: ``ranges`` are first and last keys, see address_key. ``invalid`` says what is wrong."""

    name: str
    uid: str
    generation: int
    ranges: tuple[tuple[int, int], ...]
    invalid: str = ""
    #: The present status, to write only what differs.
    status: str = ""


@dataclass(frozen=True, slots=True)
class ApiPod:
    """A pod that may send: it has a node and addresses of its own, and has not ended."""

    uid: str
    namespace: str
    name: str
    node: str
    ips: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A Namespace or a Node, of which only the labels matter."""

    name: str
    uid: str
    labels: Mapping[str, str]


class Unusable(Exception):
    """An object from which no value can be made. ``instead`` is what counts where there is no earlier value of it."""

    def __init__(self, problems: list[Problem], instead: object = None) -> None:
        self.problems = tuple(problems)
        self.instead = instead
        super().__init__("; ".join(map(str, problems)))


class _Reader:
    def __init__(self, raw: Mapping[str, Any], kind: str) -> None:
        metadata = raw.get("metadata")
        self.metadata: Mapping[str, Any] = metadata if isinstance(metadata, Mapping) else {}
        self.name = str(self.metadata.get("name") or "")
        self.uid = str(self.metadata.get("uid") or "")
        self.spec = _mapping(raw.get("spec"))
        self.status = _mapping(raw.get("status"))
        self.problems: list[Problem] = []
        self._label = f"{kind} {self.name}"

    def wrong(self, field: str, value: object, message: str, expected: str) -> None:
        """Note what is wrong."""
        shown = "" if value is None else described(value)
        self.problems.append(Problem("the API", None, shown, f"{self._label}: {field} {message}", expected))

    def texts(self, field: str) -> tuple[str, ...]:
        """Return a list of texts in spec."""
        value = self.spec.get(field)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.wrong(f"spec.{field}", value, "is not a list of texts", "such as [192.0.2.45]")
            return ()
        return tuple(value)

    def excepted(self) -> tuple[str, ...]:
        """Return ``spec.destinations.except`` as canonical text. A field of ``destinations`` that is not known here
        may mean anything, so that the object cannot be used.
        """
        field = "spec.destinations"
        value = self.spec.get("destinations")
        if value is None:
            return ()
        if not isinstance(value, Mapping) or not value.keys() <= {"except"}:
            self.wrong(field, value, "is not understood", "except, a list of networks")
            return ()
        listed = value.get("except") or []
        if not isinstance(listed, list):
            self.wrong(f"{field}.except", listed, "is not a list of networks", "such as [10.0.0.0/8]")
            return ()
        found = []
        for item in listed:
            network, expected = except_network(item) if isinstance(item, str) else ("", "such as 10.0.0.0/8")
            if expected:
                self.wrong(f"{field}.except", item, "is not a network without host bits", expected)
            found.append(network)
        return tuple(dict.fromkeys(found))

    def number(self, mapping: Mapping[str, Any], field: str) -> int | None:
        """Return a whole number from 0; absent is None."""
        value = mapping.get(field)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            return value
        self.wrong(f"spec.{field}", value, "is not a number that fits", "a whole number, 0 or more")
        return None

    def selector(self, field: str) -> Selector | None:
        """Return a label selector in spec; absent is None."""
        value = self.spec.get(field)
        return None if value is None else parse_selector(f"spec.{field}", value, self.wrong)

    def done(self) -> None:
        """Raise Unusable when something was wrong."""
        if self.problems:
            raise Unusable(self.problems)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return a condition of a status by its type, empty when it is not there."""
    conditions = status.get("conditions")
    for entry in conditions if isinstance(conditions, list) else []:
        if isinstance(entry, Mapping) and entry.get("type") == kind:
            return entry
    return {}


def egress_ip(raw: Mapping[str, Any], status_of: Callable[[Mapping[str, Any]], str] = lambda _status: "") -> EgressIP:
    """Return the value of an EgressIP. Raises Unusable. ``status_of`` makes of the status what shall be kept."""
    reader = _Reader(raw, "EgressIP")
    namespaces = reader.selector("namespaceSelector")
    if namespaces is None or not namespaces.requirements:
        reader.wrong("spec.namespaceSelector", None, "selects nothing in particular", "labels of namespaces")
    pods = reader.selector("podSelector")
    nodes = reader.selector("egressNodeSelector")
    addresses = reader.texts("egressIPs")
    pool = reader.spec.get("pool")
    if pool is not None and (not isinstance(pool, str) or not pool or addresses):
        reader.wrong("spec.pool", pool, "cannot be used", "the name of a pool, without spec.egressIPs")
    count = reader.number(reader.spec, "poolAddresses")
    when = reader.spec.get("whenUnavailable")
    if when not in (None, DROP, NODE_IP):
        reader.wrong("spec.whenUnavailable", when, "says nothing that is known", f"{DROP} or {NODE_IP}")
    if not addresses and pool is None:
        reader.wrong("spec.egressIPs", None, "is empty", "such as [192.0.2.45]")
    generation = reader.metadata.get("generation")
    excepted = reader.excepted()
    if reader.problems and namespaces is not None and namespaces.requirements:
        # Its pods are meant to leave with an egress IP or not at all, whatever else it says.
        raise Unusable(
            reader.problems,
            EgressIP(
                reader.name,
                reader.uid,
                str(reader.metadata.get("creationTimestamp") or ""),
                generation if isinstance(generation, int) else 0,
                (f"what EgressIP {reader.name} says",),
                namespaces,
                pods or EVERYTHING,
                status=status_of(reader.status),
            ),
        )
    reader.done()
    return EgressIP(
        reader.name,
        reader.uid,
        str(reader.metadata.get("creationTimestamp") or ""),
        generation if isinstance(generation, int) else 0,
        addresses,
        namespaces or EVERYTHING,
        pods or EVERYTHING,
        nodes if nodes and nodes.requirements else None,
        excepted,
        pool or "",
        1 if count is None else count,
        when == NODE_IP,
        status_of(reader.status),
    )


def egress_node(raw: Mapping[str, Any]) -> EgressNode:
    """Return the value of an EgressNode. Raises Unusable."""
    reader = _Reader(raw, "EgressNode")
    status = reader.status
    pending = status.get("pending")
    made = EgressNode(
        reader.name,
        reader.uid,
        reader.texts("egressIPs"),
        reader.texts("egressCIDRs"),
        reader.number(_mapping(reader.spec.get("capacity")), "ip"),
        reader.spec.get("drain") is True,
        _texts(status.get("hostIPs")),
        _texts(status.get("interfaceSubnets")),
        frozenset(_texts(status.get("heldIPs"))),
        {
            str(entry["egressIP"]): str(entry.get("reason") or "")
            for entry in (pending if isinstance(pending, list) else [])
            if isinstance(entry, Mapping) and "egressIP" in entry
        },
        condition(status, "Ready").get("status") == "True",
        _mapping(reader.metadata.get("annotations")).get(CORDONED) == "true",
        _mapping(status.get("drain")).get("phase") == "HandedOver",
    )
    reader.done()
    return made


def assignment(raw: Mapping[str, Any]) -> Assignment:
    """Return the value of an EgressIPAssignment. Raises Unusable."""
    reader = _Reader(raw, "EgressIPAssignment")
    address, epoch = reader.spec.get("egressIP"), reader.number(reader.spec, "epoch")
    key = address_key(address) if isinstance(address, str) else None
    if key is None:
        reader.wrong("spec.egressIP", address, "is not an address that a node can hold", "such as 192.0.2.45")
    announced = condition(reader.status, "Announced")
    given = _mapping(reader.spec.get("givenTo"))
    reader.done()
    return Assignment(
        reader.name,
        reader.uid,
        str(reader.metadata.get("resourceVersion") or ""),
        address_text(key or 0),
        str(reader.spec.get("node") or ""),
        epoch or 0,
        str(reader.status.get("node") or ""),
        str(announced.get("reason") or ""),
        _mapping(reader.metadata.get("annotations")).get(STAYS) == "true",
        str(given.get("uid") or ""),
        str(given.get("pool") or ""),
        str(reader.spec.get("standby") or ""),
    )


def egress_ip_pool(
    raw: Mapping[str, Any], status_of: Callable[[Mapping[str, Any]], str] = lambda _status: ""
) -> EgressIPPool:
    """Return the value of an EgressIPPool. Raises Unusable when it has no list of ranges; a range that is none has no
    addresses, and ``invalid`` says so.
    """
    reader = _Reader(raw, "EgressIPPool")
    listed = reader.spec.get("ipRanges")
    if not isinstance(listed, list):
        reader.wrong("spec.ipRanges", listed, "is not a list of ranges", "such as [{cidr: 192.0.2.64/28}]")
    generation = reader.metadata.get("generation")
    reader.done()
    ranges: list[tuple[int, int]] = []
    invalid: list[str] = []
    for entry in listed or []:
        span = _range(_mapping(entry))
        if span is None:
            invalid.append(f"{described(entry)} is no range: cidr, or start and an end that is not below it")
        else:
            ranges.append(span)
    return EgressIPPool(
        reader.name,
        reader.uid,
        generation if isinstance(generation, int) else 0,
        tuple(ranges),
        "; ".join(invalid),
        status_of(reader.status),
    )


def _range(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    cidr, start, end = (entry.get(name) for name in ("cidr", "start", "end"))
    if isinstance(cidr, str):
        return network_range(cidr)
    first, last = (address_key(text) if isinstance(text, str) else None for text in (start, end))
    if first is None or last is None or first > last or family(first) != family(last):
        return None
    return first, last


def assignment_name(address: str) -> str:
    """Return the name of the EgressIPAssignment of an address in canonical text: ``-`` for ``:``, and a 0 after it
    where the address ends in ``::``, since no name of an object ends in ``-``.
    """
    return address.replace(":", "-") + ("0" if address.endswith(":") else "")


class _Metadata(TypedDict, total=False):
    uid: Any
    resourceVersion: Any
    namespace: Any
    name: Any
    labels: Any


class _PodSpec(TypedDict, total=False):
    nodeName: Any
    hostNetwork: Any


class _PodStatus(TypedDict, total=False):
    phase: Any
    podIP: Any
    podIPs: Any


class PodParts(TypedDict, total=False):
    """What ``pod`` reads of an object, see Informer."""

    metadata: _Metadata
    spec: _PodSpec
    status: _PodStatus


class LabelledParts(TypedDict, total=False):
    """What ``labelled`` reads of an object, see Informer."""

    metadata: _Metadata


#: Pods in these phases run no process any more, and their addresses may belong to others.
ENDED = ("Succeeded", "Failed")
#: The field selector that turns the end of a pod into a deletion.
RUNNING = ",".join(f"status.phase!={phase}" for phase in ENDED)


def pod(raw: Mapping[str, Any]) -> ApiPod | None:
    """Return the value of a pod, None for one that cannot have traffic of its own: without a node or an address, on the
    host's network, or ended. What its phase or readiness is else says nothing about whether it sends.
    """
    metadata, spec, status = _mapping(raw.get("metadata")), _mapping(raw.get("spec")), _mapping(raw.get("status"))
    node = spec.get("nodeName")
    if not isinstance(node, str) or not node or spec.get("hostNetwork") is True or status.get("phase") in ENDED:
        return None
    listed = status.get("podIPs")
    entries = listed if isinstance(listed, list) and listed else [{"ip": status.get("podIP")}]
    ips = []
    for entry in entries:
        text = entry.get("ip") if isinstance(entry, Mapping) else None
        key = address_key(text) if isinstance(text, str) else None
        if key is not None:
            ips.append(address_text(key))
    if not ips:
        return None
    return ApiPod(
        str(metadata.get("uid") or ""),
        intern(str(metadata.get("namespace") or "")),
        str(metadata.get("name") or ""),
        intern(node),
        tuple(ips),
        _labels(metadata),
    )


def _labels(metadata: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    labels = metadata.get("labels")
    if not isinstance(labels, Mapping):
        return ()
    return tuple((intern(str(key)), intern(str(value))) for key, value in sorted(labels.items()))


def labelled(raw: Mapping[str, Any]) -> Labelled:
    """Return name and labels of an object that came as metadata."""
    metadata = _mapping(raw.get("metadata"))
    return Labelled(str(metadata.get("name") or ""), str(metadata.get("uid") or ""), dict(_labels(metadata)))
