"""Further variables of the routers that `manifests` writes (--set), and the Secret with a parent proxy.

They are written as what is kept of other manifests is: beside what the router has anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from egress_router.config.inputs import DNS_PROXY, HTTP_PROXY, KNOWN, ROUTER, Inputs, Problems
from egress_router.config.settings import seconds
from egress_router.errors import Problem
from egress_router.manifests.plan import hold_of
from egress_router.manifests.values import (
    HANDOVER_DELAY,
    SUCCESSION,
    Component,
    Kept,
    ManifestRequest,
    peers_name,
)
from egress_router.redirect.pair.values import ElectionNetwork

#: Variables that have options, or a place in what is written, and what to use instead.
_TAKEN = {
    "EGRESS_SOURCE": "--source",
    "EGRESS_GATEWAY": "--gateway",
    "EGRESS_INTERFACE": "--network and --parent-interface name it",
    "EGRESS_HTTP_PROXY_PORT": "--http-port",
    "EGRESS_HTTP_PROXY_PARENT": "--parent-secret: a password does not belong into a manifest",
    "EGRESS_HTTP_PROXY_PARENT_FILE": "--parent-secret",
    "EGRESS_HTTP_PROXY_MODE": "it means nothing",
    "EGRESS_DNS_PROXY_MODE": "it means nothing",
    "EGRESS_ROUTER_MODE": "the kind of router says it",
    "EGRESS_HOST_IPS": "the pod's status has them",
    "EGRESS_HEALTH_PORT": "probes ask the default port",
    "EGRESS_RUN_DIR": "the volume is mounted at the default",
    **dict.fromkeys(
        ("EGRESS_PAIR_PRIORITY", "EGRESS_PAIR_ADDRESS"), "by hand: what is written is alike in both routers of a pair"
    ),
    "EGRESS_PAIR": "--pair",
    "EGRESS_PAIR_NETWORK": "--pair-network",
    "EGRESS_PAIR_PEERS": "--pair names the Service of the two",
    **dict.fromkeys(
        ("EGRESS_PARENT_INTERFACE", "EGRESS_HOST_NETNS", "EGRESS_MACVLAN_MODE"), "the interface comes with the pod"
    ),
    **{f"{item.destination_variable}{end}": "--destinations" for item in Component for end in ("", "_FILE")},
}
_LOG = ("EGRESS_LOG_FORMAT", "EGRESS_LOG_LEVEL", "EGRESS_ROUTER_DEBUG")
#: What the container that sets the pod up reads.
_SET_UP = (
    *(
        "EGRESS_NAT_BACKEND",
        "EGRESS_CLUSTER_CIDRS",
        "EGRESS_DAD",
        "EGRESS_DAD_WAIT",
        "EGRESS_PAIR_INTERVAL",
        "EGRESS_PAIR_PORT",
    ),
    *_LOG,
)
#: What the init container of a redirect router reads besides: that of a proxy has no list.
_INIT = ("EGRESS_LIST_WAIT",)
#: And the one that stays as well; containers of proxies forward nothing, and cannot hear who asks for the address.
_BOTH = ("EGRESS_FLOW_OFFLOAD", "EGRESS_HANDOVER")
#: What a proxy's container reads besides its own.
_STAYING = ("EGRESS_SHUTDOWN_DELAY", "EGRESS_SHUTDOWN_GRACE", "EGRESS_PAGE", "EGRESS_PAGE_HOSTS", *_LOG)
#: Where the Secret of --parent-secret is mounted; its key is the file's name.
PARENT_DIRECTORY = "/etc/egress-router-parent"
DEFAULT_KEY = "parent"
_GRACE = 30
#: Between the end of the grace and SIGKILL.
_MARGIN = 7


def parse_settings(component: Component, texts: Iterable[str], problems: Problems) -> dict[str, str]:
    """Return the variables of --set (NAME=VALUE). Those that mean nothing to the component, or have an option of their
    own, are noted; what the values are is judged with the other variables.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in KNOWN:
            problems.error("--set", None, text, "is no variable of ours", "NAME=VALUE, such as EGRESS_LOG_LEVEL=debug")
        elif name in _TAKEN:
            problems.error("--set", None, name, "is set otherwise", _TAKEN[name])
        elif name not in _reads(component) and name not in _set_up(component):
            problems.error("--set", None, name, f"means nothing to the {component} router", "leave it out")
        elif found.get(name, value) != value:
            problems.error("--set", None, text, f"says otherwise than {name}={found[name]} before it", "one of the two")
        else:
            found[name] = value
    return found


