"""What is asked of `manifests`, what it writes, and what was found in the manifests of other egress routers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from egress_router.config.values import Address, Family, Interface, PortRange, Protocol
from egress_router.dns_proxy.destinations import DnsProxyConfig
from egress_router.errors import Problem
from egress_router.redirect.values import Mode, Ruleset

#: Where ``scripts/build-images`` puts the images unless told otherwise.
REGISTRY = "localhost"


class Component(StrEnum):
    """The routers. TLS by name is the DNS proxy's container with another list."""

    REDIRECT = "redirect"
    HTTP_PROXY = "http-proxy"
    DNS_PROXY = "dns-proxy"
    TLS_PROXY = "tls-proxy"

    @property
    def mode(self) -> Mode:
        """EGRESS_ROUTER_MODE of the init container."""
        modes = {Component.REDIRECT: Mode.INIT, Component.TLS_PROXY: Mode(Component.DNS_PROXY.value)}
        return modes[self] if self in modes else Mode(self.value)

    @property
    def destination_variable(self) -> str:
        """The variable that lists its destinations."""
        if self is Component.REDIRECT:
            return "EGRESS_DESTINATION"
        return f"EGRESS_{self.value.upper().replace('-', '_')}_DESTINATION"


class Platform(StrEnum):
    """Whose admission the pods must pass: SecurityContextConstraints, or Pod Security."""

    OPENSHIFT = "openshift"
    KUBERNETES = "kubernetes"


class Kind(StrEnum):
    """What keeps a router running."""

    DEPLOYMENT = "Deployment"
    REPLICATION_CONTROLLER = "ReplicationController"


class Forwarding(StrEnum):
    """Who switches forwarding on for a redirect router: its privileged init container, the pod's securityContext
    (the kubelet must allow these sysctls), or the tuning plugin of the network attachment.
    """

    INIT = "init"
    POD = "pod"
    NETWORK = "network"


class Attach(StrEnum):
    """Where the egress interface comes from: OpenShift SDN's annotation, or a network attachment of Multus."""

    SDN = "sdn"
    MULTUS = "multus"


