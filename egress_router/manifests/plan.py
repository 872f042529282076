"""ManifestRequest → ManifestSet: what is decided. Pure."""

from __future__ import annotations

import json
from dataclasses import replace

from egress_router.config.inputs import Inputs, Problems
from egress_router.config.settings import HEALTH_PORT, on_off, seconds
from egress_router.config.values import Family
from egress_router.errors import ConfigurationError
from egress_router.manifests.constraints import constraints_for
from egress_router.manifests.ports import policy_ports, rule_families, service_ports
from egress_router.manifests.validate import LABEL_VALUE, attach_of, forwarding_of, validation_errors, warnings_about
from egress_router.manifests.values import (
    HANDOVER_HOLD,
    HANDOVER_WAIT,
    SUCCESSION,
    SUCCESSION_GRACE,
    Attach,
    Component,
    Forwarding,
    Kept,
    ManifestRequest,
    ManifestSet,
    Platform,
    RouterWorkload,
)

#: Seconds between the end of what a router waits for and SIGKILL, at least.
_MARGIN = 5
#: The interface that ``init`` looks for first.
EGRESS_INTERFACE = "macvlan0"
SDN_ANNOTATION = "pod.network.openshift.io/assign-macvlan"
NETWORKS_ANNOTATION = "k8s.v1.cni.cncf.io/networks"
FORWARDING_SYSCTLS = {Family.IPV4: "net.ipv4.ip_forward", Family.IPV6: "net.ipv6.conf.all.forwarding"}
#: In the words of the tuning plugin; OpenShift's list of allowed ones has it.
NO_ADVERTISEMENTS = "net.ipv6.conf.IFNAME.accept_ra"
#: A safe sysctl (Kubernetes 1.22): any pod may set it.
LOW_PORTS_SYSCTL = "net.ipv4.ip_unprivileged_port_start"
IMAGES = {
    Component.REDIRECT: "egress-router-init",
    Component.HTTP_PROXY: "egress-router-proxy",
    Component.DNS_PROXY: "egress-router-dns",
    Component.TLS_PROXY: "egress-router-dns",
}


def plan_manifests(request: ManifestRequest, version: str) -> ManifestSet:
    """Return the objects for ``request``; ``version`` is the tag of images where none is asked for.

    Raises ConfigurationError with every reason why what was asked for cannot work.
    """
    problems = validation_errors(request)
    if problems:
        raise ConfigurationError(problems)
    forwarding = forwarding_of(request)
    families = sorted(request.sources[0])
    sysctls, unsafe = _sysctls(request, forwarding, families)
    # OpenShift SDN's CNI plugin gives the macvlan only to a pod in which some container is privileged.
    privileged = forwarding is Forwarding.INIT or attach_of(request) is Attach.SDN
    return ManifestSet(
        component=request.component,
        name=request.name,
        namespace=request.namespace,
        platform=request.platform,
        kind=request.kind,
        attach=attach_of(request),
        routers=_routers(request),
        gateway=" ".join(str(request.gateways[family]) for family in families),
        mode=str(request.component.mode),
        destination_variable=request.component.destination_variable,
        destinations=request.destinations,
        init_image=_image(request, Component.REDIRECT, version),
        main_image=_image(request, request.component, version),
        init_container=has_init_container(request),
        privileged=privileged,
        # OpenShift SDN ends with Kubernetes 1.29, and its pods have one address; hostIPs is there from 1.29 on.
        host_ips="status.hostIP" if attach_of(request) is Attach.SDN else "status.hostIPs",
        sysctls=sysctls,
        constraints=constraints_for(request.kept, privileged=privileged, sysctls=unsafe),
        annotation=_annotation(request),
        network_config=_network_config(request, forwarding, families),
        main_env=_main_env(request),
        health_port=HEALTH_PORT,
        service_ports=service_ports(request),
        headless=request.headless,
        families=_service_families(request),
        policy_ports=policy_ports(request, attach_of(request)),
        allow_from=request.allow_from,
        version=_version_label(request.tag or version, version),
        create_namespace=request.create_namespace,
        succession=has_succession(request),
        interface=request.interface,
        services=request.services,
        open=not request.allow_from and any(service.open_to_the_outside for service in request.services),
        metrics_port=HEALTH_PORT if request.service_monitor else None,
        pair=request.pair,
        pair_port=request.pair_port,
        warnings=warnings_about(request),
    )


def has_init_container(request: ManifestRequest) -> bool:
    """Return whether an init container sets the pods up: it refuses names, and ``run`` does all that it does."""
    return request.rules is None or not request.rules.names


def has_succession(request: ManifestRequest) -> bool:
    """Return whether a router's successor starts beside it, and waits for its address: a router alone, of which a twin
    surely hears the probes (of networks that others define that is not known: a macvlan may be private, or an ipvlan).
    """
    kept = request.kept[0] if request.kept else Kept()
    settings = kept.settings
    inputs, ignored = Inputs(settings), Problems()
    return (
        len(request.owners) == 1
        and request.parent_interface is not None
        and on_off(inputs, ignored, "EGRESS_DAD", default=True)
        and "EGRESS_SHUTDOWN_DELAY" not in settings
        and seconds(inputs, ignored, "EGRESS_HANDOVER", SUCCESSION, 0, 3600) > 0
        # What others do before its start finds the address there.
        and not kept.after
        # A headless Service's name has no pod that ends, so that nobody would come while a proxy holds on.
        and (request.component is Component.REDIRECT or not request.headless)
        and _has_time_for_succession(request.component, kept)
    )


