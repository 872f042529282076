"""Every product in a real cluster, from `egress-router manifests`' own output: real kubelets, Services, ConfigMaps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab import client
from lab.addressing import parse
from lab.kubernetes.cluster import Cluster
from lab.kubernetes.images import BUSYBOX
from lab.kubernetes.plan import Plan
from lab.kubernetes.product_images import TAG
from tests.support.products import NAMESPACE, Routers, manifests

pytestmark = [
    pytest.mark.root,
    pytest.mark.on_demand,
    pytest.mark.cross_section,
    pytest.mark.xdist_group("cluster"),
    pytest.mark.timeout(300),
    pytest.mark.parametrize("cluster", [Plan(attachments=True)], indirect=True, ids=["bridge"]),
]

ECHO, WEB, NAMED = "203.0.113.25", "203.0.113.26", "203.0.113.27"
ECHO6 = "2001:db8:113::25"
SHOP, SHOP6, OLD, HTTP, DNS = "192.0.2.46", "2001:db8:2::46", "192.0.2.47", "192.0.2.48", "192.0.2.49"
SOURCES = {"shop": (SHOP, SHOP6), "old": (OLD,), "web": (HTTP,), "names": (DNS,)}


@pytest.fixture(scope="module")
def routers(cluster: Cluster) -> Iterator[Routers]:
    """All products at once, each with an address of its own, and the servers outside that they lead to."""
    cluster.echo(ECHO, tcp=[80, 443])
    cluster.echo(ECHO6, tcp=[80])
    cluster.echo(NAMED, tcp=[80])
    cluster.http_server(WEB)
    cluster.dns.set("api.example.com", A=[NAMED])
    routers = Routers(cluster)
    routers.apply(manifests("redirect", "shop", [f"{SHOP},{SHOP6}"], f"80 tcp {ECHO}\n8080 tcp {ECHO} 443\n"))
    routers.apply(manifests("redirect", "old", [OLD], f"80 tcp {ECHO}\n", "--kind=ReplicationController"))
    routers.apply(manifests("http-proxy", "web", [HTTP], f"{WEB}\n"))
    routers.apply(manifests("dns-proxy", "names", [DNS], "80 api.example.com\n"))
    for name in SOURCES:
        routers.wait_ready(name)
    yield routers
    if routers.cluster.machines.by_name:
        for name in SOURCES:
            print(routers.story(name))


def test_what_the_objects_say_is_what_the_pods_are(routers: Routers) -> None:
    """Security contexts and probes are as written: a kubelet that could not do them would not have started the pods."""
    for name in SOURCES:
        (pod,) = routers.pods(name)
        for container in pod["spec"]["containers"] + pod["spec"]["initContainers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            assert security["capabilities"]["drop"] == ["ALL"]
        (main,) = pod["spec"]["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(main)
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0, routers.story(name)


@pytest.mark.parametrize(
    ("name", "port", "source"), [("shop", 80, SHOP), ("shop", 8080, SHOP), ("old", 80, OLD), ("names", 80, DNS)]
)
def test_clients_leave_with_egress_source(routers: Routers, name: str, port: int, source: str) -> None:
    """Through the Service, kube-proxy and the router, from every node; servers outside see EGRESS_SOURCE alone."""
    service = routers.service(name)
    numbers = range(1, routers.cluster.shape.nodes + 1)
    assert routers.source(ECHO, 80) != source, "without the router it is the node's"
    with routers.cluster.capture() as seen:
        assert [routers.source(service, port, number) for number in numbers] == [source for _ in numbers]
    assert {str(packet.src) for packet in seen.received() if packet.proto == "tcp"} == {source}
    (mac,) = seen.owners(source)
    (pod,) = routers.ready(name)
    link = json.loads(routers.cluster.pod(pod["metadata"]["name"], NAMESPACE).ip("-j link show macvlan0"))
    assert link[0]["address"] == mac, "from macvlan0's own MAC"


def test_both_families_of_a_redirect_router(routers: Routers) -> None:
    """A list with lines of one family has a Service of that one; the pod itself leaves with both sources."""
    (pod,) = routers.ready("shop")
    host = routers.cluster.pod(pod["metadata"]["name"], NAMESPACE)
    assert client.tcp(host, parse(ECHO6), 80, "hello", 5).split()[0] == SHOP6
    assert client.tcp(host, parse(ECHO), 80, "hello", 5).split()[0] == SHOP


def test_the_http_proxy(routers: Routers) -> None:
    """GET and CONNECT through the Service: what is allowed leaves with EGRESS_SOURCE, the rest is 403."""
    proxy = f"http://{routers.service('web')}:8080"
    host = routers.client()

    def ask(*words: str) -> str:
        return host.run(["curl", "-sS", "-m", "10", "-x", proxy, *words], check=False).stdout

    assert ask(f"http://{WEB}/").split()[0] == HTTP
    assert ask("--proxytunnel", f"http://{WEB}/").split()[0] == HTTP
    assert ask("-o", "/dev/null", "-w", "%{http_code}", f"http://{ECHO}/") == "403"


def test_the_privileged_form_makes_its_macvlan_on_the_node_s_nic(routers: Routers) -> None:
    """As upstream's manifests have it, where no network plugin gives the pod an interface: with hostPID the node's
    network is at /proc/1/ns/net. The node's own address is refused there without being told which it is.
    """
    source = "192.0.2.50"
    environment = {
        "EGRESS_SOURCE": source,
        "EGRESS_GATEWAY": "192.0.2.1",
        "EGRESS_ROUTER_MODE": "init",
        "EGRESS_DESTINATION": f"80 tcp {ECHO}",
    }
    first = {
        "name": "egress-router",
        "image": f"localhost/egress-router-init:{TAG}",
        "securityContext": {"privileged": True},
        "env": [{"name": name, "value": value} for name, value in environment.items()],
    }
    main = {"name": "wait", "image": BUSYBOX, "imagePullPolicy": "Never"}
    labels = {"name": "privileged", "app.kubernetes.io/instance": "privileged"}
    template: dict[str, dict[str, Any]] = {
        "metadata": {"labels": labels},
        "spec": {
            "hostPID": True,
            "terminationGracePeriodSeconds": 0,
            "initContainers": [first],
            "containers": [main],
        },
    }
    controller = {
        "apiVersion": "v1",
        "kind": "ReplicationController",
        "metadata": {"name": "privileged", "namespace": NAMESPACE},
        "spec": {"replicas": 1, "selector": {"name": "privileged"}, "template": template},
    }
    routers.cluster.apply([controller])
    (pod,) = routers.wait_ready("privileged")
    with routers.cluster.capture() as seen:
        assert routers.source(pod["status"]["podIP"], 80) == source
    assert {str(packet.src) for packet in seen.received() if packet.proto == "tcp"} == {source}
    routers.kubectl("delete", "rc", "privileged")
    environment["EGRESS_SOURCE"] = pod["status"]["hostIP"]
    first["env"] = [{"name": name, "value": value} for name, value in environment.items()]
    template["spec"]["nodeName"] = pod["spec"]["nodeName"]
    routers.cluster.apply([controller])

    def told() -> bool:
        return "is the address of eth0 of the node itself" in routers.kubectl(
            "logs", "rc/privileged", "-c", "egress-router", check=False
        )

    routers.until("it is refused", told, 60)
    routers.kubectl("delete", "rc", "privileged")
