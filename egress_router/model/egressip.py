"""Namespace egress IPs: the cluster's objects, and what is decided about them.

Addresses stay as written in the objects, because a malformed one must be reported, not lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class NetNamespace:
    """A namespace and the egress IPs it lists, in its order of preference."""

    name: str
    netid: int
    egress_ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostSubnet:
    """A node: its address, pod subnet, the egress IPs it holds by hand and the CIDRs it may be given IPs from.

    ``capacity`` is the number of egress IPs that it can hold at most (None: no limit). ``interface_subnets``
    are the subnets of its outside interface; empty means that the objects do not tell, and the node's agent
    checks the real interface.
    """

    name: str
    host_ip: str
    subnet: str = ""
    egress_ips: tuple[str, ...] = ()
    egress_cidrs: tuple[str, ...] = ()
    capacity: int | None = None
    interface_subnets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pod:
    """A running pod with addresses of its own (not one in the node's network namespace)."""

    namespace: str
    name: str
    node: str
    ips: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClusterState:
    """All objects, keyed by name; pods by (namespace, name). ``assignment`` is the recorded automatic
    assignment, egress IPs by node; ``assigned_without`` are the nodes that were offline for it.
    """

    namespaces: Mapping[str, NetNamespace] = field(default_factory=dict)
    nodes: Mapping[str, HostSubnet] = field(default_factory=dict)
    pods: Mapping[tuple[str, str], Pod] = field(default_factory=dict)
    assignment: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    assigned_without: tuple[str, ...] = ()


def cluster_state(namespaces: Iterable[NetNamespace] = (), nodes: Iterable[HostSubnet] = ()) -> ClusterState:
    """Return a state without pods."""
    return ClusterState({n.name: n for n in namespaces}, {n.name: n for n in nodes})


class Disposition(StrEnum):
    """What happens to a namespace's traffic to the outside."""

    NORMAL = "normal"
    EGRESS = "egress"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Via:
    """One way out: a usable egress IP and the node that holds it."""

    ip: str
    node: str


@dataclass(frozen=True, slots=True)
class NamespaceDecision:
    """The verdict on one namespace. ``reasons`` say why each of its other IPs is not in ``via``."""

    netid: int
    disposition: Disposition
    via: tuple[Via, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeDecision:
    """What one node shall have on its interface, and what is wrong with its object."""

    claims: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on the cluster. ``assignment`` holds every node that was given an IP automatically."""

    namespaces: Mapping[str, NamespaceDecision]
    nodes: Mapping[str, NodeDecision]
    assignment: Mapping[str, tuple[str, ...]]
