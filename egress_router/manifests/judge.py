"""What keeps the pods of a manifest from working, though each variable by itself is right.

Containers are judged by what they do: a policy that stands in the init container is not seen by the proxy, an init
container without a mode never ends, a second pod with one address is refused by the first one. What cannot work is an
error; what works but surprises is a warning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, NamedTuple

from egress_router.config.inputs import Problems
from egress_router.errors import Problem
from egress_router.manifests.containers import Container, ManifestPod, Role, pauses
from egress_router.manifests.objects import ManifestObject, Objects, as_list, as_mapping, as_text
from egress_router.manifests.plan import EGRESS_INTERFACE, NETWORKS_ANNOTATION, SDN_ANNOTATION
from egress_router.redirect.pair.values import DEFAULT_PORT, ElectionNetwork

_LISTS = {
    Role.HTTP: ("EGRESS_HTTP_PROXY_DESTINATION", "EGRESS_HTTP_PROXY_DESTINATION_FILE"),
    Role.DNS: (
        *("EGRESS_DNS_PROXY_DESTINATION", "EGRESS_DNS_PROXY_DESTINATION_FILE"),
        *("EGRESS_TLS_PROXY_DESTINATION", "EGRESS_TLS_PROXY_DESTINATION_FILE"),
    ),
}
_REDIRECT_LIST = ("EGRESS_DESTINATION", "EGRESS_DESTINATION_FILE")
#: Fields of the pod that people write into a container, where the API does not know them.
_OF_THE_POD = (
    "serviceAccountName",
    "serviceAccount",
    "nodeSelector",
    "hostNetwork",
    "hostPID",
    "tolerations",
    "affinity",
)
#: "true", "false" or the name of a NIC; not what people write for "true".
_NIC = re.compile(r"(?!(?:True|TRUE|False|FALSE|yes|Yes|no|No|on|off|y|n|1|0)$)[A-Za-z0-9_.@-]{1,15}")
#: OpenShift up to 4.16; the pod's only interface is the cluster's otherwise.
_INTERFACE = (
    f'{SDN_ANNOTATION}: "true" on OpenShift SDN, {NETWORKS_ANNOTATION} with Multus; or EGRESS_INTERFACE, where '
    "something else makes the interface"
)


def judge_pods(pods: Iterable[ManifestPod], objects: Objects, problems: Problems) -> None:
    """Note what keeps each of the pods, or several of them together, from working."""
    pods = list(pods)
    for pod in pods:
        for severity, problem in (*_containers(pod), *_pod(pod), *_workload(pod, objects), *_scaled(pod, objects)):
            (problems.errors if severity else problems.warnings).append(problem)
    problems.errors += shared_addresses(holders(pod for pod in pods if pod.item.spec.get("replicas") != 0))


Found = Iterator[tuple[bool, Problem]]


def _error(pod: ManifestPod, field: str, text: str, message: str, expected: str = "") -> tuple[bool, Problem]:
    return True, Problem(f"{pod.name} {field}".strip(), None, text, message, expected)


def _warning(pod: ManifestPod, field: str, text: str, message: str, expected: str = "") -> tuple[bool, Problem]:
    return False, Problem(f"{pod.name} {field}".strip(), None, text, message, expected)


def _containers(pod: ManifestPod) -> Found:
    init = pod.with_role(Role.INIT)
    for container in pod.containers:
        for key in _OF_THE_POD:
            if key in container.raw:
                yield _warning(pod, container.name, "", f"{key} in a container means nothing", "it belongs to the pod")
    for container in pod.ours:
        yield from _ends_or_stays(pod, container)
        if container.roles & {Role.INIT, Role.RUN}:
            yield from _may_set_up(pod, container)
        for variable, mount in container.mounts.items():
            if mount.get("subPath") or mount.get("subPathExpr"):
                message = "is mounted by subPath: a changed list reaches the pod when it is started anew"
                yield _warning(pod, f"{container.name} {variable}", "", message, "the whole volume as a directory")
    for container in pod.containers:
        if container.roles or container.names:
            yield from _misplaced(pod, container)
    for role in (Role.INIT, Role.RUN, Role.HTTP, Role.DNS):
        same = [container for container in pod.ours if role in container.roles and container.known]
        for second in same[1:]:
            if not second.names:
                message = "is a second container of ours without variables: it ends with 78"
                yield _error(pod, second.name, "", message, "one container for each router")
            elif role in (Role.HTTP, Role.DNS) or second.stays:
                message = f"does the same as {same[0].name}, and both want the same ports and rules"
                yield _error(pod, second.name, "", message, "one container for each router")
    if init is not None:
        yield from _values_apart(pod, init)
        yield from _prepared_for(pod, init)
        yield from _pair_apart(pod, init)
    elif pod.with_role(Role.RUN) is None and pod.ours:
        yield from _nobody_sets_up(pod)


def _ends_or_stays(pod: ManifestPod, container: Container) -> Found:
    if Role.INIT in container.roles and not container.init and container.known and container.mode != "legacy":
        message = f"is no init container and ends with EGRESS_ROUTER_MODE={container.mode}, again and again"
        yield _error(pod, container.name, "", message, "put it among initContainers, or leave the mode out")
    if not container.init or container.stays:
        return
    if Role.INIT in container.roles and container.mode == "legacy" and "EGRESS_ROUTER_MODE" not in container.outside:
        what = "init, http-proxy or dns-proxy"
        message = "has no EGRESS_ROUTER_MODE: an init container that stays, so that the pod never starts"
        if container.env.get("EGRESS_ROUTER_MODE", "").strip():
            message = "stays with EGRESS_ROUTER_MODE=legacy, so that the pod never starts"
        yield _error(pod, container.name, "", message, what)
    elif Role.INIT not in container.roles:
        (role, *_) = container.roles
        message = f"is an init container that stays ({role}), so that the pod never starts"
        yield _error(pod, container.name, "", message, "put it among containers")


def _prepared_for(pod: ManifestPod, init: Container) -> Found:
    """Yield where EGRESS_ROUTER_MODE is not that of the containers that follow."""
    proxies = [role for role in (Role.HTTP, Role.DNS) if pod.with_role(role) is not None]
    rules = any(name in init.names for name in _REDIRECT_LIST)
    if init.mode == "init" and proxies and not rules:
        message = f"prepares a pod that redirects, and there is no EGRESS_DESTINATION; the pod has a {proxies[0]}"
        yield _error(pod, f"{init.name} EGRESS_ROUTER_MODE", init.mode, message, str(proxies[0]))
    elif init.mode in ("http-proxy", "dns-proxy") and proxies and init.mode not in proxies:
        message = f"is not the proxy that the pod has, {proxies[0]}"
        yield _warning(pod, f"{init.name} EGRESS_ROUTER_MODE", init.mode, message, str(proxies[0]))
    elif init.mode in ("http-proxy", "dns-proxy") and not proxies:
        others = [one for one in pod.containers if one.stays and one is not init and not pauses(one)]
        message = "prepares the pod for a proxy, and no container is one"
        judge = _warning if others else _error
        expected = f"a container of the {init.mode}, or EGRESS_ROUTER_MODE=init to redirect"
        yield judge(pod, f"{init.name} EGRESS_ROUTER_MODE", init.mode, message, expected)
    handover = init.env.get("EGRESS_HANDOVER", "").strip()
    if init.mode == "init" and handover.rstrip("s") not in ("", "0") and pod.with_role(Role.RUN) is None:
        message = "leaves the address to a container that stays, and there is none: nothing would leave"
        yield _error(pod, f"{init.name} EGRESS_HANDOVER", handover, message, "a container `egress-router run`, or 0")


def _nobody_sets_up(pod: ManifestPod) -> Found:
    """Yield that nothing gives a proxy's pod the egress address."""
    message = "no container sets the egress interface up: what the proxy sends leaves with the pod's own address"
    judge = _error if SDN_ANNOTATION in pod.item.pod_annotations else _warning
    yield judge(pod, pod.ours[0].name, "", message, "an init container with EGRESS_ROUTER_MODE=" + _a_mode(pod.ours[0]))


