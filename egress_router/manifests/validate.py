"""What ``manifests`` refuses to write, each with its reason, and what it warns of."""

from __future__ import annotations

import re
from collections.abc import Iterator

from egress_router.config.settings import HEALTH_PORT
from egress_router.config.values import Family, Protocol
from egress_router.errors import Problem
from egress_router.manifests.ports import claimed, fallback_lines, service_port_count
from egress_router.manifests.values import (
    PAIR_HEALTH_PORT,
    PEERS_SUFFIX,
    Attach,
    Component,
    Forwarding,
    ManifestRequest,
    Platform,
)

#: RFC 1035 label, as names of Services must be; "-NN" of a router must still fit 63 characters.
_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,57}[a-z0-9])?", re.ASCII)
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_NETWORK = re.compile(r"(?:[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?/)?[a-z0-9](?:[-.a-z0-9]{0,251}[a-z0-9])?", re.ASCII)
_PREFIX = r"(?:[a-z0-9](?:[-.a-z0-9]{0,251}[a-z0-9])?/)?"
_LABEL_NAME = re.compile(_PREFIX + r"[A-Za-z0-9](?:[-._A-Za-z0-9]{0,61}[A-Za-z0-9])?", re.ASCII)
LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-._A-Za-z0-9]{0,61}[A-Za-z0-9])?)?", re.ASCII)
_INTERFACE = re.compile(r"[A-Za-z0-9_.@-]{1,15}", re.ASCII)
_REGISTRY = re.compile(r"[a-z0-9][a-z0-9.-]*(?::[0-9]{1,5})?(?:/[a-z0-9._-]+)*/?", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
#: A ConfigMap holds 1 MiB; a little is left for the rest of the object.
MAX_DESTINATIONS = 1024 * 1024 - 4096
#: More ports make every node's proxy rules long, and some load balancers refuse them.
MAX_SERVICE_PORTS = 250
MAX_ROUTERS = 99
_HEADLESS = "--headless, with which clients connect to the pods directly"


def attach_of(request: ManifestRequest) -> Attach:
    """Return where the egress interface comes from."""
    return Attach.SDN if request.sdn is not None else Attach.MULTUS


def forwarding_of(request: ManifestRequest) -> Forwarding | None:
    """Return who switches forwarding on; None where nobody need be asked: the proxies do not forward, and IPv4 is
    switched on by ``init`` itself, interface by interface, for which NET_ADMIN is enough.
    """
    if request.component is not Component.REDIRECT:
        return None
    if request.forwarding is not None:
        return request.forwarding
    if Family.IPV6 not in request.sources[0]:
        return None
    own = request.platform is Platform.KUBERNETES and request.parent_interface is not None
    return Forwarding.NETWORK if own else Forwarding.INIT


def validation_errors(request: ManifestRequest) -> list[Problem]:
    """Return every reason why ``request`` cannot work or is not safe."""
    return [*_names(request), *_pair(request), *_addresses(request), *_network(request), *_service(request)]


def warnings_about(request: ManifestRequest) -> tuple[Problem, ...]:
    """Return what works but may not be what was meant."""
    found = []
    lines = ", ".join(map(str, fallback_lines(request)))
    if lines and not request.headless and not request.services:
        message = f"the fallback of line {lines} takes every port, the Service has only those of the other lines"
        found.append(Problem("--destinations", None, "", message, "--headless makes the Service name the pods"))
    if forwarding_of(request) is Forwarding.POD:
        message = "every kubelet that may run it must be started with --allowed-unsafe-sysctls for net.ipv4.ip_forward"
        expected = "a pod on another node ends with SysctlForbidden"
        found.append(Problem("--forwarding", None, "pod", message, expected))
    if forwarding_of(request) is Forwarding.NETWORK and request.platform is Platform.OPENSHIFT:
        message = "the cluster's allowlist of the tuning plugin must hold net.ipv4.ip_forward"
        found.append(Problem("--forwarding", None, "network", message, "ConfigMap cni-sysctl-allowlist"))
    if (
        request.network is not None
        and request.component is not Component.REDIRECT
        and any(Family.IPV6 in source for source in request.sources)
    ):
        message = "is not written here: where the network has router advertisements, they would give the pod an address"
        expected = 'the tuning plugin in it, with "sysctl": {"net.ipv6.conf.IFNAME.accept_ra": "0"}'
        found.append(Problem("--network", None, request.network, message, expected))
    return tuple(found)


def _names(request: ManifestRequest) -> Iterator[Problem]:
    if not _NAME.fullmatch(request.name):
        expected = "a letter, then letters, digits and hyphens, all lower case, at most 59 characters"
        yield Problem("--name", None, request.name, "is not a name for a Service", expected)
    for option, value in (("--namespace", request.namespace), *(("--allow-from", item) for item in request.allow_from)):
        if not _NAMESPACE.fullmatch(value):
            yield Problem(option, None, value, "is not the name of a namespace", "such as egress-routers")
    chosen: dict[str, str] = {}
    for key, value in request.node_selector:
        if chosen.setdefault(key, value) != value:
            message = f"says otherwise than {key}={chosen[key]} before it: no node has both"
            yield Problem("--node-selector", None, f"{key}={value}", message, "one of the two")
        if not _LABEL_NAME.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
            yield Problem("--node-selector", None, f"{key}={value}", "is not a label", "KEY=VALUE")
    if request.registry and not _REGISTRY.fullmatch(request.registry):
        yield Problem("--registry", None, request.registry, "is not a registry", "such as registry.example.com/egress")
    if request.tag and not _TAG.fullmatch(request.tag):
        yield Problem("--tag", None, request.tag, "is not a tag", "such as 1.0")


def _pair(request: ManifestRequest) -> Iterator[Problem]:
    if request.pair is None:
        return
    if len(request.sources) != 1:
        message = f"is for two routers with one address, and there are {len(request.sources)} --source"
        yield Problem("--pair", None, str(request.pair), message, "one --source, or no --pair")
    longest = 63 - len(PEERS_SUFFIX)
    if len(request.name) > longest:
        message = f"has {len(request.name)} characters, and with --pair there is a Service {request.name}{PEERS_SUFFIX}"
        yield Problem("--name", None, request.name, message, f"at most {longest} characters")


def _addresses(request: ManifestRequest) -> Iterator[Problem]:
    owners: dict[object, int] = {}
    for number, source in enumerate(request.sources, start=1):
        for value in source.values():
            if owners.setdefault(value.ip, number) != number:
                message = f"is the address of router {owners[value.ip]} already: two pods must never hold one address"
                yield Problem("--source", None, str(value.ip), message, "an address of its own for each router")
        if source.keys() != request.sources[0].keys():
            message = "has other families than the first --source: not every router could serve every rule"
            yield Problem("--source", None, " ".join(map(str, source.values())), message)
    if len(request.sources) > MAX_ROUTERS:
        yield Problem("--source", None, "", f"{len(request.sources)} routers are more than {MAX_ROUTERS}")
    if len(request.destinations.encode()) > MAX_DESTINATIONS:
        size = len(request.destinations.encode())
        message = f"has {size} bytes; a ConfigMap holds 1 MiB"
        yield Problem("--destinations", None, "", message, "shorter comments, ranges, or several routers")


def _network(request: ManifestRequest) -> Iterator[Problem]:
    attach = attach_of(request)
    if request.parent_interface is not None and request.network is not None:
        message = "and --network exclude each other: one writes a network attachment, the other names an existing one"
        yield Problem("--parent-interface", None, "", message)
    others = [name for name in ("parent_interface", "network", "networks") if getattr(request, name) is not None]
    if request.sdn is None and not others:
        yield _no_interface(request.platform)
    if request.sdn is not None and others:
        message = "and a network attachment of Multus exclude each other: each gives the pod an egress interface"
        yield Problem("--sdn", None, "", message)
    if request.sdn is not None and request.platform is Platform.KUBERNETES:
        yield Problem("--sdn", None, "", "is of OpenShift alone", "--parent-interface NIC or --network NAME")
    if request.sdn is not None and not _INTERFACE.fullmatch(request.sdn):
        yield Problem("--sdn-interface", None, request.sdn, "is not an interface name", "such as eth1")
    if request.parent_interface is not None and not _INTERFACE.fullmatch(request.parent_interface):
        yield Problem("--parent-interface", None, request.parent_interface, "is not an interface name", "such as eth1")
    if request.network is not None and not _NETWORK.fullmatch(request.network):
        yield Problem("--network", None, request.network, "is not a network attachment", "[NAMESPACE/]NAME")
    if request.component is Component.REDIRECT and attach is Attach.SDN and Family.IPV6 in request.sources[0]:
        message = "pods of OpenShift SDN have no IPv6, so no client could reach an IPv6 destination through a redirect"
        yield Problem("--source", None, "", message, "an IPv4 address, or --parent-interface on OVN-Kubernetes")
    if request.forwarding is not None and request.component is not Component.REDIRECT:
        message = f"the {request.component} router does not forward, its init container needs no more privileges"
        yield Problem("--forwarding", None, str(request.forwarding), message, "leave it out")
    if request.rules is not None and request.rules.names and forwarding_of(request) is Forwarding.INIT:
        name = request.rules.names[0]
        message = f"{name} is a name: there is no init container then, and IPv6 forwarding needs one"
        yield Problem("--destinations", None, "", message, "--forwarding pod or network, an IPv4 source, or addresses")
    if request.forwarding is Forwarding.NETWORK and request.parent_interface is None:
        message = "needs a network attachment that is written here"
        yield Problem("--forwarding", None, "network", message, "--parent-interface NIC, or another --forwarding")


def _no_interface(platform: Platform) -> Problem:
    expected = "--parent-interface NIC writes a network attachment for Multus, --network NAME uses an existing one"
    if platform is Platform.KUBERNETES:
        message = "nothing gives the pod an egress interface: Kubernetes has no annotation for a macvlan"
        return Problem("--platform", None, "kubernetes", message, expected)
    message = "decide which network the cluster has (oc get network.config cluster -o jsonpath='{.status.networkType}')"
    expected = f"OVNKubernetes: {expected}; OpenShiftSDN, up to OpenShift 4.16: --sdn"
    return Problem("--platform", None, "openshift", message, expected)


def _service(request: ManifestRequest) -> Iterator[Problem]:
    count = 0 if request.services else service_port_count(request)
    if count > MAX_SERVICE_PORTS and not request.headless:
        message = f"asks for {count} ports; a Service has an entry for each, {MAX_SERVICE_PORTS} at most here"
        yield Problem("--destinations", None, "", message, _HEADLESS)
    if count > MAX_SERVICE_PORTS and attach_of(request) is Attach.SDN and request.headless and not _falls_back(request):
        message = f"asks for {count} ports; network policies of OpenShift SDN have no ranges"
        yield Problem("--destinations", None, "", message, f"at most {MAX_SERVICE_PORTS} ports")
    if not count and not request.headless and not request.services:
        message = "has a fallback alone, so there is no port for the Service"
        yield Problem("--destinations", None, "", message, _HEADLESS)
    health = {HEALTH_PORT}
    if request.pair is not None and request.component is not Component.REDIRECT:
        health.add(PAIR_HEALTH_PORT)
    taken = [
        ports
        for protocol, ports in claimed(request)
        if protocol is Protocol.TCP and any(port in ports for port in health)
    ]
    if taken:
        message = "is where the router answers probes and Prometheus"
        option = "--http-port" if request.component is Component.HTTP_PROXY else "--destinations"
        yield Problem(option, None, f"{taken[0]} tcp", message, "another port")


def _falls_back(request: ManifestRequest) -> bool:
    return bool(fallback_lines(request))