def _has_time_for_succession(component: Component, kept: Kept) -> bool:
    """Return whether the pod may take as long to end as a router that waits for its successor."""
    whole = kept.spec.get("terminationGracePeriodSeconds")
    if not isinstance(whole, int):
        return True
    hold, grace = (0, HANDOVER_WAIT) if component is Component.REDIRECT else (SUCCESSION, SUCCESSION_GRACE)
    own = seconds(Inputs(kept.settings), Problems(), "EGRESS_SHUTDOWN_GRACE", grace, 0, 86400)
    return whole >= hold + max(grace, own) + _MARGIN


def hold_of(request: ManifestRequest) -> int:
    """Return for how many seconds every second router of a set goes on when all are told to leave."""
    # A headless name has no pod that ends, and the new one of a pair is not named before it has the address.
    return SUCCESSION if request.pair is not None and request.headless else HANDOVER_HOLD


def _routers(request: ManifestRequest) -> tuple[RouterWorkload, ...]:
    several = len(request.owners) > 1
    routers = []
    for number, source in enumerate(request.owners, start=1):
        values = [source[family] for family in sorted(source)]
        text = " ".join(str(value.ip) if value.network.num_addresses == 1 else str(value) for value in values)
        name = f"{request.name}-{number}" if several else request.name
        selector = request.node_selectors[number - 1] if request.node_selectors else request.node_selector
        kept = request.kept[number - 1] if request.kept else Kept()
        # What restarts a whole set at once (`kubectl apply` of a new image) must not take all of it away at once.
        hold = hold_of(request) if number % 2 == 0 else 0
        if has_succession(request) and request.component is not Component.REDIRECT:
            # Without rights on the network it cannot hear its successor, as a redirect router does.
            hold = SUCCESSION
        router = RouterWorkload(name, text, selector, kept, hold)
        wait = seconds(Inputs(kept.settings), Problems(), "EGRESS_DAD_WAIT", router.held_wait, 0, 3600)
        routers.append(replace(router, start=max(router.start, wait + 10)))
    return tuple(routers)


def _version_label(tag: str, version: str) -> str:
    """Return the tag as a label's value, of 63 characters at most; else the version of this program."""
    return tag if LABEL_VALUE.fullmatch(tag) else version


def _image(request: ManifestRequest, component: Component, version: str) -> str:
    prefix = request.registry.rstrip("/") + "/" if request.registry else ""
    return f"{prefix}{IMAGES[component]}:{request.tag or version}"


def _sysctls(
    request: ManifestRequest, forwarding: Forwarding | None, families: list[Family]
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    if request.component is not Component.REDIRECT:
        # A list of the DNS proxy may get a low port later, which must not be another pod.
        low = request.component is Component.DNS_PROXY or any(port.port < 1024 for port in service_ports(request))
        return ((LOW_PORTS_SYSCTL, "0"),) if low else (), ()
    if forwarding is not Forwarding.POD:
        return (), ()
    names = tuple(FORWARDING_SYSCTLS[family] for family in families)
    return tuple((name, "1") for name in names), names


def _annotation(request: ManifestRequest) -> tuple[str, str]:
    if attach_of(request) is Attach.SDN:
        return SDN_ANNOTATION, request.sdn or "true"
    if request.networks is not None:
        return NETWORKS_ANNOTATION, request.networks
    namespace, slash, name = (request.network or "").rpartition("/")
    item = {"name": name or request.name, "interface": request.interface or EGRESS_INTERFACE}
    if slash:
        item["namespace"] = namespace
    return NETWORKS_ANNOTATION, json.dumps([item])


def _network_config(request: ManifestRequest, forwarding: Forwarding | None, families: list[Family]) -> str | None:
    """Return the CNI configuration: a macvlan without addresses (init adds its own), and forwarding where it is
    the network's to switch on. In mode ``bridge`` the macvlans of a node hear each other, and so does duplicate
    address detection.
    """
    if request.parent_interface is None:
        return None
    plugins: list[dict[str, object]] = [
        {"type": "macvlan", "master": request.parent_interface, "mode": "bridge", "ipam": {}}
    ]
    sysctls = {FORWARDING_SYSCTLS[family]: "1" for family in families if forwarding is Forwarding.NETWORK}
    if Family.IPV6 in families:
        # Router advertisements would give the interface another address and a default route. The container cannot say
        # so itself: without privileges /proc/sys is read-only, and kubelets refuse sysctls of interfaces.
        sysctls[NO_ADVERTISEMENTS] = "0"
    if sysctls:
        plugins.append({"type": "tuning", "sysctl": sysctls})
    return json.dumps({"cniVersion": "0.3.1", "name": request.name, "plugins": plugins}, indent=2)


def _main_env(request: ManifestRequest) -> tuple[tuple[str, str], ...]:
    if request.http_port not in (None, 8080):
        return (("EGRESS_HTTP_PROXY_PORT", str(request.http_port)),)
    return ()


def _service_families(request: ManifestRequest) -> tuple[str, ...]:
    """Return the families of the Service, empty for the cluster's default. A redirect does not change the family, so
    clients need an address of the family of the destination.
    """
    if request.rules is None or (request.platform is Platform.OPENSHIFT and attach_of(request) is Attach.SDN):
        return ()
    return tuple(f"{family}" for family in sorted(rule_families(request.rules, request.sources[0])))