def _a_mode(container: Container) -> str:
    return str(Role.DNS if Role.DNS in container.roles else Role.HTTP)


def _may_set_up(pod: ManifestPod, container: Container) -> Found:
    """Yield what keeps a container from changing the pod's network."""
    security = as_mapping(container.raw.get("securityContext"))
    whole = as_mapping(pod.item.pod_spec.get("securityContext"))
    user = security.get("runAsUser", whole.get("runAsUser"))
    if isinstance(user, int) and user != 0:
        message = f"runs as user {user}, who gets no capability"
        yield _error(pod, container.name, "", message, "runAsUser: 0")
    if security.get("privileged") is True:
        return
    added = as_mapping(security.get("capabilities")).get("add")
    names = {as_text(one).upper().removeprefix("CAP_") for one in added} if isinstance(added, list) else set()
    missing = [] if "ALL" in names else [one for one in ("NET_ADMIN", "NET_RAW") if one not in names]
    if missing:
        message = f"is not privileged and does not add {' and '.join(missing)}: it ends with 77"
        expected = "securityContext: {capabilities: {add: [NET_ADMIN, NET_RAW]}}, or privileged: true"
        yield _error(pod, container.name, "", message, expected)


def _misplaced(pod: ManifestPod, container: Container) -> Found:
    """Yield variables in a container that does not read them."""
    for role, names in _LISTS.items():
        here = [name for name in names if name in container.names]
        if not here or role in container.roles or not (container.known or container.init):
            continue
        if Role.RUN in container.roles and container.mode == str(role):
            # It has the address for that proxy, and compares the list with its peers'.
            continue
        reader = pod.with_role(role)
        there = reader is not None and any(name in reader.names for name in names)
        kind = "init container" if container.init else "container"
        message = f"stands in the {kind} {container.name}, which does not read it"
        expected = f"in the container of the proxy{f' ({reader.name})' if reader is not None else ''}"
        yield (_warning if there else _error)(pod, here[0], "", message, expected)
    if container.init or not container.roles <= {Role.HTTP, Role.DNS}:
        return
    setter = pod.with_role(Role.INIT) or pod.with_role(Role.RUN)
    for name in ("EGRESS_SOURCE", "EGRESS_GATEWAY", "EGRESS_ROUTER_MODE", *_REDIRECT_LIST):
        if name not in container.names or (name == "EGRESS_SOURCE" and (setter is None or name in setter.names)):
            continue
        if setter is None or name not in setter.names:
            who = f"the init container {setter.name}" if setter else "an init container of egress-router"
            message = f"stands in the container {container.name}, and {who} is what reads it"
            yield _error(pod, name, "", message, f"in {who}")