@dataclass(frozen=True, slots=True)
class Kept:
    """What a workload has besides a router, as the API has it: it is written as it is.

    ``spec`` has further fields of the pod, ``security`` those of its securityContext, ``init`` and ``main`` further
    fields of our two containers (``env`` and ``volumeMounts`` are added to ours, others take the place of ours),
    ``before`` and ``after`` the other init containers, in front of ours and behind it, ``sidecars`` the other
    containers.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    pod_annotations: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    security: Mapping[str, Any] = field(default_factory=dict)
    volumes: tuple[Mapping[str, Any], ...] = ()
    before: tuple[Mapping[str, Any], ...] = ()
    after: tuple[Mapping[str, Any], ...] = ()
    sidecars: tuple[Mapping[str, Any], ...] = ()
    init: Mapping[str, Any] = field(default_factory=dict)
    main: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, str]:
        """The variables of our containers that stand there as texts: the router will read them."""
        found = {}
        for part in (self.init, self.main):
            for one in part.get("env", ()):
                name, value = one.get("name"), one.get("value")
                if (
                    isinstance(name, str)
                    and name.startswith("EGRESS_")
                    and isinstance(value, str)
                    and "$(" not in value
                ):
                    found[name] = value
        return found

    @property
    def foreign(self) -> tuple[Mapping[str, Any], ...]:
        """The containers that are not ours."""
        return (*self.before, *self.after, *self.sidecars)


@dataclass(frozen=True, slots=True)
class KeptService:
    """A Service that clients know: name, labels, annotations, and its spec without the selector."""

    name: str
    spec: Mapping[str, Any]
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def open_to_the_outside(self) -> bool:
        """Whether clients that are no pods reach it."""
        return self.spec.get("type") in ("NodePort", "LoadBalancer") or bool(self.spec.get("externalIPs"))


@dataclass(frozen=True, slots=True)
class ManifestRequest:
    """The options. ``sources`` has one entry for each router, with one address of each family.

    ``destinations`` is the text of the list; what it says is in ``rules`` (redirect), ``http_port`` (HTTP proxy) or
    ``dns`` (DNS proxy, TLS by name), None for the other components. ``forwarding`` None leaves the choice to the plan.

    ``sdn`` is the value of OpenShift SDN's annotation, "true" or a NIC, None without it. ``networks`` is an annotation
    of Multus to keep as it is, ``interface`` the name of the egress interface there. ``kept`` has an entry for each of
    ``sources``, or none; ``services`` are written instead of our own, and ``node_selectors`` are those of single
    routers. ``pair`` is EGRESS_PAIR of two routers with the one of ``sources``, None for routers that are alone;
    ``pair_port`` is where they elect between their pods, None where they do so in the egress network.
    """

    component: Component
    name: str
    platform: Platform
    sources: tuple[Mapping[Family, Interface], ...] = ()
    gateways: Mapping[Family, Address] = field(default_factory=dict)
    destinations: str = ""
    namespace: str = "egress-routers"
    kind: Kind = Kind.DEPLOYMENT
    rules: Ruleset | None = None
    http_port: int | None = None
    dns: DnsProxyConfig | None = None
    parent_interface: str | None = None
    network: str | None = None
    forwarding: Forwarding | None = None
    headless: bool = False
    allow_from: tuple[str, ...] = ()
    node_selector: tuple[tuple[str, str], ...] = ()
    registry: str = REGISTRY
    tag: str = ""
    service_monitor: bool = False
    sdn: str | None = None
    create_namespace: bool = False
    networks: str | None = None
    interface: str | None = None
    kept: tuple[Kept, ...] = ()
    services: tuple[KeptService, ...] = ()
    node_selectors: tuple[tuple[tuple[str, str], ...], ...] = ()
    pair: int | None = None
    pair_port: int | None = None

    @property
    def owners(self) -> tuple[Mapping[Family, Interface], ...]:
        """The addresses of each workload: one each, or the one that two share."""
        return self.sources if self.pair is None else self.sources * PAIR_ROUTERS


#: Routers with one EGRESS_SOURCE: each is a workload of its own, for a roll-out waits until what is new is ready, which
#: a standby is not.
PAIR_ROUTERS = 2
#: Behind the name of a pair's Service: the Service by which its routers find each other.
PEERS_SUFFIX = "-peers"
#: EGRESS_HEALTH_PORT of the container that has the address for a proxy, whose own has the default.
PAIR_HEALTH_PORT = 9912
#: EGRESS_SHUTDOWN_GRACE of a proxy of a pair: until it has ended, nobody takes new connections.
PAIR_PROXY_GRACE = 10
#: Seconds for which one of several routers that leaves is unready and takes new connections, see EGRESS_SHUTDOWN_DELAY:
#: more than two looks of the kubelet, and what kube-proxy needs on every node.
HANDOVER_DELAY = 8
#: Seconds after which the first half of a set is back when all were told to leave at once: the delay, the grace of
#: 30 s, and the start of the successor.
HANDOVER_HOLD = 50
#: Seconds for which a router that has no other beside it goes on, for its successor to start: a node that has the image
#: needs three, and one that has not some more.
SUCCESSION = 20
#: EGRESS_HANDOVER of a redirect router, which hears its successor and seldom waits for all of it: as long as its grace.
HANDOVER_WAIT = 30
#: EGRESS_SHUTDOWN_GRACE of a proxy after that: in the grace it refuses new connections, and nobody else is there yet.
SUCCESSION_GRACE = 10
#: More than the delay and the grace.
TERMINATION_GRACE = 45
#: Seconds by which what replaces a router waits longer for its address than the kubelet waits for its end.
_LONGER = 5
#: EGRESS_DAD_WAIT of what replaces a router that holds on, and a proxy alone.
HELD_WAIT = TERMINATION_GRACE + HANDOVER_HOLD + _LONGER
SUCCESSION_WAIT = TERMINATION_GRACE + SUCCESSION + _LONGER


def peers_name(name: str, namespace: str) -> str:
    """Return the name of the Service, in the cluster's DNS, by which the routers of a pair find each other."""
    return f"{name}{PEERS_SUFFIX}.{namespace}.svc"


@dataclass(frozen=True, slots=True)
class RouterWorkload:
    """One workload with its own EGRESS_SOURCE, as the variable's text.

    ``hold``: for how many seconds it goes on as before, once it shall leave, until others are back or its successor
    waits. ``start``: the most seconds until it tells of its health.
    """

    name: str
    source: str
    node_selector: tuple[tuple[str, str], ...] = ()
    kept: Kept = field(default_factory=Kept)
    hold: int = 0
    start: int = 60

    @property
    def held_wait(self) -> int:
        """EGRESS_DAD_WAIT of the pod that replaces it."""
        return TERMINATION_GRACE + self.hold + _LONGER


