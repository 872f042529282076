"""What is gathered from objects of other projects, before it is written as ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from egress_router.errors import printable
from egress_router.kubernetes.selectors import EVERYTHING, Requirement, Selector
from egress_router.manifests.values import Note, NoteKind

#: The label that Kubernetes gives every Namespace: its name.
NAMESPACE_NAME = "kubernetes.io/metadata.name"
#: The label that every kubelet gives its Node.
HOST_NAME = "kubernetes.io/hostname"
EVERY_NODE = Selector((Requirement(HOST_NAME, "Exists"),))


def named(name: str) -> Selector:
    """Return the selector of one namespace."""
    return Selector((Requirement(NAMESPACE_NAME, "In", frozenset({name})),))


@dataclass(slots=True)
class Group:
    """Pods that leave with the same addresses; it becomes one EgressIP.

    ``where`` is the old object, for messages, ``others`` those that were put to it. ``addresses`` are canonical, in the
    order of preference; an empty ``namespaces`` selects every namespace, ``nodes`` None means the nodes with our label.
    ``directly``: networks that are reached without an egress IP. ``present``: the node that has an address now.
    ``node_ip``: without a usable address they leave with that of their node.
    """

    where: str
    name: str
    addresses: tuple[str, ...]
    namespaces: Selector = EVERYTHING
    pods: Selector = EVERYTHING
    nodes: Selector | None = None
    directly: tuple[str, ...] = ()
    present: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    node_ip: bool = False


@dataclass(slots=True)
class NodePart:
    """What an EgressNode shall say; see its fields in docs/egress-ips-kubernetes.md."""

    egress_ips: list[str] = field(default_factory=list)
    egress_cidrs: list[str] = field(default_factory=list)
    capacity: int | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """A Node object of the files: its labels, own addresses (``host_ip`` is the first), and whether it has both IP
    versions.
    """

    name: str
    labels: Mapping[str, str]
    addresses: frozenset[str]
    dual_stack: bool
    host_ip: str = ""


class Gathered:
    """What all objects together come to, and the notes about them."""

    def __init__(self, machines: Mapping[str, Machine]) -> None:
        """``machines`` are the Node objects by name, empty where the files have none."""
        self.machines = machines
        self.groups: list[Group] = []
        self.nodes: dict[str, NodePart] = {}
        #: ``ipRanges`` of pools, by name.
        self.pools: dict[str, list[dict[str, str]]] = {}
        #: hostIP and subnet of HostSubnets.
        self.hosts: dict[str, tuple[str, str]] = {}
        #: Numbers of NetNamespaces.
        self.netids: dict[str, int] = {}
        #: Addresses that a node has now, of objects that say so apart from the groups.
        self.present: dict[str, str] = {}
        self._notes: dict[Note, None] = {}

    @property
    def notes(self) -> list[Note]:
        """The notes, each once, in the order in which they came."""
        return list(self._notes)

    def node(self, name: str) -> NodePart:
        """Return the part of a node, made when it is new."""
        return self.nodes.setdefault(name, NodePart())

    def lost(self, where: str, text: str) -> None:
        """Note something that has no place in ours."""
        self._note(NoteKind.LOST, where, text)

    def changed(self, where: str, text: str) -> None:
        """Note something that is otherwise from now on."""
        self._note(NoteKind.CHANGED, where, text)

    def wrong(self, where: str, text: str) -> None:
        """Note something that did not work before either."""
        self._note(NoteKind.WRONG, where, text)

    def same(self, where: str, text: str) -> None:
        """Note what an object became."""
        self._note(NoteKind.SAME, where, text)

    def _note(self, kind: NoteKind, where: str, text: str) -> None:
        # Names and values are somebody else's, and end up on a terminal.
        self._notes[Note(kind, printable(where), printable(text, 1000))] = None