def _values_apart(pod: ManifestPod, init: Container) -> Found:
    for container in pod.containers:
        if container is init:
            continue
        for name in ("EGRESS_SOURCE", "EGRESS_GATEWAY"):
            mine, theirs = init.env.get(name), container.env.get(name)
            if mine is None or theirs is None or _words(mine) == _words(theirs):
                continue
            message = f"has another value in another container: {init.name} has {mine}"
            judge = _error if container.known else _warning
            yield judge(pod, f"{container.name} {name}", theirs, message, "the same value in both")


def _pair_apart(pod: ManifestPod, init: Container) -> Found:
    """Yield what keeps a pod of a pair from ever having the address: with EGRESS_PAIR the init container leaves it to
    the container that stays.
    """
    run = pod.with_role(Role.RUN)
    if init.mode == "legacy" or "EGRESS_PAIR" in init.outside:
        return
    here = init.env.get("EGRESS_PAIR", "").strip()
    if run is None:
        if here:
            message = "leaves the address to a container that stays, and none of this pod takes it"
            expected = f"a container with the command `egress-router run` and EGRESS_PAIR={here}"
            yield _error(pod, f"{init.name} EGRESS_PAIR", here, message, expected)
        return
    there = run.env.get("EGRESS_PAIR", "").strip()
    for container in pod.ours if here else ():
        if container.roles & {Role.HTTP, Role.DNS} and "EGRESS_SOURCE" not in container.names:
            message = "is not set, and a standby has no route that tells what the proxy leaves with"
            expected = f"EGRESS_SOURCE as in {init.name}"
            yield _error(pod, f"{container.name} EGRESS_SOURCE", "", message, expected)
    if here and there:
        yield from _elects_apart(pod, init, run)
    if here == there or "EGRESS_PAIR" in run.outside:
        return
    if not here:
        message = f"is not set in {init.name}, which takes an address that another router of the pair may have"
        yield _error(pod, f"{run.name} EGRESS_PAIR", there, message, f"EGRESS_PAIR in {init.name}, too")
    else:
        message = f"has another value in {run.name}" if there else f"is not set in {run.name}, which takes the address"
        yield _error(pod, f"{init.name} EGRESS_PAIR", here, message, "the same value in both")


