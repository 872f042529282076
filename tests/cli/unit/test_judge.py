"""`check -f` of pods that cannot work though each variable is right, and of files that are no manifests."""

# ruff: noqa: E501 - a table of manifests
from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.unit.conftest import CommandLine

REDIRECT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: egress}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: shop}}
  template:
    metadata:
      labels: {app: shop}
      annotations: {pod.network.openshift.io/assign-macvlan: "true"}
    spec:
      initContainers:
      - name: init
        image: registry.example.com/openshift/origin-egress-router:v3.11
        securityContext: {privileged: true}
        env:
        - {name: EGRESS_SOURCE, value: 192.0.2.46}
        - {name: EGRESS_GATEWAY, value: 192.0.2.1}
        - {name: EGRESS_DESTINATION, value: 80 tcp 203.0.113.25}
        - {name: EGRESS_ROUTER_MODE, value: init}
      containers:
      - {name: wait, image: openshift/origin-pod}
"""
PROXY = (
    REDIRECT.replace("value: init}", "value: http-proxy}")
    .replace("        - {name: EGRESS_DESTINATION, value: 80 tcp 203.0.113.25}\n", "")
    .replace(
        "{name: wait, image: openshift/origin-pod}",
        "name: proxy\n        image: openshift/origin-egress-http-proxy\n        env:\n"
        '        - {name: EGRESS_HTTP_PROXY_DESTINATION, value: "*"}',
    )
)
POLICY = '        - {name: EGRESS_HTTP_PROXY_DESTINATION, value: "*"}\n'
TO_INIT = PROXY.replace(POLICY, "").replace(
    "        - {name: EGRESS_ROUTER_MODE", POLICY + "        - {name: EGRESS_ROUTER_MODE"
)
SOURCES = "        - {name: EGRESS_SOURCE, value: 192.0.2.46}\n        - {name: EGRESS_GATEWAY, value: 192.0.2.1}\n"
SECOND = "      - {name: more, image: openshift/origin-egress-http-proxy}\n"
ANNOTATION = 'annotations: {pod.network.openshift.io/assign-macvlan: "true"}'
MULTUS = REDIRECT.replace(ANNOTATION, "annotations: {k8s.v1.cni.cncf.io/networks: 'NETWORKS'}").replace(
    "        - {name: EGRESS_ROUTER_MODE",
    "        - {name: EGRESS_INTERFACE, value: NIC}\n        - {name: EGRESS_ROUTER_MODE",
)
PAIR = (
    REDIRECT.replace("      initContainers:\n", "      containers:\n")
    .replace("      containers:\n      - {name: wait, image: openshift/origin-pod}\n", "")
    .replace("EGRESS_ROUTER_MODE, value: init", "EGRESS_PAIR, value: '46'")
    .replace("replicas: 1", "replicas: 2")
    .replace("{type: Recreate}", "{rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}")
)
NUMBER = "        - {name: EGRESS_PAIR, value: '43'}\n"
KNOWS = "        - {name: EGRESS_SOURCE, value: 192.0.2.46} # the proxy's\n"
PROXY_PAIR = (
    PROXY.replace("        - {name: EGRESS_ROUTER_MODE", NUMBER + "        - {name: EGRESS_ROUTER_MODE").rstrip("\n")
    + "\n"
    + KNOWS
    + "      - name: pair\n        image: egress-router-init\n        command: [egress-router, run]\n"
    + "        securityContext: {capabilities: {add: [NET_ADMIN, NET_RAW]}}\n        env:\n"
    + SOURCES
    + NUMBER
    + "        - {name: EGRESS_ROUTER_MODE, value: http-proxy}\n        - {name: EGRESS_HEALTH_PORT, value: '9912'}\n"
    + POLICY
)
OTHER = REDIRECT.replace("name: shop, namespace: egress", "name: shop2, namespace: other")

BESIDE = REDIRECT.replace("{type: Recreate}", "{rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}")
ON_NETWORK = 'annotations: {k8s.v1.cni.cncf.io/networks: "x/other, nets/egress@macvlan0"}'
NETWORK = """---
kind: NetworkAttachmentDefinition
apiVersion: k8s.cni.cncf.io/v1
metadata: {name: egress, namespace: nets}
spec: {config: '{"cniVersion": "0.3.1", "plugins": [{"type": "macvlan", "master": "eth1", "mode": "bridge"}]}'}
"""

BAD = {
    "policy in the init container": (TO_INIT, "EGRESS_HTTP_PROXY_DESTINATION: stands in the init container init"),
    "source and gateway in the main container": (
        PROXY.replace(SOURCES, "").rstrip("\n") + "\n" + SOURCES,
        "EGRESS_GATEWAY: stands in the container proxy, and the init container init is what reads it",
    ),
    "no mode": (
        REDIRECT.replace("        - {name: EGRESS_ROUTER_MODE, value: init}\n", ""),
        "init: has no EGRESS_ROUTER_MODE: an init container that stays",
    ),
    "legacy mode": (REDIRECT.replace("value: init}", "value: legacy}"), "init: stays with EGRESS_ROUTER_MODE=legacy"),
    "an init container that runs": (
        REDIRECT.replace("        env:", "        command: [egress-router, run]\n        env:", 1),
        "init: is an init container that stays (run)",
    ),
    "mode in the main container": (
        REDIRECT.replace("      initContainers:\n", "      containers:\n")
        .replace("      containers:\n      - {name: wait, image: openshift/origin-pod}\n", "")
        .replace("name: init\n", "name: main\n"),
        "main: is no init container and ends with EGRESS_ROUTER_MODE=init",
    ),
    "a second container without variables": (PROXY + SECOND, "more: is a second container of ours without variables"),
    "three replicas": (REDIRECT.replace("replicas: 1", "replicas: 3"), "3 pods would have one EGRESS_SOURCE"),
    "a rolling update of a pair": (
        PAIR.replace("maxSurge: 0", "maxSurge: 1"),
        "waits for the new pod, which is a standby",
    ),
    "two pods of different pairs with one address": (
        PAIR + "---" + PAIR.replace("name: shop,", "name: shop2,").replace("'46'", "'47'"),
        "is the address of Deployment/shop too",
    ),
    "one of a pair that shares but one address": (
        PAIR.replace("192.0.2.46", "192.0.2.46 2001:db8::46").replace("192.0.2.1}", "192.0.2.1 2001:db8::1}")
        + "---"
        + PAIR.replace("name: shop,", "name: shop2,"),
        "is the address of Deployment/shop too",
    ),
    "an init container of a pair, and nobody who stays": (
        REDIRECT.replace(
            "name: EGRESS_ROUTER_MODE", "name: EGRESS_PAIR, value: '46'}\n        - {name: EGRESS_ROUTER_MODE"
        ),
        'init EGRESS_PAIR: "46": leaves the address to a container that stays, and none of this pod takes it',
    ),
    "a proxy of a pair whose init container takes the address": (
        PROXY_PAIR.replace(NUMBER, "", 1),
        'pair EGRESS_PAIR: "43" is not set in init, which takes an address',
    ),
    "a proxy of a pair with two numbers": (
        PROXY_PAIR.replace("'43'", "'44'", 1),
        'init EGRESS_PAIR: "44" has another value in pair',
    ),
    "a proxy of a pair whose containers elect in two networks": (
        PROXY_PAIR.replace(NUMBER, NUMBER + "        - {name: EGRESS_PAIR_NETWORK, value: cluster}\n", 1),
        'init EGRESS_PAIR_NETWORK: "cluster" is not set in pair, and cluster here',
    ),
    "a pair that elects between its pods, and knows none": (
        PAIR.replace(
            "EGRESS_PAIR, value: '46'}",
            "EGRESS_PAIR, value: '46'}\n        - {name: EGRESS_PAIR_NETWORK, value: cluster}",
        ),
        "EGRESS_PAIR_PEERS: is not set, and EGRESS_PAIR_NETWORK is cluster",
    ),
    "a proxy of a pair that does not know what it leaves with": (
        PROXY_PAIR.replace(KNOWS, ""),
        "proxy EGRESS_SOURCE: is not set, and a standby has no route",
    ),
    "two health ports that are one": (
        PROXY_PAIR.replace("        - {name: EGRESS_HEALTH_PORT, value: '9912'}\n", ""),
        "9909 is the port of the proxy in the same pod",
    ),
    "two pods with one address": (REDIRECT + "---" + OTHER, "is the address of Deployment/shop too"),
    "an unquoted annotation": (REDIRECT.replace('"true"', "true"), 'annotations: "true" is no string'),
    "quotes of a web page in the value": (REDIRECT.replace('"true"', "'“true”'"), "there will be no macvlan"),
    "an annotation with spaces": (REDIRECT.replace('"true"', '" true "'), "there will be no macvlan"),
    "an empty annotation": (REDIRECT.replace('"true"', '""'), "there will be no macvlan"),
    "an annotation in capitals": (REDIRECT.replace('"true"', '"TRUE"'), "there will be no macvlan"),
    "a NIC's name that is none": (REDIRECT.replace('"true"', '"enp0s31f6enp0s31"'), "there will be no macvlan"),
    "an annotation that says no": (REDIRECT.replace('"true"', '"false"'), "nothing gives the pod an egress interface"),
    "an interface that Multus does not make": (
        MULTUS.replace("NETWORKS", "one,egress@net7").replace("NIC", "net2"),
        'init EGRESS_INTERFACE: "net2" is no interface that the annotation',
    ),
    "an interface that Multus does not make, in JSON": (
        MULTUS.replace("NETWORKS", '[{"name": "a", "interface": "macvlan0"}, {"name": "b"}]').replace("NIC", "net1"),
        "makes (macvlan0 or net2)",
    ),
    "a default route of Multus": (
        REDIRECT.replace(
            ANNOTATION,
            'annotations: {k8s.v1.cni.cncf.io/networks: \'[{"name": "a", "default-route": ["192.0.2.1"]}]\'}',
        ),
        "has a default-route",
    ),
    "an unquoted label": (REDIRECT.replace("labels: {app: shop}", "labels: {app: 08}"), "labels: "),
    "an unquoted label of the workload": (
        REDIRECT.replace("metadata: {name: shop", "metadata: {labels: {since: 2024}, name: shop", 1),
        'metadata.labels: "2024" is no string',
    ),
    "no annotation": (REDIRECT.replace(ANNOTATION, "annotations: {}"), "nothing gives the pod an egress interface"),
    "not privileged on OpenShift SDN": (
        REDIRECT.replace("{privileged: true}", "{capabilities: {add: [NET_ADMIN, NET_RAW]}}"),
        "is refused by OpenShift SDN where no container of the pod is privileged",
    ),
    "no capability": (
        REDIRECT.replace(ANNOTATION, 'annotations: {k8s.v1.cni.cncf.io/networks: "x"}').replace(
            "{privileged: true}", "{capabilities: {add: [NET_RAW]}}"
        ),
        "init: is not privileged and does not add NET_ADMIN",
    ),
    "a user without capabilities": (
        REDIRECT.replace("{privileged", "{runAsUser: 1001, privileged"),
        "runs as user 1001",
    ),
    "a rolling update": (REDIRECT.replace("  strategy: {type: Recreate}\n", ""), "a rolling update starts the new pod"),
    "an address that nobody takes": (
        REDIRECT.replace(
            "name: EGRESS_ROUTER_MODE", "name: EGRESS_HANDOVER, value: '20'}\n        - {name: EGRESS_ROUTER_MODE"
        ),
        "leaves the address to a container that stays, and there is none",
    ),
    "a rolling update of one that is not heard": (
        REDIRECT.replace("{type: Recreate}", "{rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}"),
        "both would have the address",
    ),
    "a rolling update of macvlans that the routers make so that they do not hear each other": (
        BESIDE.replace(ANNOTATION, "annotations: {}").replace(
            "name: EGRESS_ROUTER_MODE",
            "name: EGRESS_PARENT_INTERFACE, value: eth1}\n        - {name: EGRESS_MACVLAN_MODE, value: private}\n"
            "        - {name: EGRESS_ROUTER_MODE",
        ),
        "both would have the address",
    ),
    "a rolling update in a network whose macvlans do not hear each other": (
        BESIDE.replace(ANNOTATION, ON_NETWORK) + NETWORK.replace("bridge", "private"),
        "both would have the address",
    ),
    "a rolling update in a network of ipvlans": (
        BESIDE.replace(ANNOTATION, ON_NETWORK) + NETWORK.replace("macvlan", "ipvlan").replace("bridge", "l2"),
        "both would have the address",
    ),
    "a rolling update in a network that gives the address": (
        BESIDE.replace(ANNOTATION, ON_NETWORK) + NETWORK.replace('"bridge"', '"bridge", "ipam": {"type": "static"}'),
        "both would have the address",
    ),
    "a rolling update in a network without a name for its macvlan": (
        BESIDE.replace(ANNOTATION, ON_NETWORK.replace("@macvlan0", "")) + NETWORK.replace("bridge", "vepa"),
        "both would have the address",
    ),
    "a rolling update that leaves the old one": (
        REDIRECT.replace("{type: Recreate}", "{rollingUpdate: {maxSurge: 1, maxUnavailable: 50%}}"),
        "it never gets ready",
    ),
    "a rolling DeploymentConfig": (
        REDIRECT.replace("kind: Deployment", "kind: DeploymentConfig").replace("Recreate", "Rolling"),
        "a rolling update starts the new pod",
    ),
    "a DaemonSet": (REDIRECT.replace("kind: Deployment", "kind: DaemonSet"), "a DaemonSet runs a pod on every node"),
    "the node's network": (
        REDIRECT.replace("      containers:", "      hostNetwork: true\n      containers:"),
        "hostNetwork",
    ),
    "an autoscaler": (
        REDIRECT
        + "---\nkind: HorizontalPodAutoscaler\nmetadata: {name: a, namespace: egress}\nspec:\n  maxReplicas: 4\n"
        "  scaleTargetRef: {kind: Deployment, name: shop}\n",
        "HorizontalPodAutoscaler/a makes several pods",
    ),
    "another address in the proxy": (
        PROXY.rstrip() + "\n        - {name: EGRESS_SOURCE, value: 192.0.2.47}\n",
        "has another value in another container",
    ),
    "the variables in a container that only waits": (
        REDIRECT.replace(SOURCES, "").replace(
            "{name: wait, image: openshift/origin-pod}",
            "name: wait\n        image: openshift/origin-pod\n        env:\n" + SOURCES,
        ),
        "EGRESS_GATEWAY: stands in the container wait, and the init container init is what reads it",
    ),
    "a mode for a proxy, and none there": (
        REDIRECT.replace("value: init}", "value: http-proxy}"),
        'EGRESS_ROUTER_MODE: "http-proxy": prepares the pod for a proxy, and no container is one',
    ),
    "a mode that redirects, and a proxy there": (
        PROXY.replace("value: http-proxy}", "value: init}"),
        "prepares a pod that redirects, and there is no EGRESS_DESTINATION",
    ),
    "a proxy alone": (
        "kind: Pod\nmetadata: {name: p, " + ANNOTATION + "}\nspec:\n  containers:\n  - name: p\n"
        "    image: openshift/origin-egress-http-proxy\n    securityContext: {privileged: true}\n"
        '    env: [{name: EGRESS_HTTP_PROXY_DESTINATION, value: "*"}]\n',
        "p: no container sets the egress interface up",
    ),
    "images of ours without any variable": (
        "kind: Pod\nmetadata: {name: p}\nspec:\n  initContainers:\n  - {name: i, image: example.com/ose-egress-router-rhel9:v4.15}\n",
        "i: has no EGRESS_ROUTER_MODE",
    ),
    "replicas as a text": (REDIRECT.replace("replicas: 1", 'replicas: "1"'), 'spec.replicas: "1" is no number'),
    "a Job of several pods": (
        REDIRECT.replace("kind: Deployment", "kind: Job").replace("  replicas: 1", "  parallelism: 2"),
        "spec.parallelism",
    ),
    "a CronJob": (
        json.dumps(
            {
                "kind": "CronJob",
                "metadata": {"name": "c"},
                "spec": {"jobTemplate": {"spec": {"template": yaml.safe_load(REDIRECT)["spec"]["template"]}}},
            }
        ),
        "a CronJob starts a pod again and again",
    ),
    "variables that are no list": (
        REDIRECT.replace(
            "      containers:\n      - {name: wait,", "      containers:\n      - {name: wait, env: {A: b},"
        ),
        "wait env: is a mapping",
    ),
    "a reference to nothing": (
        REDIRECT.replace("value: 192.0.2.1}", "value: $(GATEWAY)}"),
        "no variable GATEWAY stands before it",
    ),
    "a variable of envsubst": (REDIRECT.replace("192.0.2.1}", "$GATEWAY}"), "envsubst"),
    "a value of Ansible": (REDIRECT.replace("192.0.2.1}", '"{{ gateway }}"}'), "render it first"),
    "a value that only the kubelet knows": (
        REDIRECT.replace("value: 192.0.2.1}", "valueFrom: {fieldRef: {fieldPath: status.hostIP}}}"),
        "the kubelet alone knows",
    ),
    "a callout in a circle": (REDIRECT.replace("192.0.2.1}", '"192.0.2.1 ③"}'), "without the callout ③"),
    "a value that Kubernetes takes for a number": (REDIRECT.replace("value: 192.0.2.1}", "value: 08}"), "is a number"),
    "a value that Kubernetes takes for a truth value": (
        REDIRECT.replace("value: init}", "value: y}"),
        "is a truth value",
    ),
    "a key twice": (REDIRECT.replace("  replicas: 1", "  replicas: 1\n  replicas: 1"), 'the key "replicas" twice'),
    "an object twice": (REDIRECT + "---" + REDIRECT.replace("192.0.2.46", "192.0.2.47"), "stands there twice"),
    "a callout": (REDIRECT.replace("192.0.2.1}", '"192.0.2.1 <1>"}'), "without the callout <1>"),
    "a parameter": (REDIRECT.replace("192.0.2.1}", '"${GATEWAY}"}'), "oc process"),
    "a chart's value": (REDIRECT.replace("192.0.2.1}", '"{{ .Values.gateway }}"}'), "helm template"),
}


def test_what_the_bad_ones_are_made_of_is_good(cli: CommandLine) -> None:
    for text in (REDIRECT, PROXY, REDIRECT + "---" + REDIRECT):
        result = cli("check", "-f", cli.file(text))
        assert (result.status, result.err) == (0, "")


@pytest.mark.parametrize("name", BAD)
def test_pods_that_cannot_work(cli: CommandLine, name: str) -> None:
    text, part = BAD[name]
    assert text not in (REDIRECT, PROXY)
    result = cli("check", "-f", cli.file(text))
    assert part in result.err
    assert result.status == 78
    assert "ok" not in result.out


FINE = {
    "a proxy of a pair, one of whose containers names the defaults": PROXY_PAIR.replace(
        NUMBER,
        NUMBER + "        - {name: EGRESS_PAIR_NETWORK, value: Egress}\n",
        1,
    ),
    "an interface of Multus by its place": MULTUS.replace("NETWORKS", "x/one,egress").replace("NIC", "net2"),
    "an interface of Multus by its name": MULTUS.replace("NETWORKS", "one,egress@net7").replace("NIC", "net7"),
    "networks that are no JSON": MULTUS.replace("NETWORKS", '[{"name": "a"').replace("NIC", "net5"),
    "a rolling update in a network whose macvlans hear each other": BESIDE.replace(ANNOTATION, ON_NETWORK) + NETWORK,
    "a rolling update, and another network whose macvlans do not hear each other": BESIDE.replace(
        ANNOTATION, ON_NETWORK
    )
    + NETWORK
    + NETWORK.replace("name: egress, namespace: nets", "name: other, namespace: x").replace("bridge", "private"),
    "a rolling update in a network of which nothing is known": BESIDE.replace(ANNOTATION, ON_NETWORK),
    "no surge": REDIRECT.replace("{type: Recreate}", "{rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}"),
    "a NIC's name": REDIRECT.replace('"true"', '"eth1"'),
    "Multus": REDIRECT.replace(ANNOTATION, 'annotations: {k8s.v1.cni.cncf.io/networks: "egress"}'),
    "its own macvlan": REDIRECT.replace(ANNOTATION, "annotations: {}").replace(
        "    spec:\n      init", "    spec:\n      hostPID: true\n      init"
    ),
    "an address that looks like a number base 60": REDIRECT.replace("192.0.2.46", "2001:10:20:30:40:50:51:52")
    .replace("192.0.2.1}", "2001:10:20:30:40:50:51:1}")
    .replace("203.0.113.25", "2001:db8::25"),
    "a date and a time": REDIRECT.replace(
        "labels: {app: shop}", "labels: {app: shop, window: 22:22, since: 2018-10-01}"
    ),
    "a tab before a comment": REDIRECT.replace("  replicas: 1", "  replicas: 1\t# one"),
    "an exporter whose image has a name like ours": REDIRECT.rstrip("\n")
    + "\n      - {name: more, image: example.com/egress-router-exporter:1}\n",
    "a sidecar that reads the gateway": REDIRECT.rstrip("\n")
    + "\n      - {name: more, image: x, env: [{name: EGRESS_GATEWAY, value: 192.0.2.1}]}\n",
    "a Job of one pod": REDIRECT.replace("kind: Deployment", "kind: Job").replace("  replicas: 1", "  parallelism: 1"),
    "two proxies of a pair": PROXY_PAIR + "---" + PROXY_PAIR.replace("name: shop,", "name: shop2,"),
    "a pair of two Deployments": PAIR.replace("replicas: 2", "replicas: 1")
    + "---"
    + PAIR.replace("replicas: 2", "replicas: 1").replace("name: shop,", "name: shop2,"),
    "scaled to nothing": REDIRECT + "---" + OTHER.replace("replicas: 1", "replicas: 0"),
}


@pytest.mark.parametrize("name", FINE)
def test_pods_that_can(cli: CommandLine, name: str) -> None:
    assert FINE[name] != REDIRECT
    result = cli("check", "-f", cli.file(FINE[name]))
    assert (result.status, result.err) == (0, "")


def test_two_replicas_of_a_pair_are_never_rolled_out(cli: CommandLine) -> None:
    result = cli("check", "-f", cli.file(PAIR))
    assert result.status == 0
    assert "a roll-out replaces the standby, waits until that is ready" in result.err


def test_names_of_several_namespaces(cli: CommandLine) -> None:
    text = REDIRECT + "---" + REDIRECT.replace("namespace: egress", "namespace: b").replace("192.0.2.46", "192.0.2.98")
    result = cli("check", "-f", cli.file(text))
    assert result.status == 0
    assert [line.split(" ")[0] for line in result.out.splitlines()] == ["Deployment/egress/shop:", "Deployment/b/shop:"]
    explained = cli("explain", "80/tcp", "-f", cli.file(text), "-o", "json").json
    assert {name: rows[0]["source"] for name, rows in explained.items()} == {
        "Deployment/egress/shop": "192.0.2.46",
        "Deployment/b/shop": "192.0.2.98",
    }
    assert set(cli("plan", "-f", cli.file(text), "-o", "json").json) == set(explained)


def config_map(namespace: str, rule: str, kind: str = "ConfigMap") -> str:
    data = "stringData" if kind == "Secret" else "data"
    return f"kind: {kind}\nmetadata: {{name: list, namespace: {namespace}}}\n{data}: {{rules: {rule}, GW: 192.0.2.1}}\n"


FROM = REDIRECT.replace("value: 80 tcp 203.0.113.25}", "valueFrom: {configMapKeyRef: {name: list, key: rules}}}")


def test_config_maps_are_those_of_the_namespace_and_of_any_file(cli: CommandLine) -> None:
    pod = cli.file(FROM, "pod.yaml")
    maps = cli.file(
        config_map("other", "81 tcp 203.0.113.1") + "---\n" + config_map("egress", "82 tcp 203.0.113.2"), "m.yaml"
    )
    result = cli("explain", "82/tcp", "-f", pod, "-f", maps)
    assert "203.0.113.2:82" in result.out
    assert cli("check", "-f", str(cli.folder)).status == 0
    wrong = cli.file(config_map("other", "81 tcp 203.0.113.1"), "m.yaml")
    assert "comes from outside of" in cli("check", "-f", pod, "-f", wrong).err


def test_secrets(cli: CommandLine) -> None:
    text = (
        FROM.replace("configMapKeyRef", "secretKeyRef") + "---\n" + config_map("egress", "82 tcp 203.0.113.2", "Secret")
    )
    assert "203.0.113.2:82" in cli("explain", "82/tcp", "-f", cli.file(text)).out
    encoded = text.replace(
        "stringData: {rules: 82 tcp 203.0.113.2, GW: 192.0.2.1}", "data: {rules: ODMgdGNwIDIwMy4wLjExMy4z}"
    )
    assert "203.0.113.3:83" in cli("explain", "83/tcp", "-f", cli.file(encoded)).out


def test_references_are_expanded_as_the_kubelet_does(cli: CommandLine) -> None:
    text = REDIRECT.replace(
        "        - {name: EGRESS_DESTINATION, value: 80 tcp 203.0.113.25}\n",
        "        - {name: NET, value: 203.0.113}\n"
        "        - {name: EGRESS_DESTINATION, value: 80 tcp $(NET).25}\n        - {name: PRICE, value: $$(NET)$x$(GONE)}\n",
    )
    assert "203.0.113.25:80" in cli("explain", "80/tcp", "-f", cli.file(text)).out
    later = text.replace("        - {name: NET, value: 203.0.113}\n", "")
    result = cli("check", "-f", cli.file(later))
    assert result.status == 78
    assert "$(NET).25" in result.err


TOLD_APART = {
    "an empty file": ("\n \n", "is empty"),
    "a Template": ("kind: Template\nmetadata: {name: t}\nobjects: []\nparameters: []\n", "oc process -f"),
    "a Helm template": (
        "kind: Pod\nmetadata:\n  name: {{ .Release.Name }}\n{{- if .Values.x }}\n{{- end }}\n",
        "helm template",
    ),
    "Jsonnet": ("local x = 1;\n{ kind: 'Pod', x:: 2 }\n", "jsonnet"),
    "an array": (json.dumps([{"kind": "Pod"}]), '"kind": "List"'),
    "a ConfigMap alone": (config_map("a", "x"), "ConfigMap alone"),
    "an EgressRouter": ("kind: EgressRouter\nmetadata: {name: a}\n", "egress-router migrate"),
    "an EgressRouterList": ("kind: EgressRouterList\nitems: [{metadata: {name: a}}]\n", "egress-router migrate"),
    "a kustomization": ("kind: Kustomization\nresources: [a.yaml]\n", "kubectl kustomize"),
    "an attachment": (
        'kind: NetworkAttachmentDefinition\nmetadata: {name: a}\nspec: {config: \'{"type": "egress-router"}\'}\n',
        "oc get egressrouter",
    ),
    "a squid.conf": ("acl allowed dstdomain .example.com\nhttp_access allow allowed\n", "squid.conf"),
    "variables": ("EGRESS_SOURCE=192.0.2.46\n", "--env-file"),
    "variables in quotes": (
        "export EGRESS_SOURCE='192.0.2.46'\nEGRESS_GATEWAY=\"192.0.2.1\"\nA='b\nc'\nB: [c\n",
        "these are variables: --env-file takes them",
    ),
    "a Service": ("kind: Service\nmetadata: {name: a}\n", "has a Service alone"),
    "another object": ("kind: Route\nmetadata: {name: a}\n", "has no pod with EGRESS_* variables"),
    "comments alone": ("# nothing\n---\n", "is empty but for comments"),
    "an empty list": ("kind: PodList\nitems: []\n", "is a PodList without items"),
    "a Jinja template": ("kind: Pod\nmetadata:\n  name: {{ name }}\n  {% if x %}\n", "of Jinja"),
    "a ConfigMap and a Service": (
        config_map("a", "x") + "---\nkind: Service\nmetadata: {name: a}\n",
        "no pod that uses it",
    ),
    "a table": ("NAME   READY   STATUS\na      1/1     Running\n", "oc get … -o yaml"),
    "a description": ("Name:  a\nNode:  b\n", "oc get … -o yaml"),
    "tabs": ("kind: Pod\nmetadata:\n\tname: a\n", "a tab is no indentation"),
    "a conflict": ("<<<<<<< HEAD\nkind: Pod\n=======\nkind: [Pod\n>>>>>>> x\n", "merge conflict"),
    "callouts": ("a: b\nkind: [Pod <1>\nx: y <1>\n", "a callout of a page of documentation"),
}


@pytest.mark.parametrize("name", TOLD_APART)
def test_what_is_no_manifest_is_told_apart(cli: CommandLine, name: str) -> None:
    text, part = TOLD_APART[name]
    path = cli.file(text)
    result = cli("check", "-f", path)
    assert result.status == 78
    assert part in result.err
    assert path in result.err


@pytest.mark.parametrize(
    ("name", "part"),
    [("Chart.yaml", "helm template"), ("values.yaml", "helm template"), ("kustomization.yaml", "kubectl kustomize")],
)
def test_files_of_charts_are_known_by_their_names(cli: CommandLine, name: str, part: str) -> None:
    (cli.folder / name).write_text("name: x\nresources: [a]\n")
    result = cli("check", "-f", str(cli.folder / name))
    assert result.status == 78
    assert part in result.err


def test_what_powershell_writes_is_told(cli: CommandLine) -> None:
    (cli.folder / "x.yaml").write_bytes(REDIRECT.encode("utf-16"))
    result = cli("check", "-f", str(cli.folder / "x.yaml"))
    assert result.status == 78
    assert "is UTF-16" in result.err


def test_what_must_be_processed_first_is_not_passed_over_in_silence(cli: CommandLine) -> None:
    text = REDIRECT + "---\nkind: Template\nmetadata: {name: t}\n---\nkind: EgressRouter\nmetadata: {name: e}\n"
    result = cli("check", "-f", cli.file(text))
    assert result.status == 0
    assert "Template/t: is an OpenShift Template: passed over" in result.err
    assert "EgressRouter/e: is an EgressRouter" in result.err


def test_every_file_without_an_object_is_named(cli: CommandLine) -> None:
    (cli.folder / "a.yaml").write_text("")
    (cli.folder / "b.yaml").write_text("x\n")
    result = cli("check", "-f", str(cli.folder))
    assert result.status == 78
    assert "a.yaml: is empty" in result.err
    assert "b.yaml: has no Kubernetes object" in result.err


LIST = {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"list": "80 tcp 203.0.113.25\n", "more": "x"}}
ITEMS = {"configMap": {"name": "c", "items": [{"key": "list", "path": "a/b"}]}}


@pytest.mark.parametrize(
    ("path", "mount", "volume", "part"),
    [
        ("/etc/e/list", {}, {"configMap": {"name": "c"}}, ""),
        ("/etc/./e/x/../list", {}, {"configMap": {"name": "c"}}, ""),
        ("/etc/e/..data/list", {}, {"configMap": {"name": "c"}}, ""),
        ("/etc/e/a/b", {}, ITEMS, ""),
        ("/etc/e/b", {"subPath": "a"}, ITEMS, ""),
        ("/etc/e/b", {"subPathExpr": "$(DIR)"}, ITEMS, ""),
        (
            "/etc/e/list",
            {},
            {"projected": {"sources": [{"configMap": {"name": "gone"}}, {"configMap": {"name": "c"}}]}},
            "",
        ),
        ("/etc/e/list", {}, ITEMS, "is not in the ConfigMap c, which has a/b there"),
        ("/etc/e/List", {}, {"configMap": {"name": "c"}}, "is not in the ConfigMap c, which has list, more there"),
        ("/etc/e/list", {}, {"configMap": {"name": "gone"}}, "is in the ConfigMap gone, which is not in"),
        ("/etc/e/list", {}, {"emptyDir": {}}, "is in a volume (emptyDir)"),
        ("/etc/f/list", {}, {"configMap": {"name": "c"}}, "is in no ConfigMap of"),
    ],
)
def test_files_are_found_as_the_kubelet_mounts_them(
    cli: CommandLine, path: str, mount: dict[str, str], volume: dict[str, object], part: str
) -> None:
    item = yaml.safe_load(REDIRECT)
    spec = item["spec"]["template"]["spec"]
    (init,) = spec["initContainers"]
    init["env"] = [one for one in init["env"] if one["name"] != "EGRESS_DESTINATION"]
    init["env"] += [{"name": "DIR", "value": "a"}, {"name": "EGRESS_DESTINATION_FILE", "value": path}]
    init["volumeMounts"] = [{"name": "v", "mountPath": "/etc/e", **mount}]
    spec["volumes"] = [{"name": "v", **volume}]
    chosen = {**LIST, "metadata": {"name": "c", "namespace": "egress"}}
    result = cli("check", "-f", cli.file(json.dumps(item) + json.dumps(chosen)))
    assert (result.status, part in result.err) == (78 if part else 0, True)
    assert ("subPath" in result.err) == bool(mount)


def test_agents_of_egress_ips_are_no_routers(cli: CommandLine) -> None:
    base = Path(__file__).parents[3] / "deploy" / "egress-ips" / "base"
    result = cli("check", "-f", str(base))
    assert result.status == 78
    assert "has no pod with EGRESS_* variables" in result.err or "is a kustomization" in result.err
    path = cli.file(REDIRECT)
    assert cli("check", "-f", str(base), "-f", path).status == 0


def test_an_empty_name_is_no_directory(cli: CommandLine) -> None:
    result = cli("check", "-f", "")
    assert result.status == 2
    missing = cli("check", "-f", str(cli.folder / "gone.yaml"))
    assert missing.status == 78
    assert "cannot be read: No such file or directory (a file of YAML or JSON, or a directory" in missing.err


def test_lists_of_the_api(cli: CommandLine) -> None:
    pod = {
        "metadata": {"name": "a", "namespace": "x", "annotations": {"k8s.v1.cni.cncf.io/networks": "e"}},
        "spec": {
            "containers": [
                {
                    "name": "c",
                    "image": "egress-router-init",
                    "securityContext": {"privileged": True},
                    "env": [
                        {"name": "EGRESS_SOURCE", "value": "192.0.2.46"},
                        {"name": "EGRESS_GATEWAY", "value": "192.0.2.1"},
                        {"name": "EGRESS_DESTINATION", "value": "203.0.113.1"},
                    ],
                }
            ]
        },
    }
    result = cli("check", "-f", cli.file(json.dumps({"kind": "PodList", "apiVersion": "v1", "items": [pod]}), "x.json"))
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("Pod/a: ")


def test_a_pod_is_the_router_of_its_deployment(cli: CommandLine) -> None:
    def owned(kind: str, name: str, by: str, owner: str) -> str:
        reference = f"ownerReferences: [{{kind: {by}, name: {owner}, controller: true}}]"
        text = REDIRECT.replace("name: shop, namespace: egress", f"name: {name}, namespace: egress, {reference}")
        if kind == "Pod":
            head, tail = text.split("spec:\n", 1)
            inner = tail[tail.index("    spec:\n") + len("    spec:\n") :].replace("\n    ", "\n")
            return head.replace("apps/v1", "v1").replace("kind: Deployment\n", "kind: Pod\n") + "spec:\n" + inner[4:]
        return text.replace("kind: Deployment\n", f"kind: {kind}\n")

    dump = [
        REDIRECT,
        owned("ReplicaSet", "shop-1", "Deployment", "shop"),
        owned("Pod", "shop-1-x", "ReplicaSet", "shop-1"),
    ]
    result = cli("check", "-f", cli.file("---".join(dump)))
    assert (result.status, result.err) == (0, "")
    assert len(result.out.splitlines()) == 1


def test_pods_that_have_ended_hold_no_address(cli: CommandLine) -> None:
    pod = {**yaml.safe_load(REDIRECT)["spec"]["template"], "kind": "Pod"}
    pods = [
        {**pod, "metadata": {**pod["metadata"], "name": name, **more}, "status": {"phase": phase}}
        for name, phase, more in (
            ("now", "Running", {}),
            ("evicted", "Failed", {}),
            ("done", "Succeeded", {}),
            ("leaving", "Running", {"deletionTimestamp": "2024-05-01T10:00:00Z"}),
        )
    ]
    result = cli("check", "-f", cli.file("".join(json.dumps(one) + "\n" for one in pods)))
    assert result.status == 0
    assert result.out.count("ok") == 1
    for part in ("Pod/evicted: has ended (Failed)", "Pod/done: has ended (Succeeded)", "Pod/leaving: is being deleted"):
        assert f"warning: {part}: passed over" in result.err
    assert cli("migrate", cli.file("".join(json.dumps(one) + "\n" for one in pods))).status == 0


def test_migrate_takes_files_by_option_and_by_argument(cli: CommandLine) -> None:
    first = cli.file(REDIRECT, "first.yaml")
    second = cli.file(REDIRECT.replace("192.0.2.46", "192.0.2.47").replace("name: shop", "name: second"), "second.yaml")
    both = cli("migrate", first, second)
    assert both.status == 0
    for words in (["-f", first, "-f", second], ["--filename", first, second]):
        assert cli("migrate", *words) == both
    nothing = cli("migrate")
    assert nothing.status == 2
    assert "which manifests?" in nothing.err


def test_yaml_bombs_and_huge_scalars_are_errors_of_the_input(cli: CommandLine) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20)]
    for text in ("\n".join(lines), "[" * 100_000, "&a {kind: List, items: [*a]}", f"kind: {'9' * 100_000}"):
        for words in (["check"], ["plan"], ["explain", "80"]):
            result = cli(*words, "-f", cli.file(text))
            assert result.status == 78
            assert "Traceback" not in result.err
            assert len(result.err) < 1000