def pair_settings(pair: str | None, network: ElectionNetwork, name: str, namespace: str) -> dict[str, str]:
    """Return the variables that --pair and --pair-network stand for."""
    found = {} if pair is None else {"EGRESS_PAIR": pair}
    if network is ElectionNetwork.CLUSTER:
        # Without --pair they are a mistake, which is judged as everywhere.
        found |= {"EGRESS_PAIR_NETWORK": str(network), "EGRESS_PAIR_PEERS": peers_name(name, namespace)}
    return found


def _reads(component: Component) -> set[str]:
    """Return the variables that the main container reads."""
    own = {Component.HTTP_PROXY: HTTP_PROXY, Component.DNS_PROXY: DNS_PROXY, Component.TLS_PROXY: DNS_PROXY}
    return {*own[component], *_STAYING} if component in own else set(ROUTER) - set(_INIT)


def _set_up(component: Component) -> set[str]:
    """Return the variables that the init container reads."""
    return {*_SET_UP, *((*_INIT, *_BOTH) if component is Component.REDIRECT else ())}


def secret_problems(component: Component, secret: str | None) -> Iterable[Problem]:
    """Yield what is wrong with --parent-secret."""
    if secret is not None and component is not Component.HTTP_PROXY:
        yield Problem("--parent-secret", None, secret, "is for the HTTP proxy alone", "leave it out")
    name, slash, key = (secret or "x").partition("/")
    if not name or (slash and (not key or "/" in key)):
        yield Problem(
            "--parent-secret", None, secret or "", "is no Secret", f"NAME or NAME/KEY (default: {DEFAULT_KEY})"
        )


def kept_for(request: ManifestRequest, settings: Mapping[str, str], secret: str | None) -> tuple[Kept, ...]:
    """Return what each of the routers has besides what is always written; nothing when there is nothing."""
    if not settings and secret is None:
        return ()
    several = len(request.owners) > 1
    kept = []
    for number in range(1, len(request.owners) + 1):
        delay = HANDOVER_DELAY if several and request.pair is None else 0
        hold = hold_of(request) if several and number % 2 == 0 else 0
        if not several and request.component is not Component.REDIRECT:
            hold = SUCCESSION
        spec, own = _time_to_leave(settings, delay, hold)
        # A standby does not wait for the address.
        both = settings if request.pair is not None else {**own, **settings}
        main = _variables(both, _reads(request.component))
        fields: dict[str, Any] = {"env": main} if main else {}
        volumes: tuple[Mapping[str, Any], ...] = ()
        if secret is not None:
            name, _, key = secret.partition("/")
            path = f"{PARENT_DIRECTORY}/{key or DEFAULT_KEY}"
            fields["env"] = [*main, {"name": "EGRESS_HTTP_PROXY_PARENT_FILE", "value": path}]
            fields["volumeMounts"] = [{"name": "parent", "mountPath": PARENT_DIRECTORY, "readOnly": True}]
            # 0440, in decimal: the proxy's user has group 0.
            volumes = ({"name": "parent", "secret": {"secretName": name, "defaultMode": 288}},)
        init = _variables(both, _set_up(request.component))
        kept.append(Kept(spec=spec, volumes=volumes, init={"env": init} if init else {}, main=fields))
    return tuple(kept)


def _time_to_leave(settings: Mapping[str, str], delay: int, hold: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what a longer EGRESS_SHUTDOWN_GRACE or _DELAY asks for: the kubelet must wait, and the successor too.
    ``delay`` is what is written without the latter, ``hold`` comes before both.
    """
    if not {"EGRESS_SHUTDOWN_GRACE", "EGRESS_SHUTDOWN_DELAY"} & settings.keys():
        return {}, {}
    inputs, ignored = Inputs(settings), Problems()
    delay = seconds(inputs, ignored, "EGRESS_SHUTDOWN_DELAY", delay, 0, 3600)
    grace = seconds(inputs, ignored, "EGRESS_SHUTDOWN_GRACE", _GRACE, 0, 86400)
    whole = delay + grace + _MARGIN + hold
    return {"terminationGracePeriodSeconds": whole}, {"EGRESS_DAD_WAIT": str(whole + 5)}


def _variables(settings: Mapping[str, str], names: set[str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in settings.items() if name in names]