def _elects_apart(pod: ManifestPod, init: Container, run: Container) -> Found:
    """Yield where the containers of a pair differ in where it elects: what one lets pass the other one takes away."""
    for name, default in (("EGRESS_PAIR_NETWORK", ElectionNetwork.EGRESS), ("EGRESS_PAIR_PORT", DEFAULT_PORT)):
        if {name} & {*init.outside, *run.outside}:
            continue
        mine, theirs = init.env.get(name, "").strip(), run.env.get(name, "").strip()
        if (mine.lower() or str(default)) != (theirs.lower() or str(default)):
            message = f"is {theirs or 'not set'} in {run.name}, and {mine or 'not set'} here"
            yield _error(pod, f"{init.name} {name}", mine, message, "the same value in both")


def _words(text: str) -> list[str]:
    return sorted(word.partition("/")[0] for word in text.replace(",", " ").split())


def no_strings(metadata: Any, prefix: str = "") -> list[Problem]:
    """Return a problem for each annotation and label of an object's metadata that is no string."""
    found = []
    for field in ("annotations", "labels"):
        for key, value in as_mapping(as_mapping(metadata).get(field)).items():
            if not isinstance(value, str):
                shown = str(value).lower() if isinstance(value, (bool, int, float)) else ""
                message = f"is no string, and the API server refuses the object: {key}"
                found.append(Problem(f"{prefix}{field}", None, shown, message, f'quotes around it: {key}: "{shown}"'))
    return found


def _pod(pod: ManifestPod) -> Found:
    spec, annotations = pod.item.pod_spec, pod.item.pod_annotations
    wrong = no_strings(pod.item.template.get("metadata"))
    if pod.item.kind != "Pod":
        wrong += no_strings(pod.item.metadata, "metadata.")
    for problem in wrong:
        yield True, replace(problem, variable=f"{pod.name} {problem.variable}")
    if spec.get("hostNetwork") is True:
        message = "would put the rules into the node's own network"
        yield _error(pod, "hostNetwork", "true", message, "leave it out")
    macvlan = annotations.get(SDN_ANNOTATION)
    if isinstance(macvlan, str) and not _NIC.fullmatch(macvlan):
        message = f"is no value of {SDN_ANNOTATION}: there will be no macvlan"
        yield _error(pod, "annotations", str(macvlan), message, '"true", or the name of a NIC')
    elif macvlan not in (None, "false", False) and not _privileged(pod):
        message = f"{SDN_ANNOTATION} is refused by OpenShift SDN where no container of the pod is privileged"
        yield _error(pod, "annotations", "", message, "securityContext: {privileged: true} for the init container")
    networks = annotations.get(NETWORKS_ANNOTATION)
    if isinstance(networks, str) and '"default-route"' in networks:
        message = "has a default-route: the pod's own default route goes, which tells what the cluster's interface is"
        yield _error(pod, f"annotations {NETWORKS_ANNOTATION}", "", message, "without it: init moves the route itself")
    if macvlan in (None, "false") and not _has_interface(pod, annotations):
        message = "nothing gives the pod an egress interface"
        yield _error(pod, "annotations", "", message, _INTERFACE)
    if macvlan in (None, "false") and isinstance(networks, str):
        yield from _not_attached(pod, networks)


def _not_attached(pod: ManifestPod, networks: str) -> Found:
    """Yield an error where EGRESS_INTERFACE is none of the interfaces that Multus makes."""
    setter = pod.with_role(Role.INIT) or pod.with_role(Role.RUN)
    if setter is None or {"EGRESS_PARENT_INTERFACE", "EGRESS_HOST_NETNS"} & setter.names:
        return
    wanted = setter.env.get("EGRESS_INTERFACE", "").strip()
    attached = [one.interface for one in _attachments(networks, pod.item.namespace)]
    if wanted and attached and wanted not in attached:
        message = f"is no interface that the annotation {NETWORKS_ANNOTATION} makes"
        yield _error(pod, f"{setter.name} EGRESS_INTERFACE", wanted, message, " or ".join(attached))


class Attachment(NamedTuple):
    """A network that Multus attaches: the interface that it makes, and its NetworkAttachmentDefinition."""

    interface: str
    namespace: str
    name: str


