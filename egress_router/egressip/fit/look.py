"""What the API server is asked. Only GET, in pages; what may not be read is noted and looked around."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from egress_router.egressip.fit.values import Picture, part, text
from egress_router.errors import printable
from egress_router.kubernetes.client import ApiError, Client

#: Objects in one answer.
PAGE = 500
#: More objects of one kind are not looked at: that is said.
MOST_OBJECTS = 20_000
NOT_FOUND = 404

NODES = "/api/v1/nodes"
SERVICES = "/api/v1/services"
HOST_PODS = "/api/v1/pods"
DAEMON_SETS = "/apis/apps/v1/daemonsets"
CONFIG_MAPS = "/api/v1/configmaps"
#: Fields that servers select by.
_QUERIES = {HOST_PODS: {"fieldSelector": "spec.hostNetwork=true"}}
_ALWAYS = (NODES, DAEMON_SETS, SERVICES, HOST_PODS)
#: Kinds that are looked at where their group is served, the first version of each that there is.
OPENSHIFT_NETWORK = ("config.openshift.io/v1/networks",)
SERVICE_CIDRS = ("networking.k8s.io/v1/servicecidrs", "networking.k8s.io/v1beta1/servicecidrs")
CALICO_POOLS = ("projectcalico.org/v3/ippools", "crd.projectcalico.org/v1/ippools")
FELIX = ("projectcalico.org/v3/felixconfigurations", "crd.projectcalico.org/v1/felixconfigurations")
CALICO_INSTALLATIONS = ("operator.tigera.io/v1/installations",)
OVN_EGRESS_IPS = ("k8s.ovn.org/v1/egressips",)
CILIUM_POLICIES = ("cilium.io/v2/ciliumegressgatewaypolicies",)
CILIUM_POOLS = ("cilium.io/v2/ciliumloadbalancerippools", "cilium.io/v2alpha1/ciliumloadbalancerippools")
ANTREA_EGRESSES = ("crd.antrea.io/v1beta1/egresses",)
ANTREA_POOLS = ("crd.antrea.io/v1beta1/externalippools",)
SPIDERNET_GATEWAYS = ("egressgateway.spidernet.io/v1beta1/egressgateways",)
CLOUD_ADDRESSES = ("cloud.network.openshift.io/v1/cloudprivateipconfigs",)
HOST_SUBNETS = ("network.openshift.io/v1/hostsubnets",)
METALLB_POOLS = ("metallb.io/v1beta1/ipaddresspools",)
OURS = ("egress-router.io/v1alpha1/egressips",)
KINDS = (
    OPENSHIFT_NETWORK,
    SERVICE_CIDRS,
    CALICO_POOLS,
    FELIX,
    CALICO_INSTALLATIONS,
    OVN_EGRESS_IPS,
    CILIUM_POLICIES,
    CILIUM_POOLS,
    ANTREA_EGRESSES,
    ANTREA_POOLS,
    SPIDERNET_GATEWAYS,
    CLOUD_ADDRESSES,
    HOST_SUBNETS,
    METALLB_POOLS,
    OURS,
)
#: ConfigMaps that tell how a program is set up: names in the namespace of the DaemonSet that is its own.
_SETTINGS = {"cilium-config", "kube-flannel-cfg", "kube-proxy", "canal-config", "rke2-canal-config"}
OUR_SETTINGS = ("egress-router", "egress-ips")


def look(client: Client) -> Picture:
    """Return what is seen of a cluster. Raises ApiUnavailable without an answer, and ApiError where not even the
    version may be read.
    """
    picture = Picture()
    picture.version = text(client.request("GET", "/version"), "gitVersion")
    served = client.request("GET", "/apis").get("groups")
    picture.groups = frozenset(
        text(version, "groupVersion")
        for group in (served if isinstance(served, list) else [])
        for version in (part(group).get("versions") or [])
    )
    for path in _ALWAYS:
        _take(client, picture, path)
    for kinds in KINDS:
        found = next((kind for kind in kinds if kind.rpartition("/")[0] in picture.groups), None)
        if found is not None:
            _take(client, picture, f"/apis/{found}", kinds[0])
    namespaces = {text(item, "metadata", "namespace") for item in picture.of(DAEMON_SETS)}
    picture.lists[CONFIG_MAPS] = []
    for namespace in sorted(namespaces - {""}):
        for name in sorted(_SETTINGS & set(_mentioned(picture, namespace))):
            _take_one(client, picture, namespace, name)
    if any(group.startswith("egress-router.io/") for group in picture.groups):
        _take_one(client, picture, *OUR_SETTINGS)
    return picture


def _mentioned(picture: Picture, namespace: str) -> Iterator[str]:
    """Yield the ConfigMaps that DaemonSets of a namespace take their settings from."""
    for item in picture.of(DAEMON_SETS):
        if text(item, "metadata", "namespace") != namespace:
            continue
        spec = part(item, "spec", "template", "spec")
        volumes = spec.get("volumes")
        for volume in volumes if isinstance(volumes, list) else []:
            yield text(volume, "configMap", "name")
            sources = part(volume, "projected").get("sources")
            for source in sources if isinstance(sources, list) else []:
                yield text(source, "configMap", "name")
        containers = spec.get("containers")
        for container in containers if isinstance(containers, list) else []:
            for variable in part(container).get("env") or []:
                yield text(variable, "valueFrom", "configMapKeyRef", "name")


def _take(client: Client, picture: Picture, path: str, name: str = "") -> None:
    """List one kind; under ``name``, where several versions have it."""
    key = name or path
    try:
        picture.lists[key] = list(_listed(client, path, picture))
    except ApiError as error:
        if error.code != NOT_FOUND:
            picture.unseen[key] = _why(error)


def _listed(client: Client, path: str, picture: Picture) -> Iterator[Mapping[str, Any]]:
    query = {"limit": str(PAGE), **_QUERIES.get(path, {})}
    count = 0
    while True:
        answer = client.request("GET", path, query, timeout=30.0)
        items = answer.get("items")
        for item in items if isinstance(items, list) else []:
            if isinstance(item, Mapping):
                yield item
                count += 1
        rest = text(answer, "metadata", "continue")
        if not rest:
            return
        if count >= MOST_OBJECTS:
            picture.unseen[f"{path} beyond the first {count}"] = "too many"
            return
        query["continue"] = rest


def _take_one(client: Client, picture: Picture, namespace: str, name: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps/{name}"
    try:
        picture.lists[CONFIG_MAPS].append(client.request("GET", path))
    except ApiError as error:
        if error.code != NOT_FOUND:
            picture.unseen[path] = _why(error)


def _why(error: ApiError) -> str:
    return printable(f"{error.code} {error.reason}")


def config_map(picture: Picture, name: str) -> Mapping[str, Any]:
    """Return the data of a ConfigMap that was seen, empty without one."""
    for item in picture.of(CONFIG_MAPS):
        if text(item, "metadata", "name") == name:
            return part(item, "data")
    return {}