@dataclass(frozen=True, slots=True)
class Constraints:
    """What SecurityContextConstraints must allow, or ask, of the pods: kinds of volumes, capabilities, and the rest by
    the names that the object has for it.
    """

    volumes: tuple[str, ...]
    capabilities: tuple[str, ...]
    unsafe_sysctls: tuple[str, ...]
    privileged: bool
    escalation: bool
    host_directories: bool
    host_ports: bool
    read_only_root: bool
    any_group: bool
    any_label: bool


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of the Service."""

    name: str
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class PolicyPort:
    """Ports of one protocol that clients may reach."""

    protocol: Protocol
    ports: PortRange


@dataclass(frozen=True, slots=True)
class ManifestSet:
    """Everything that the templates print. An object that is not wanted has None or is empty.

    Without ``init_container`` the main one sets the pod up. ``privileged`` is the one of the two that does.
    ``host_ips`` is the field of the pod's status that has the node's addresses.

    ``succession``: a successor starts beside the router, and waits for its address. ``policy_ports`` empty means any
    port, ``open`` that clients need not be pods. ``sysctls`` belong to the pod.
    ``constraints`` are what the SCC has. Probes ask ``health_port``.
    """

    component: Component
    name: str
    namespace: str
    platform: Platform
    kind: Kind
    attach: Attach
    routers: tuple[RouterWorkload, ...]
    gateway: str
    mode: str
    destination_variable: str
    destinations: str
    init_image: str
    main_image: str
    init_container: bool
    privileged: bool
    host_ips: str
    sysctls: tuple[tuple[str, str], ...]
    constraints: Constraints
    annotation: tuple[str, str]
    network_config: str | None
    main_env: tuple[tuple[str, str], ...]
    health_port: int
    service_ports: tuple[ServicePort, ...]
    headless: bool
    families: tuple[str, ...]
    policy_ports: tuple[PolicyPort, ...]
    allow_from: tuple[str, ...]
    version: str
    create_namespace: bool = False
    succession: bool = False
    interface: str | None = None
    services: tuple[KeptService, ...] = ()
    open: bool = False
    metrics_port: int | None = None
    pair: int | None = None
    pair_port: int | None = None
    warnings: tuple[Problem, ...] = field(default=())

    #: For the templates.
    handover_delay: int = HANDOVER_DELAY
    termination_grace: int = TERMINATION_GRACE
    handover: int = HANDOVER_WAIT
    succession_grace: int = SUCCESSION_GRACE
    pair_proxy_grace: int = PAIR_PROXY_GRACE
    peers_suffix: str = PEERS_SUFFIX

    @property
    def peers(self) -> str:
        """By what name the routers of a pair find each other."""
        return peers_name(self.name, self.namespace)

    @property
    def pair_health_port(self) -> int:
        """Where the container of a pair that has the address answers."""
        return self.health_port if self.component is Component.REDIRECT else PAIR_HEALTH_PORT

    @property
    def redundant(self) -> bool:
        """Whether several routers stand behind the Service."""
        return len(self.routers) > 1


class NoteKind(StrEnum):
    """What became of something in the old manifest."""

    WRONG = "was wrong"
    SAME = "same"
    CHANGED = "changed"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that the person who migrates should know; ``where`` is the object of the old manifest."""

    kind: NoteKind
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.text}"


@dataclass(frozen=True, slots=True)
class LegacyRouter:
    """One router of the old manifest. ``request`` lacks what the texts say: ``source``, ``gateway``, ``destinations``
    and ``http_port``. ``labels`` are those of its pods, ``ports`` the containers whose named ports Services use.
    ``pair`` is its EGRESS_PAIR, which elects between the pods where ``pair_by_cluster``. ``names`` says where in the
    old manifest each variable stands, ``reads`` which keys of which objects (by id) its containers take values from.
    """

    where: str
    request: ManifestRequest
    source: str
    gateway: str
    destinations: str
    labels: Mapping[str, str]
    names: Mapping[str, str]
    http_port: str | None = None
    containers: tuple[Mapping[str, Any], ...] = ()
    pair: str = ""
    reads: frozenset[tuple[int, str]] = frozenset()
    pair_by_cluster: bool = False