def _attachments(networks: str, namespace: str) -> list[Attachment]:
    """Return what the annotation of Multus attaches to a pod in a namespace, [] where it cannot be read. Each interface
    is named there (``NETWORK@NAME``, or ``interface`` in JSON), or is net1, net2, … by its place.
    """
    if networks.lstrip().startswith("["):
        try:
            found = [
                [as_text(one.get(key)) for key in ("interface", "namespace", "name")] for one in json.loads(networks)
            ]
        except (ValueError, AttributeError, RecursionError):
            return []
    else:
        words = [one.strip().partition("@") for one in networks.split(",") if one.strip()]
        found = [[interface, *network.rpartition("/")[::2]] for network, _, interface in words]
    return [
        Attachment(interface or f"net{number}", space or namespace, name)
        for number, (interface, space, name) in enumerate(found, start=1)
    ]


def _privileged(pod: ManifestPod) -> bool:
    return any(
        as_mapping(container.raw.get("securityContext")).get("privileged") is True for container in pod.containers
    )


def _has_interface(pod: ManifestPod, annotations: dict[str, Any]) -> bool:
    """Return whether something may give the pod an interface: Multus, or the router itself on a NIC of the node."""
    if any(key.startswith("k8s.v1.cni.cncf.io/") or "multus" in key for key in annotations):
        return True
    if any({"EGRESS_INTERFACE", "EGRESS_PARENT_INTERFACE", "EGRESS_HOST_NETNS"} & c.names for c in pod.containers):
        return True
    return pod.item.pod_spec.get("hostPID") is True and _privileged(pod)


def _workload(pod: ManifestPod, objects: Objects) -> Found:
    kind, spec = pod.item.kind, pod.item.spec
    replicas = spec.get("replicas", 1)
    if replicas is not None and type(replicas) is not int and kind != "Pod":
        shown = str(replicas).lower() if isinstance(replicas, (str, float, bool)) else ""
        yield _error(pod, "spec.replicas", shown, "is no number, and the API server refuses the object", "1")
    elif type(replicas) is int and replicas > 1 and kind != "Pod" and not _of_pair(pod):
        message = f"{replicas} pods would have one EGRESS_SOURCE, and all but one are refused"
        yield _error(pod, "spec.replicas", str(replicas), message, "1; another router has an address of its own")
    elif type(replicas) is int and replicas > 1 and kind in ("Deployment", "DeploymentConfig"):
        message = "a roll-out replaces the standby, waits until that is ready, and so never comes to the active one"
        expected = "a Deployment with one replica for each router of the pair, as `manifests --pair` writes them"
        yield _warning(pod, "spec.replicas", str(replicas), message, expected)
    strategy = as_mapping(spec.get("strategy"))
    if kind in ("Deployment", "DeploymentConfig") and strategy.get("type") != "Recreate" and not _makes_room(strategy):
        message = "a rolling update starts the new pod beside the old one, which has the address: it never gets ready"
        leaves, heard = _old_one_leaves(strategy), _is_heard(pod, objects)
        if _of_pair(pod):
            message = "a rolling update waits for the new pod, which is a standby, and not ready while another one is"
        elif leaves and not heard:
            message = "a rolling update starts the new pod beside the old one: both would have the address"
        if _of_pair(pod) or not leaves or not heard:
            yield _error(pod, "spec.strategy", as_text(strategy.get("type")), message, "type: Recreate")
    for field in ("parallelism", "completions"):
        count = pod.item.job_spec.get(field)
        if type(count) is int and count > 1:
            message = f"{count} pods would have one EGRESS_SOURCE, and a router does not end"
            yield _error(pod, f"spec.{field}", str(count), message, "a Deployment with one replica")
    if kind == "CronJob":
        message = "a CronJob starts a pod again and again, all with one EGRESS_SOURCE, and a router does not end"
        yield _error(pod, "", "", message, "a Deployment with one replica")
    if kind == "DaemonSet":
        message = "a DaemonSet runs a pod on every node that matches, all with one EGRESS_SOURCE"
        yield _error(pod, "", "", message, "a Deployment with one replica")


def _of_pair(pod: ManifestPod) -> bool:
    """Whether pods like this one agree on who has the address. (A wrong EGRESS_PAIR is named elsewhere.)"""
    router = pod.with_role(Role.RUN)
    return router is not None and bool(router.env.get("EGRESS_PAIR", "").strip())


def _makes_room(strategy: dict[str, Any]) -> bool:
    rolling = as_mapping(strategy.get("rollingUpdate") or strategy.get("rollingParams"))
    return as_text(rolling.get("maxSurge")).strip("%") == "0"


def _old_one_leaves(strategy: dict[str, Any]) -> bool:
    """Whether the old pod is told to leave although the new one, which waits for its address, is not ready."""
    rolling = as_mapping(strategy.get("rollingUpdate") or strategy.get("rollingParams"))
    missing = as_text(rolling.get("maxUnavailable"))
    # Of one pod, what is less than all of it is none.
    return missing == "100%" or missing in map(str, range(1, 10))


def _is_heard(pod: ManifestPod, objects: Objects) -> bool:
    """Whether a second pod waits until the first one has left the address, as far as the files tell: OpenShift SDN's
    macvlans of one node do not hear each other, nor do others but for those in mode bridge; an ipvlan gets no answer;
    and what IPAM gives is there at once.
    """
    off = any(container.env.get("EGRESS_DAD", "").strip().lower() == "off" for container in pod.ours)
    modes = {container.env.get("EGRESS_MACVLAN_MODE", "").strip().lower() for container in pod.ours}
    text = pod.item.pod_annotations.get(NETWORKS_ANNOTATION)
    networks = text if isinstance(text, str) else ""
    if off or SDN_ANNOTATION in pod.item.pod_annotations or (not networks and modes - {"", "bridge"}):
        return False
    wanted = next((one.env["EGRESS_INTERFACE"].strip() for one in pod.ours if "EGRESS_INTERFACE" in one.env), "")
    attached = _attachments(networks, pod.item.namespace)
    named = [one for one in attached if one.interface == (wanted or EGRESS_INTERFACE)]
    # Without a name it is the only macvlan.
    kinds = {"macvlan", "ipvlan"} if named else {"macvlan"}
    return all(
        plugin["type"] == "macvlan" and plugin.get("mode") in (None, "", "bridge") and not plugin.get("ipam")
        for one in named or attached
        for plugin in _plugins(objects.find("NetworkAttachmentDefinition", one.namespace, one.name))
        if plugin.get("type") in kinds
    )


def _plugins(attachment: ManifestObject | None) -> list[dict[str, Any]]:
    """Return the CNI plugins of a network attachment, [] where its configuration cannot be read."""
    if attachment is None:
        return []
    try:
        config = as_mapping(json.loads(as_text(attachment.spec.get("config"))))
    except (ValueError, RecursionError):
        return []
    return [config, *as_list(config.get("plugins"))]


def _scaled(pod: ManifestPod, objects: Objects) -> Found:
    for item in objects.of_kind("HorizontalPodAutoscaler"):
        target = as_mapping(item.spec.get("scaleTargetRef"))
        if _same(item, target, pod.item) and item.spec.get("maxReplicas") != 1:
            message = f"{item.where} makes several pods with one EGRESS_SOURCE"
            yield _error(pod, "", "", message, "no autoscaler for a router")


def _same(item: ManifestObject, reference: dict[str, Any], other: ManifestObject) -> bool:
    wanted = (as_text(reference.get("kind")), as_text(reference.get("name")), item.namespace)
    return wanted == (other.kind, other.name, other.namespace)


def shared_addresses(holders: Iterable[tuple[str, ...]]) -> list[Problem]:
    """Return the addresses that two routers have, however they are written. A holder is a router's name in messages,
    its EGRESS_SOURCE, and its EGRESS_PAIR if it has one: those of one pair share their addresses.
    """
    owners: dict[str, tuple[int, str, str]] = {}
    found = []
    for number, (name, text, *more) in enumerate(holders):
        pair = " ".join([*more, *sorted(map(_as_address, _words(text)))]) if any(more) else ""
        for word in dict.fromkeys(_words(text)):
            owner, other, others = owners.setdefault(_as_address(word), (number, name, pair))
            if owner != number and not (pair and pair == others):
                message = f"is the address of {other} too: two pods must never hold one address"
                found.append(Problem(f"{name} EGRESS_SOURCE", None, word, message, "an address of its own"))
    return found


def holders(pods: Iterable[ManifestPod]) -> Iterator[tuple[str, str, str]]:
    """Return the name, the EGRESS_SOURCE and the EGRESS_PAIR of each pod that sets an egress interface up, also where
    something else of it cannot be read.
    """
    for pod in pods:
        setter = pod.with_role(Role.INIT) or pod.with_role(Role.RUN)
        if setter is not None:
            yield pod.name, setter.env.get("EGRESS_SOURCE", ""), setter.env.get("EGRESS_PAIR", "").strip()


def _as_address(word: str) -> str:
    """Return an address in its one spelling (RFC 5952), and what is none as it is."""
    try:
        return str(ip_address(word))
    except ValueError:
        return word
