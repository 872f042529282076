"""`migrate`: what is kept, what is said to be lost, and that our own output comes out as it went in."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from egress_router.cli.main import guarded, run

GOLDEN = Path(__file__).parents[1] / "golden"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
OURS = sorted(
    path / "manifests.yaml" for path in (GOLDEN / "manifests").iterdir() if (path / "manifests.yaml").exists()
)
MIGRATED = sorted(path / "new.yaml" for path in (GOLDEN / "migrate").iterdir() if (path / "new.yaml").exists())


class Migrate:
    """Runs `migrate` on objects."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capture = capture

    def __call__(
        self, *objects: dict[str, Any] | str, options: tuple[str, ...] = ()
    ) -> tuple[int, list[dict[str, Any]], str]:
        path = self.folder / "old.yaml"
        path.write_text(
            "---\n".join(one if isinstance(one, str) else yaml.safe_dump(one, default_style='"') for one in objects)
        )
        self.capture.readouterr()
        status = guarded(lambda: run(["migrate", str(path), *options]))
        printed = self.capture.readouterr()
        assert "Traceback" not in printed.err
        self.text = printed.out
        return status, [item for item in yaml.load_all(printed.out, Loader=LOADER) if item], printed.err


@pytest.fixture
def migrate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Migrate:
    return Migrate(tmp_path, capsys)


def router(
    name: str = "shop", source: str = "192.0.2.99", rules: str = "80 tcp 203.0.113.25", **metadata: Any
) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, **metadata},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {"app": "egress"}},
            "template": {
                "metadata": {
                    "labels": {"app": "egress"},
                    "annotations": {"pod.network.openshift.io/assign-macvlan": "true"},
                },
                "spec": {
                    "initContainers": [
                        {
                            "name": "setup",
                            "image": "openshift/origin-egress-router",
                            "securityContext": {"privileged": True},
                            "env": [
                                {"name": "EGRESS_SOURCE", "value": source},
                                {"name": "EGRESS_GATEWAY", "value": "192.0.2.1"},
                                {"name": "EGRESS_DESTINATION", "value": rules},
                                {"name": "EGRESS_ROUTER_MODE", "value": "init"},
                            ],
                        }
                    ],
                    "containers": [
                        {
                            "name": "wait",
                            "image": "openshift/origin-pod",
                            "ports": [{"name": "web", "containerPort": 80}],
                        }
                    ],
                },
            },
        },
    }


def dumped(item: dict[str, Any]) -> str:
    """Return an object as YAML that Kubernetes reads as it is here."""
    return json.dumps(item, indent=1) + "\n"


def service(**spec: Any) -> dict[str, Any]:
    name = spec.pop("name", "egress")
    metadata = {"name": name, **spec.pop("metadata", {})}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"selector": {"app": "egress"}, "ports": [{"port": 80}], **spec},
    }


def by_kind(items: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [item for item in items if item["kind"] == kind]


def source_of(workload: dict[str, Any]) -> str:
    containers = workload["spec"]["template"]["spec"]["initContainers"]
    (init,) = [container for container in containers if container["name"] == "init"]
    return str(next(one["value"] for one in init["env"] if one["name"] == "EGRESS_SOURCE"))


def template(item: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = item["spec"]["template"]
    return found


def distinct(items: list[dict[str, Any]]) -> None:
    names = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in items]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", [*OURS, *MIGRATED], ids=lambda path: path.parent.name)
def test_what_we_wrote_is_a_fixed_point(migrate: Migrate, path: Path) -> None:
    status, _, notes = migrate(path.read_text())
    assert status == 0
    assert migrate.text == path.read_text()
    assert not [line for line in notes.splitlines() if line.startswith(("lost", "changed", "was wrong"))]


@pytest.mark.parametrize(
    ("component", "more"),
    [
        ("redirect", ()),
        ("redirect", ("--source", "192.0.2.47")),
        ("redirect", ("--pair", "46")),
        ("http-proxy", ()),
        ("http-proxy", ("--source", "192.0.2.47")),
        ("http-proxy", ("--pair", "46")),
    ],
)
def test_a_grace_that_was_asked_for_stays_also_where_it_is_what_others_have(
    migrate: Migrate, component: str, more: tuple[str, ...]
) -> None:
    """The pod has as much time to end as that takes: with another grace it would be killed in the middle."""
    listed = migrate.folder / "list"
    listed.write_text("80 tcp 203.0.113.25\n" if component == "redirect" else "*\n")
    words = ["--name", "shop", "--source", "192.0.2.46", "--gateway", "192.0.2.1", "--destinations", str(listed)]
    words += ["--platform", "kubernetes", "--parent-interface", "eth1", "--set", "EGRESS_SHUTDOWN_GRACE=10", *more]
    assert guarded(lambda: run(["manifests", component, *words])) == 0
    written = migrate.capture.readouterr().out
    status, items, _ = migrate(written)
    assert status == 0
    assert items == [item for item in yaml.load_all(written, Loader=LOADER) if item]


@pytest.mark.parametrize(("whole", "beside"), [(65, False), (85, True)])
def test_a_proxy_waits_for_its_successor_where_the_pod_has_the_time(migrate: Migrate, whole: int, beside: bool) -> None:
    """20 s before its grace, and it would be killed in that."""
    old = router()
    old["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = whole
    (init,) = old["spec"]["template"]["spec"]["initContainers"]
    init["env"] = [one for one in init["env"] if one["name"] != "EGRESS_DESTINATION"]
    init["env"][-1]["value"] = "http-proxy"
    env = [{"name": "EGRESS_HTTP_PROXY_DESTINATION", "value": "*"}, {"name": "EGRESS_SHUTDOWN_GRACE", "value": "60"}]
    old["spec"]["template"]["spec"]["containers"] = [{"name": "p", "image": "origin-egress-http-proxy", "env": env}]
    _, items, _ = migrate(old, options=("--platform", "kubernetes", "--parent-interface", "eth1"))
    (item,) = by_kind(items, "Deployment")
    assert item["spec"]["strategy"]["type"] == ("RollingUpdate" if beside else "Recreate")
    hooks = [one["lifecycle"] for one in template(item)["spec"]["containers"] if "lifecycle" in one]
    assert len(hooks) == beside


def test_one_half_of_a_pair_is_no_router_alone_in_silence(migrate: Migrate) -> None:
    text = (GOLDEN / "manifests" / "redirect-pair" / "manifests.yaml").read_text()
    items = [item for item in yaml.load_all(text, Loader=LOADER) if item]
    whole, _, _ = migrate(*map(dumped, items))
    second = by_kind(items, "Deployment")[1]
    half, _, notes = migrate(*(dumped(item) for item in items if item is not second))
    assert (whole, half) == (0, 65)
    assert "lost: Deployment/dual-1: EGRESS_PAIR=" in notes


def test_cost_grows_as_the_number_of_routers_does(migrate: Migrate) -> None:
    """Each doubling makes it at most 2.3 times as long, in the mean of three doublings."""

    def seconds(count: int) -> float:
        objects: list[dict[str, Any]] = []
        for number in range(count):
            one = router(f"r{number}", f"192.0.{2 + number // 250}.{2 + number % 250}")
            template(one)["metadata"]["labels"] = {"app": f"r{number}"}
            objects += [one, service(name=f"r{number}", selector={"app": f"r{number}"})]
        text = "---\n".join(map(dumped, objects))
        started = time.process_time()
        status, written, _ = migrate(text, options=("--gateway", "192.0.0.1", "--accept-losses"))
        assert (status, len(by_kind(written, "Deployment"))) == (0, count)
        return time.process_time() - started

    seconds(2)
    assert (seconds(240) / min(seconds(30), seconds(30))) ** (1 / 3) < 2.3


@pytest.mark.parametrize("kind", ["Pod", "ReplicaSet", "StatefulSet"])
def test_pods_of_ours_in_a_dump(migrate: Migrate, kind: str) -> None:
    items = [item for item in yaml.load_all(OURS[0].read_text(), Loader=LOADER) if item]
    (workload,) = by_kind(items, "Deployment")
    made: dict[str, Any] = {"apiVersion": "apps/v1", "kind": kind, "metadata": workload["metadata"]}
    made |= {"spec": workload["spec"]} if kind != "Pod" else template(workload)
    made["metadata"] = {**workload["metadata"], **made["metadata"], "name": "x-1"}
    status, written, _ = migrate(*(dumped(made if item is workload else item) for item in items))
    assert status == 0
    assert template(by_kind(written, "Deployment")[0]) == template(workload)


def test_two_namespaces(migrate: Migrate) -> None:
    one, two = router("egress", "192.0.2.99", namespace="a"), router("egress", "192.0.2.98", namespace="b")
    maps = [
        {
            "kind": "ConfigMap",
            "apiVersion": "v1",
            "metadata": {"name": "list", "namespace": space},
            "data": {"k": f"80 tcp 203.0.113.{n}"},
        }
        for space, n in (("a", 1), ("b", 2))
    ]
    for item in (one, two):
        env = template(item)["spec"]["initContainers"][0]["env"]
        env[2] = {"name": "EGRESS_DESTINATION", "valueFrom": {"configMapKeyRef": {"name": "list", "key": "k"}}}
    services = [service(name="egress", metadata={"namespace": "b"}), service(name="front", metadata={"namespace": "a"})]
    status, items, _ = migrate(*map(dumped, (one, two, *maps, *services)))
    assert status == 0
    distinct(items)
    assert {item["metadata"]["namespace"]: source_of(item) for item in by_kind(items, "Deployment")} == {
        "a": "192.0.2.99",
        "b": "192.0.2.98",
    }
    assert {item["metadata"]["namespace"]: item["metadata"]["name"] for item in by_kind(items, "Service")} == {
        "a": "front",
        "b": "egress",
    }
    assert {item["metadata"]["namespace"]: item["data"]["destinations"] for item in by_kind(items, "ConfigMap")} == {
        "a": "80 tcp 203.0.113.1\n",
        "b": "80 tcp 203.0.113.2\n",
    }


def test_two_routers_behind_one_service(migrate: Migrate) -> None:
    first, second = router("r-1", "192.0.2.46"), router("r-2", "192.0.2.47", rules="80   tcp 203.0.113.25 # the same")
    template(first)["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "n1"}
    template(second)["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "n2"}
    status, items, notes = migrate(dumped(first), dumped(second), dumped(service()))
    assert status == 0
    distinct(items)
    deployments = by_kind(items, "Deployment")
    assert [item["metadata"]["name"] for item in deployments] == ["egress-1", "egress-2"]
    assert [source_of(item) for item in deployments] == ["192.0.2.46", "192.0.2.47"]
    assert [template(item)["spec"]["nodeSelector"]["kubernetes.io/hostname"] for item in deployments] == ["n1", "n2"]
    assert (
        len(by_kind(items, "Service"))
        == len(by_kind(items, "ConfigMap"))
        == len(by_kind(items, "PodDisruptionBudget"))
        == 1
    )
    assert "2 routers become one set" in notes
    once = migrate.text
    assert migrate(once)[0] == 0
    assert migrate.text == once


@pytest.mark.parametrize(
    ("other", "part"),
    [
        (router("r-2", "192.0.2.47", rules="81 tcp 203.0.113.25"), "destinations"),
        (json.loads(dumped(router("r-2", "192.0.2.47")).replace('"192.0.2.1"', '"192.0.2.2"')), "EGRESS_GATEWAY"),
    ],
)
def test_routers_behind_one_service_that_differ_are_refused(migrate: Migrate, other: dict[str, Any], part: str) -> None:
    status, items, notes = migrate(dumped(router("r-1", "192.0.2.46")), dumped(other), dumped(service()))
    assert (status, items) == (78, [])
    assert f"Service/egress: selects Deployment/r-1, Deployment/r-2, whose {part} differ" in notes


def test_the_service_is_kept(migrate: Migrate) -> None:
    old = service(
        metadata={"annotations": {"service.beta/x": "y", "n": "08"}, "labels": {"team": "a"}},
        ports=[
            {"name": "web", "port": 8080, "targetPort": "web", "protocol": "TCP", "nodePort": 30080},
            {"name": "more", "port": 443, "targetPort": 80},
        ],
        type="NodePort",
        externalIPs=["198.51.100.7"],
        sessionAffinity="ClientIP",
        clusterIP="10.96.0.7",
        clusterIPs=["10.96.0.7"],
    )
    second = service(name="second", ports=[{"port": 80}])
    nothing = service(name="nothing", selector={"app": "other"})
    status, items, notes = migrate(*map(dumped, (router(), old, second, nothing)))
    assert status == 0
    first, more = by_kind(items, "Service")
    assert first["metadata"]["name"] == "egress"
    assert first["metadata"]["annotations"] == {"service.beta/x": "y", "n": "08"}
    assert first["metadata"]["labels"]["team"] == "a"
    assert first["spec"]["ports"] == [
        {"name": "web", "port": 8080, "targetPort": 80, "protocol": "TCP", "nodePort": 30080},
        {"name": "more", "port": 443, "targetPort": 80},
    ]
    assert {key: first["spec"][key] for key in ("type", "externalIPs", "sessionAffinity")} == {
        "type": "NodePort",
        "externalIPs": ["198.51.100.7"],
        "sessionAffinity": "ClientIP",
    }
    assert "clusterIP" not in first["spec"]
    assert (more["metadata"]["name"], more["spec"]["ports"]) == ("second", [{"port": 80, "targetPort": 80}])
    labels = template(by_kind(items, "Deployment")[0])["metadata"]["labels"]
    assert all(item["spec"]["selector"].items() <= labels.items() for item in (first, more))
    assert "Service/nothing: selects none of these routers" in notes
    once = migrate.text
    assert migrate(once)[0] == 0
    assert migrate.text == once


def test_the_service_of_an_egress_router_object(migrate: Migrate) -> None:
    old = {
        "apiVersion": "network.operator.openshift.io/v1",
        "kind": "EgressRouter",
        "metadata": {"name": "er", "namespace": "shop"},
        "spec": {
            "addresses": [{"ip": "192.0.2.46/24", "gateway": "192.0.2.1"}],
            "mode": "Redirect",
            "redirect": {"redirectRules": [{"destinationIP": "203.0.113.25", "port": 80, "protocol": "TCP"}]},
            "networkInterface": {"macvlan": {"mode": "Bridge"}},
        },
    }
    front = service(
        name="front",
        metadata={"namespace": "shop"},
        selector={"app": "egress-router-cni"},
        ports=[{"name": "w", "port": 8080, "targetPort": 80}],
    )
    status, items, notes = migrate(dumped(old), dumped(front))
    assert status == 0
    (found,) = by_kind(items, "Service")
    assert (found["metadata"]["name"], found["spec"]["ports"]) == (
        "front",
        [{"name": "w", "port": 8080, "targetPort": 80}],
    )
    assert "ignored" not in notes
    assert "no JSON" not in notes


def test_the_nic_of_the_annotation(migrate: Migrate) -> None:
    item = router()
    template(item)["metadata"]["annotations"] = {"pod.network.openshift.io/assign-macvlan": "eth1"}
    status, items, notes = migrate(dumped(item))
    assert status == 0
    (found,) = by_kind(items, "Deployment")
    assert template(found)["metadata"]["annotations"]["pod.network.openshift.io/assign-macvlan"] == "eth1"
    assert 'assign-macvlan: "eth1"' in notes
    once = migrate.text
    migrate(once)
    assert migrate.text == once


def test_pods_that_are_on_multus(migrate: Migrate) -> None:
    item = router(namespace="shop")
    networks = '[{"name": "outside", "namespace": "net", "interface": "out0"}]'
    template(item)["metadata"]["annotations"] = {"k8s.v1.cni.cncf.io/networks": networks}
    template(item)["spec"]["initContainers"][0]["env"].append({"name": "EGRESS_INTERFACE", "value": "out0"})
    attachment = {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "outside", "namespace": "net"},
        "spec": {"config": "{}"},
    }
    status, items, notes = migrate(dumped(item), dumped(attachment))
    assert status == 0
    (found,) = by_kind(items, "Deployment")
    assert template(found)["metadata"]["annotations"] == {"k8s.v1.cni.cncf.io/networks": networks}
    for container in (*template(found)["spec"]["initContainers"], *template(found)["spec"]["containers"]):
        assert {"name": "EGRESS_INTERFACE", "value": "out0"} in container["env"]
        assert not container["securityContext"].get("privileged")
    assert not by_kind(items, "NetworkAttachmentDefinition")
    assert "no macvlan" not in notes
    once = migrate.text
    migrate(once)
    assert migrate.text == once


def annotated(annotations: dict[str, str], **env: str) -> dict[str, Any]:
    item = router()
    template(item)["metadata"]["annotations"] = annotations
    template(item)["spec"]["initContainers"][0]["env"] += [{"name": key, "value": env[key]} for key in env]
    return item


SDN, NETWORKS = "pod.network.openshift.io/assign-macvlan", "k8s.v1.cni.cncf.io/networks"


def test_the_nic_of_a_router_that_makes_its_own_macvlan(migrate: Migrate) -> None:
    status, items, notes = migrate(dumped(annotated({}, EGRESS_PARENT_INTERFACE="ens224")))
    assert status == 0
    (attachment,) = by_kind(items, "NetworkAttachmentDefinition")
    assert json.loads(attachment["spec"]["config"])["plugins"][0]["master"] == "ens224"
    assert "changed: Deployment/shop: the macvlan on ens224 comes by a network attachment" in notes


def test_both_annotations(migrate: Migrate) -> None:
    """`init` takes the SDN's macvlan0 where EGRESS_INTERFACE does not name another."""
    status, items, _ = migrate(dumped(annotated({SDN: "eth1", NETWORKS: "storage"})))
    assert status == 0
    found = template(by_kind(items, "Deployment")[0])["metadata"]["annotations"]
    assert found == {SDN: "eth1", NETWORKS: "storage"}
    text = migrate.text
    assert migrate(text)[0] == 0
    assert migrate.text == text
    status, items, notes = migrate(dumped(annotated({SDN: "true", NETWORKS: "egress"}, EGRESS_INTERFACE="net1")))
    assert template(by_kind(items, "Deployment")[0])["metadata"]["annotations"] == {NETWORKS: "egress"}
    assert f"changed: Deployment/shop: {SDN} is left out: net1 is the egress interface" in notes


def test_a_default_route_of_multus_is_left_out(migrate: Migrate) -> None:
    networks = json.dumps([{"name": "a", "interface": "net1", "default-route": ["192.0.2.1"]}])
    status, items, notes = migrate(dumped(annotated({NETWORKS: networks}, EGRESS_INTERFACE="net1")))
    assert status == 0
    found = template(by_kind(items, "Deployment")[0])["metadata"]["annotations"][NETWORKS]
    assert json.loads(found) == [{"name": "a", "interface": "net1"}]
    assert "was wrong: Deployment/shop: annotations k8s.v1.cni.cncf.io/networks: has a default-route" in notes
    assert "has no default-route any more" in notes


@pytest.mark.parametrize("annotations", [{}, {SDN: "false"}])
def test_where_nothing_gives_an_interface(migrate: Migrate, annotations: dict[str, str]) -> None:
    status, items, notes = migrate(dumped(annotated(annotations)))
    assert status == 0
    assert template(by_kind(items, "Deployment")[0])["metadata"]["annotations"] == {SDN: "true"}
    assert "was wrong: Deployment/shop: annotations: nothing gives the pod an egress interface" in notes
    assert f'changed: Deployment/shop: {SDN}: "true" is written, for OpenShift SDN' in notes
    status, items, notes = migrate(dumped(annotated(annotations)), options=("--platform", "openshift"))
    assert (status, items) == (78, [])
    assert "decide which network the cluster has" in notes
    status, items, _ = migrate(dumped(annotated(annotations)), options=("--platform", "openshift", "--sdn"))
    assert status == 0
    assert template(by_kind(items, "Deployment")[0])["metadata"]["annotations"] == {SDN: "true"}


def test_addresses_that_an_egress_router_never_used(migrate: Migrate) -> None:
    addresses = [
        {"ip": "192.0.2.99/24", "gateway": "192.0.2.1"},
        {"ip": "192.0.2.98/24", "gateway": "192.0.2.1"},
        {"ip": "2001:db8::9/64", "gateway": "2001:db8::1"},
    ]
    rules = [{"destinationIP": "203.0.113.25", "port": 80, "protocol": "TCP"}]
    item = {
        "apiVersion": "network.operator.openshift.io/v1",
        "kind": "EgressRouter",
        "metadata": {"name": "e"},
        "spec": {"addresses": addresses, "redirect": {"redirectRules": rules}},
    }
    made = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "egress-router-cni-deployment"},
        "spec": {"template": {"metadata": {"labels": {"app": "egress-router-cni"}}, "spec": {"containers": []}}},
    }
    status, items, notes = migrate(dumped(item), dumped(made))
    assert status == 0
    assert source_of(by_kind(items, "Deployment")[0]) == "192.0.2.99/24 2001:db8::9/64"
    assert "changed: EgressRouter/e: 192.0.2.98/24 is not taken over" in notes
    assert "changed: Deployment/egress-router-cni-deployment: was made for an EgressRouter" in notes


def test_what_has_nothing_to_do_with_the_router_is_kept(migrate: Migrate) -> None:
    item = router(labels={"team": "a"}, annotations={"contact": "y"})
    pod = template(item)
    pod["metadata"]["labels"] |= {"release": "08"}
    pod["metadata"]["annotations"] |= {"note": "1e3"}
    spec = pod["spec"]
    sidecar = {
        "name": "logs",
        "image": "logs:1",
        "command": ["/logs"],
        "args": ["-v", "y"],
        "env": [{"name": "A", "value": "0o17"}],
        "resources": {"limits": {"memory": "32Mi"}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    before = {
        "name": "wait-for-dns",
        "image": "busybox",
        "command": ["sh", "-c", "until nslookup a; do sleep 1; done\necho"],
    }
    spec["containers"].append(sidecar)
    spec["initContainers"].insert(0, before)
    spec["initContainers"][1]["resources"] = {"limits": {"memory": "99Mi"}}
    spec["initContainers"][1]["env"] += [
        {"name": "TZ", "value": "UTC"},
        {"name": "EGRESS_CLUSTER_CIDRS", "value": "10.0.0.0/8"},
    ]
    spec["volumes"] = [{"name": "data", "emptyDir": {}}]
    spec["imagePullSecrets"] = [{"name": "pull"}]
    spec["tolerations"] = [{"key": "infra", "operator": "Exists"}]
    spec["priorityClassName"] = "high"
    spec["hostAliases"] = [{"ip": "10.0.0.1", "hostnames": ["a"]}]
    status, items, notes = migrate(dumped(item))
    assert status == 0, notes
    (found,) = by_kind(items, "Deployment")
    new = template(found)
    assert found["metadata"]["labels"]["team"] == "a"
    assert found["metadata"]["annotations"] == {"contact": "y"}
    assert new["metadata"]["labels"]["release"] == "08"
    assert new["metadata"]["annotations"]["note"] == "1e3"
    assert new["spec"]["containers"][1] == sidecar
    assert new["spec"]["initContainers"][0] == before
    assert new["spec"]["initContainers"][1]["resources"] == {"limits": {"memory": "99Mi"}}
    assert {"name": "TZ", "value": "UTC"} in new["spec"]["initContainers"][1]["env"]
    for container in (new["spec"]["initContainers"][1], new["spec"]["containers"][0]):
        assert {"name": "EGRESS_CLUSTER_CIDRS", "value": "10.0.0.0/8"} in container["env"]
    assert {"name": "data", "emptyDir": {}} in new["spec"]["volumes"]
    for key in ("imagePullSecrets", "priorityClassName", "hostAliases"):
        assert new["spec"][key] == spec[key]
    assert {"key": "infra", "operator": "Exists"} in new["spec"]["tolerations"]
    for what in (
        "the container logs",
        "the init container wait-for-dns",
        "imagePullSecrets",
        "TZ",
        "EGRESS_CLUSTER_CIDRS",
    ):
        assert f"same: Deployment/shop: {what}" in notes
    once = migrate.text
    assert migrate(once)[0] == 0
    assert migrate.text == once


LOST = {
    "a command": (("initContainers", 0, "command"), ["sh", "-c", "x"], "command of the container setup"),
    "a hook": (("initContainers", 0, "lifecycle"), {"preStop": {}}, "lifecycle of the container setup"),
    "a volume of the container that waited": (
        (),
        {
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [{"name": "wait", "image": "pause", "volumeMounts": [{"name": "data", "mountPath": "/x"}]}],
        },
        "the volume data, which nothing mounts any more",
    ),
    "a port of the node": (
        ("initContainers", 0, "ports"),
        [{"containerPort": 80, "hostPort": 80}],
        "hostPort 80 of the container setup",
    ),
    "a time limit": (("activeDeadlineSeconds",), 60, "activeDeadlineSeconds, which a pod alone may have"),
    "containers for debugging": (("ephemeralContainers",), [{"name": "d", "image": "x"}], "ephemeralContainers"),
    "a second router": (
        ("containers",),
        [
            {
                "name": "dns",
                "image": "egress-router-dns",
                "env": [{"name": "EGRESS_DNS_PROXY_DESTINATION", "value": "80 a.example"}],
            },
            {
                "name": "http",
                "image": "egress-router-proxy",
                "env": [{"name": "EGRESS_HTTP_PROXY_DESTINATION", "value": "*"}],
            },
        ],
        "the container dns: a pod has one router here, the http-proxy",
    ),
    "a ConfigMap that is elsewhere": (
        ("initContainers", 0, "envFrom"),
        [{"configMapRef": {"name": "gone"}}],
        "envFrom of the container setup: the ConfigMap gone",
    ),
}


@pytest.mark.parametrize("name", LOST)
def test_what_is_lost_is_said_and_has_an_exit_code(migrate: Migrate, name: str) -> None:
    path, value, part = LOST[name]
    item = router()
    target: Any = template(item)["spec"]
    for key in path[:-1]:
        target = target[key]
    target.update(value if not path else {path[-1]: value})
    status, items, notes = migrate(dumped(item))
    assert f"lost: Deployment/shop: {part}" in notes
    assert status == 65
    distinct(items)
    assert by_kind(items, "Deployment")
    assert migrate(dumped(item), options=("--accept-losses",))[0] == 0


CHANGED = {
    "a volume that nothing mounted": (
        {"volumes": [{"name": "unused", "emptyDir": {}}]},
        "the volume unused, which nothing mounted",
    ),
    "a pod that ends": ({"restartPolicy": "OnFailure"}, "restartPolicy is Always, it was OnFailure"),
    "other containers' token": (
        {"containers": [{"name": "side", "image": "x"}]},
        "containers have no token of a service account",
    ),
    "other containers' Services": (
        {"containers": [{"name": "side", "image": "x"}]},
        "containers have no variables of Services",
    ),
    "a pod without root": ({"securityContext": {"runAsNonRoot": True}}, "runAsNonRoot is not said of the pod"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_changes_is_said(migrate: Migrate, name: str) -> None:
    fields, part = CHANGED[name]
    item = router()
    template(item)["spec"].update(fields)
    status, _, notes = migrate(dumped(item))
    assert f"changed: Deployment/shop: {part}" in notes
    assert status == 0


def test_the_security_context_of_the_pod_is_kept(migrate: Migrate) -> None:
    item = router()
    spec = template(item)["spec"]
    sysctl = {"name": "net.ipv4.tcp_keepalive_time", "value": "60"}
    spec["securityContext"] = {"fsGroup": 1, "runAsNonRoot": True, "sysctls": [sysctl]}
    spec["containers"].append({"name": "side", "image": "x", "securityContext": {"runAsUser": 7}})
    status, items, _ = migrate(dumped(item))
    assert status == 0
    (written,) = by_kind(items, "Deployment")
    assert template(written)["spec"]["securityContext"] == {"fsGroup": 1, "sysctls": [sysctl]}
    (side,) = [one for one in template(written)["spec"]["containers"] if one["name"] == "side"]
    assert side["securityContext"] == {"runAsUser": 7, "runAsNonRoot": True}
    assert migrate(self_text := migrate.text)[0] == 0
    assert migrate.text == self_text


def admits(constraints: dict[str, Any], spec: dict[str, Any]) -> list[str]:
    """Return what OpenShift's admission has against a pod, as far as these fields go."""
    found = []
    kinds = {key for volume in spec.get("volumes", []) for key in volume if key != "name"}
    found += [f"volume {kind}" for kind in kinds - set(constraints["volumes"])]
    if "hostPath" in kinds and not constraints["allowHostDirVolumePlugin"]:
        found.append("host directory")
    whole = spec.get("securityContext", {})
    if "fsGroup" in whole and constraints["fsGroup"]["type"] != "RunAsAny":
        found.append("fsGroup")
    if "seLinuxOptions" in whole and constraints["seLinuxContext"]["type"] != "RunAsAny":
        found.append("seLinuxOptions")
    # Any pod may have this one.
    names = {one["name"] for one in whole.get("sysctls", [])} - {"net.ipv4.ip_unprivileged_port_start"}
    found += [f"sysctl {name}" for name in names - set(constraints.get("allowedUnsafeSysctls", []))]
    for container in (*spec.get("initContainers", []), *spec["containers"]):
        context = container.get("securityContext", {})
        if context.get("privileged") and not constraints["allowPrivilegedContainer"]:
            found.append("privileged")
        added = set(context.get("capabilities", {}).get("add", []))
        found += [f"capability {name}" for name in added - set(constraints["allowedCapabilities"])]
        if context.get("allowPrivilegeEscalation") is not False and not constraints["allowPrivilegeEscalation"]:
            found.append("escalation")
        if context.get("readOnlyRootFilesystem") is not True and constraints["readOnlyRootFilesystem"]:
            found.append("read-only root")
        if not constraints["allowHostPorts"] and any("hostPort" in port for port in container.get("ports", [])):
            found.append("hostPort")
    return found


RICH = {
    "nothing": {},
    "a secret": {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]},
    "volumes": {
        "volumes": [
            {"name": "v", "persistentVolumeClaim": {"claimName": "c"}},
            {"name": "w", "hostPath": {"path": "/x"}},
            {"name": "x", "projected": {"sources": []}},
        ]
    },
    "a group": {"securityContext": {"fsGroup": 5, "seLinuxOptions": {"level": "s0"}}},
    "a sysctl": {"securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1024"}]}},
}


@pytest.mark.parametrize("options", [("--parent-interface", "eth1"), ()], ids=["multus", "sdn"])
@pytest.mark.parametrize("name", RICH)
@pytest.mark.parametrize(
    "side",
    [
        {},
        {"securityContext": {"privileged": True}},
        {"securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}},
        {"ports": [{"containerPort": 9, "hostPort": 9}]},
    ],
    ids=["plain", "privileged", "capability", "port"],
)
def test_the_constraints_let_the_pod_in(
    migrate: Migrate, name: str, side: dict[str, Any], options: tuple[str, ...]
) -> None:
    """What is kept of the old pod must pass the SCC that is written for it."""
    item = router()
    spec = template(item)["spec"]
    spec.update(RICH[name])
    mounts = [{"name": one["name"], "mountPath": f"/{one['name']}"} for one in spec.get("volumes", [])]
    spec["containers"].append({"name": "side", "image": "x", "volumeMounts": mounts, **side})
    status, items, _ = migrate(dumped(item), options=options)
    assert status == 0
    (constraints,) = by_kind(items, "SecurityContextConstraints")
    (written,) = by_kind(items, "Deployment")
    assert admits(constraints, template(written)["spec"]) == []
    # Nothing is allowed for nothing.
    assert constraints["allowHostDirVolumePlugin"] == (name == "volumes")
    assert constraints["allowHostPorts"] == ("ports" in side)
    assert constraints["allowPrivilegedContainer"] == (not options or "privileged" in side.get("securityContext", {}))


def policy_of(items: list[dict[str, Any]]) -> dict[str, Any]:
    (policy,) = by_kind(items, "NetworkPolicy")
    found: dict[str, Any] = policy["spec"]["ingress"][0]
    return found


@pytest.mark.parametrize("fields", [{"type": "NodePort"}, {"type": "LoadBalancer"}, {"externalIPs": ["198.51.100.9"]}])
def test_clients_from_outside_of_the_cluster_are_let_in(migrate: Migrate, fields: dict[str, Any]) -> None:
    status, items, notes = migrate(dumped(router()), dumped(service(**fields)))
    assert status == 0
    assert policy_of(items)["from"] == []
    assert "the NetworkPolicy lets anyone in" in notes
    text = migrate.text
    assert migrate(text)[0] == 0
    assert migrate.text == text
    _, items, _ = migrate(dumped(router()), dumped(service()))
    assert policy_of(items)["from"] == [{"namespaceSelector": {}}]


def test_ports_of_other_containers_are_let_in(migrate: Migrate) -> None:
    item = router()
    template(item)["spec"]["containers"].append(
        {"name": "side", "image": "x", "ports": [{"name": "metrics", "containerPort": 9100}]}
    )
    ports = [{"name": "http", "port": 80}, {"name": "m", "port": 9, "targetPort": "metrics"}]
    for options in ((), ("--parent-interface", "eth1")):
        _, items, notes = migrate(dumped(item), dumped(service(ports=ports)), options=options)
        assert {one["port"] for one in policy_of(items)["ports"]} == {80, 9100}
        assert "changed: Service/egress: targetPort metrics is 9100" in notes
        assert "no line of" not in notes


def test_a_port_that_leads_nowhere_is_said(migrate: Migrate) -> None:
    ports = [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "x", "port": 81}]
    status, _, notes = migrate(dumped(router()), dumped(service(ports=ports)))
    assert status == 0
    assert "was wrong: Service/egress: port 53 leads to 53 udp, and no line of Deployment/shop claims that" in notes
    assert "was wrong: Service/egress: port 81" in notes
    assert "port 80 leads" not in notes
    _, _, notes = migrate(dumped(router(rules="203.0.113.25")), dumped(service(ports=ports)))
    assert "no line of" not in notes


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"selector": {}}, "selected nothing, which is none of the routers"),
        ({"selector": {"app": "other"}}, "selected app=other"),
        ({"type": "ExternalName", "externalName": "a.example.com"}, "was an ExternalName for a.example.com"),
    ],
)
def test_a_service_with_our_name_that_selects_nothing(migrate: Migrate, fields: dict[str, Any], part: str) -> None:
    ports = [{"name": "shop", "port": 8000, "targetPort": 80}]
    endpoints = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "shop"}}
    status, items, notes = migrate(
        dumped(router()), dumped(service(name="shop", ports=ports, **fields)), dumped(endpoints)
    )
    assert status == 0
    assert f"changed: Service/shop: {part}" in notes
    assert "Service/shop: selects none" not in notes
    assert "changed: Endpoints/shop: was made by hand" in notes
    (written,) = by_kind(items, "Service")
    assert (written["spec"]["ports"][0]["name"] == "shop") == ("externalName" not in fields)
    assert written["spec"].get("type") is None


def test_what_becomes_of_config_maps_and_secrets(migrate: Migrate) -> None:
    item = router()
    env = template(item)["spec"]["initContainers"][0]["env"]
    env[2] = {"name": "EGRESS_DESTINATION", "valueFrom": {"configMapKeyRef": {"name": "list", "key": "a"}}}
    env.append({"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "t"}}})
    maps = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "list"}, "data": {"a": "80 tcp 203.0.113.25"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"t": "x"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}, "data": {"a": "x"}},
    ]
    status, _, notes = migrate(dumped(item), *map(dumped, maps))
    assert status == 0
    assert "changed: ConfigMap/list: is no longer read" in notes
    assert "same: Secret/s: is read by the new router as well" in notes
    assert "same: ConfigMap/other: is no part of a router" in notes
    env[2]["valueFrom"]["configMapKeyRef"]["name"] = maps[0]["metadata"]["name"] = "shop"  # type: ignore[index]
    status, _, notes = migrate(dumped(item), *map(dumped, maps))
    assert (status, "changed: ConfigMap/shop: ours has its name" in notes) == (0, True)
    maps[0]["data"]["b"] = "used by others"  # type: ignore[index]
    status, _, notes = migrate(dumped(item), *map(dumped, maps))
    assert (status, "lost: ConfigMap/shop: its keys b" in notes) == (65, True)


def test_an_autoscaler_of_a_router_must_go(migrate: Migrate) -> None:
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "shop"}},
    }
    _, _, notes = migrate(dumped(router()), dumped(scaler))
    assert "changed: HorizontalPodAutoscaler/h: must go before" in notes
    assert "HorizontalPodAutoscaler/h: is no part" not in notes


def test_the_node_that_was_chosen_by_hand_stays(migrate: Migrate) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shop"}, "spec": template(router())["spec"]}
    pod["metadata"] |= template(router())["metadata"]
    pod["spec"]["nodeName"] = "n1"
    _, items, notes = migrate(dumped(pod))
    assert template(by_kind(items, "Deployment")[0])["spec"]["nodeName"] == "n1"
    _, items, notes = migrate(dumped({**pod, "status": {"phase": "Running"}}))
    assert "nodeName" not in template(by_kind(items, "Deployment")[0])["spec"]
    assert "nodeName" not in notes


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("EGRESS_LOG_LEVEL", "loud", 'EGRESS_LOG_LEVEL: "loud" is not known'),
        ("EGRESS_CLUSTER_CIDRS", "198.51.100.1/24", "EGRESS_CLUSTER_CIDRS"),
        ("EGRESS_SHUTDOWN_GRACE", "soon", "EGRESS_SHUTDOWN_GRACE"),
    ],
)
def test_variables_that_are_kept_are_judged(migrate: Migrate, variable: str, value: str, part: str) -> None:
    item = router()
    template(item)["spec"]["initContainers"][0]["env"].append({"name": variable, "value": value})
    status, items, notes = migrate(dumped(item))
    assert (status, items) == (78, [])
    assert part in notes


def test_a_sysctl_stands_there_once(migrate: Migrate) -> None:
    item = router()
    spec = template(item)["spec"]
    spec["securityContext"] = {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]}
    spec["initContainers"][0]["env"][3]["value"] = "http-proxy"
    proxy = {"name": "EGRESS_HTTP_PROXY_DESTINATION", "value": "*"}
    port = {"name": "EGRESS_HTTP_PROXY_PORT", "value": "80"}
    spec["containers"] = [{"name": "p", "image": "origin-egress-http-proxy", "env": [proxy, port]}]
    status, items, _ = migrate(dumped(item))
    assert status == 0
    assert len(template(by_kind(items, "Deployment")[0])["spec"]["securityContext"]["sysctls"]) == 1


@pytest.mark.parametrize("ports", ["80", {"port": 80}, [80], ["http"]])
def test_ports_that_are_no_list_of_ports(migrate: Migrate, ports: object) -> None:
    status, items, notes = migrate(dumped(router()), dumped(service(ports=ports)))
    assert (status, items) == (78, [])
    assert "Service/egress spec.ports: is no list of ports" in notes


def test_line_breaks_of_unicode_come_back(migrate: Migrate) -> None:
    item = router()
    text = "a\x85b\u2028 c\n d "
    template(item)["metadata"]["annotations"]["example.com/note"] = text
    template(item)["spec"]["containers"].append({"name": "side", "image": "x", "args": [text, "\x85", " "]})
    status, items, _ = migrate(dumped(item))
    assert status == 0
    (written,) = by_kind(items, "Deployment")
    assert template(written)["metadata"]["annotations"]["example.com/note"] == text
    assert template(written)["spec"]["containers"][-1]["args"] == [text, "\x85", " "]


def test_triggers_are_lost(migrate: Migrate) -> None:
    item = router()
    item["kind"], item["apiVersion"] = "DeploymentConfig", "apps.openshift.io/v1"
    item["spec"] |= {"triggers": [{"type": "ConfigChange"}], "selector": {"app": "egress"}, "test": False}
    status, _, notes = migrate(dumped(item))
    assert status == 65
    assert "lost: DeploymentConfig/shop: triggers" in notes


def test_a_dump_of_a_running_pod_loses_nothing(migrate: Migrate) -> None:
    item = router()
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "shop-5d9c-x2x", "uid": "1", "resourceVersion": "7", **template(item)["metadata"]},
        "spec": copy.deepcopy(template(item)["spec"]),
        "status": {"phase": "Running"},
    }
    pod["metadata"]["labels"]["pod-template-hash"] = "5d9c"
    pod["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "shop-5d9c", "controller": True}]
    pod["spec"] |= {
        "nodeName": "n1",
        "dnsPolicy": "ClusterFirst",
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "priority": 0,
        "securityContext": {},
        "terminationGracePeriodSeconds": 30,
        "enableServiceLinks": True,
        "serviceAccount": "default",
        "serviceAccountName": "default",
    }
    pod["spec"]["tolerations"] = [
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
    ]
    pod["spec"]["volumes"] = [{"name": "kube-api-access-abcde", "projected": {"sources": []}}]
    for container in (*pod["spec"]["initContainers"], *pod["spec"]["containers"]):
        container |= {
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            "imagePullPolicy": "IfNotPresent",
            "resources": {},
        }
        container["volumeMounts"] = [
            {
                "name": "kube-api-access-abcde",
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                "readOnly": True,
            }
        ]
    status, items, notes = migrate(dumped(pod))
    assert status == 0, notes
    (found,) = by_kind(items, "Deployment")
    assert found["metadata"]["name"] == "shop"
    assert "pod-template-hash" not in template(found)["metadata"]["labels"]
    assert len(template(found)["spec"]["tolerations"]) == 2


@pytest.mark.parametrize("kind", ["Pod", "ReplicationController"])
def test_what_a_deployment_config_made_has_its_name(migrate: Migrate, kind: str) -> None:
    made = template(router())
    made["metadata"]["annotations"] |= {
        "openshift.io/deployment-config.name": "shop",
        "openshift.io/deployment.name": "shop-3",
    }
    owner = [{"kind": "ReplicationController" if kind == "Pod" else "DeploymentConfig", "name": "shop-3"}]
    metadata = {"name": "shop-3-x7f2p" if kind == "Pod" else "shop-3", "ownerReferences": owner}
    item = {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": {"template": made}}
    if kind == "Pod":
        item = {**made, **item, "metadata": {**made["metadata"], **metadata}, "spec": made["spec"]}
    status, items, _ = migrate(dumped(item))
    assert status == 0
    assert by_kind(items, "Deployment")[0]["metadata"]["name"] == "shop"


def test_problems_name_the_old_object(migrate: Migrate) -> None:
    status, _, notes = migrate(dumped(router("Shop", "192.0.2.300", rules="0443 tcp x")))
    assert status == 78
    for part in ("Deployment/Shop EGRESS_SOURCE:", "Deployment/Shop EGRESS_DESTINATION line 1"):
        assert part in notes
    assert "--source" not in notes
    assert "--destinations" not in notes
    status, _, notes = migrate(dumped(router("Shop")))
    assert status == 78
    assert "Deployment/Shop metadata.name" in notes


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda item: template(item)["spec"].update(nodeSelector={"a b": "c"}), "Deployment/shop nodeSelector: "),
        (lambda item: item["metadata"].update(namespace="No_Name"), "Deployment/shop metadata.namespace: "),
        (lambda item: item["metadata"].update(name="9shop"), "Deployment/9shop metadata.name: "),
    ],
)
def test_problems_name_fields_of_the_old_object(migrate: Migrate, change: Any, part: str) -> None:
    item = router()
    change(item)
    status, items, notes = migrate(dumped(item))
    assert (status, items) == (78, [])
    problems = notes.partition("nothing was changed")[2]
    assert part in problems
    assert "--n" not in problems


def test_source_and_gateway_of_the_command_line(migrate: Migrate) -> None:
    item = router()
    env = template(item)["spec"]["initContainers"][0]["env"]
    env[0] = {"name": "EGRESS_SOURCE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    status, _, notes = migrate(dumped(item))
    assert status == 78
    assert "--source" in notes
    status, items, _ = migrate(dumped(item), options=("--source", "192.0.2.77", "--gateway", "192.0.2.7"))
    assert status == 0
    assert source_of(by_kind(items, "Deployment")[0]) == "192.0.2.77"
    assert '192.0.2.7"' in migrate.text


def test_every_form_of_openshift_sdn_is_privileged(migrate: Migrate) -> None:
    """Its CNI plugin refuses a macvlan for pods without a privileged container (openshift/sdn, maybeAddMacvlan)."""
    for path in (*OURS, *MIGRATED):
        items = [item for item in yaml.safe_load_all(path.read_text()) if item]
        for item in items:
            if item["kind"] not in ("Deployment", "ReplicationController"):
                continue
            spec = template(item)["spec"]
            privileged = [
                one["name"]
                for one in (*spec.get("initContainers", ()), *spec["containers"])
                if one.get("securityContext", {}).get("privileged")
            ]
            if "pod.network.openshift.io/assign-macvlan" in template(item)["metadata"]["annotations"]:
                assert privileged == ["init"]
                (scc,) = by_kind(items, "SecurityContextConstraints")
                assert scc["allowPrivilegedContainer"] is True


def test_callouts_are_taken_away(migrate: Migrate) -> None:
    text = (
        yaml.safe_dump(router())
        .replace("value: 192.0.2.1\n", "value: 192.0.2.1 <1>\n")
        .replace("replicas: 1\n", "replicas: 1 (2)\n")
    )
    status, items, notes = migrate(text)
    assert status == 0
    assert items
    assert "callouts of a page of documentation in lines" in notes


def test_the_steps_of_the_evening(migrate: Migrate) -> None:
    _, _, notes = migrate(dumped(router()), dumped(service()))
    for part in ("way back", "Take the old pod away", "75", "clusterIP", "NetworkPolicy", "namespace must be there"):
        assert part in notes


def test_the_log_to_look_at_is_of_a_container_that_there_is(migrate: Migrate) -> None:
    _, items, notes = migrate(dumped(router()))
    assert "logs deploy/shop -c init;" in notes
    old = router(rules="80 tcp api.example.com")
    template(old)["spec"]["initContainers"][0]["env"].pop()
    pod = template(old)["spec"]
    pod["containers"] = pod.pop("initContainers")
    status, items, notes = migrate(dumped(old))
    assert status == 0
    assert "initContainers" not in template(by_kind(items, "Deployment")[0])["spec"]
    assert "logs deploy/shop; the gateway" in notes
    pair = yaml.load_all((GOLDEN / "manifests" / "redirect-pair" / "manifests.yaml").read_text(), Loader=LOADER)
    _, items, notes = migrate(*(dumped(item) for item in pair if item))
    (name, _) = [item["metadata"]["name"] for item in by_kind(items, "Deployment")]
    assert f"logs deploy/{name.removesuffix('1')}N -c init;" in notes


def test_the_container_that_only_waits_is_named_with_what_goes(migrate: Migrate) -> None:
    old = router()
    (wait,) = template(old)["spec"]["containers"]
    status, items, notes = migrate(dumped(old))
    assert status == 0
    assert "changed: Deployment/shop: the container wait, which only waited, is not written: ours stays\n" in notes
    assert [one["name"] for one in template(by_kind(items, "Deployment")[0])["spec"]["containers"]] == ["router"]

    wait |= {"env": [{"name": "A", "value": "b"}], "readinessProbe": {"exec": {"command": ["x"]}}}
    wait["ports"] = [{"containerPort": 80, "hostPort": 8080}]
    status, _, notes = migrate(dumped(old))
    assert status == 65
    assert "which only waited, is not written: ours stays; with it go its env, readinessProbe\n" in notes
    assert "lost: Deployment/shop: hostPort 8080 of the container wait: clients use the Service" in notes


def test_the_way_back_is_kept_by_commands_that_name_the_old_objects(migrate: Migrate) -> None:
    """Where the objects are, which is not the namespace that the new ones are written for."""
    _, _, notes = migrate(dumped(router()), dumped(service()))
    where = "(in the namespace where they are)"
    assert f"1. Keep the way back: oc get Deployment/shop Service/egress -o yaml > before.yaml {where}.\n" in notes

    old = [
        router("a", namespace="one"),
        router("a", "192.0.2.98", namespace="two"),
        service(metadata={"namespace": "two"}),
    ]
    _, _, notes = migrate(*map(dumped, old))
    one = "oc get -n one Deployment/a -o yaml > before-one.yaml"
    assert f"{one}; oc get -n two Deployment/a Service/egress -o yaml > before-two.yaml.\n" in notes

    _, _, notes = migrate(dumped(router("$(reboot)")), dumped(service()))
    assert "oc get 'Deployment/$(reboot)' Service/egress -o yaml" in notes

    many = [dumped(router(f"r{number}", f"192.0.2.{number}")) for number in range(10, 31)]
    _, _, notes = migrate(*many)
    assert "oc get -o yaml of the old objects, to a file" in notes


def test_a_name_that_would_be_written_twice(migrate: Migrate) -> None:
    one, two = router("shop-1", "192.0.2.46"), router("a", "192.0.2.47")
    three = router("b", "192.0.2.48")
    template(one)["metadata"]["labels"] = {"app": "other"}
    status, items, notes = migrate(*map(dumped, (one, two, three, service(name="shop"))))
    assert (status, items) == (78, [])
    assert "Deployment shop-1 in the namespace egress-routers would be written twice" in notes


@pytest.mark.parametrize("second", ["192.0.2.99", "192.0.2.99/24", "2001:DB8:0::99/64"])
@pytest.mark.parametrize("behind", [False, True], ids=["apart", "one Service"])
def test_one_address_of_two_routers_is_said_once(migrate: Migrate, second: str, behind: bool) -> None:
    """However it is written, and whether the two would be one set or not."""
    first = "2001:db8::99" if ":" in second else "192.0.2.99"
    old = [router("a", first), router("b", second)]
    status, items, said = migrate(*map(dumped, old), *([dumped(service())] if behind else []))
    assert status == 78
    assert items == []
    assert said.count("two pods must never hold one address") == 1
    assert f'Deployment/b EGRESS_SOURCE: "{second.partition("/")[0]}" is the address of Deployment/a too' in said


def test_the_sources_of_the_command_line_go_to_the_routers_in_the_order_of_the_files(migrate: Migrate) -> None:
    resource = {
        "apiVersion": "network.operator.openshift.io/v1",
        "kind": "EgressRouter",
        "metadata": {"name": "middle"},
        "spec": {
            "mode": "Redirect",
            "addresses": [{"ip": "192.0.2.99/24", "gateway": "192.0.2.1"}],
            "redirect": {"redirectRules": [{"destinationIP": "203.0.113.9", "port": 80, "protocol": "TCP"}]},
        },
    }
    old = [dumped(item) for item in (router("first"), resource, router("last"))]
    given = ("192.0.2.5", "192.0.2.6", "192.0.2.7")
    options = tuple(word for source in given for word in ("--source", source))
    status, items, _ = migrate(*old, options=options)
    assert status == 0
    written = {item["metadata"]["name"]: source_of(item) for item in by_kind(items, "Deployment")}
    assert written == {"first": "192.0.2.5", "middle": "192.0.2.6", "last": "192.0.2.7"}

    status, _, said = migrate(*old, options=("--source", "192.0.2.5", *options[2:4], *options[:2]))
    assert status == 78
    assert '--source: "192.0.2.5" is the address of Deployment/first too' in said

    status, _, said = migrate(*old, options=options[:2])
    assert status == 78
    assert said.endswith("  --source: 1 for 3 routers (one for each router, in the order of the files)\n")


def test_what_is_no_string_in_a_service_is_said_and_left_out(migrate: Migrate) -> None:
    metadata = {"labels": {"team": "shop", "since": 2024}, "annotations": {"example.com/on": True}}
    status, items, said = migrate(dumped(router()), dumped(service(metadata=metadata)))
    assert status == 0
    assert 'was wrong: Service/egress: labels: "2024" is no string' in said
    assert 'was wrong: Service/egress: annotations: "true" is no string' in said
    (written,) = by_kind(items, "Service")
    assert written["metadata"]["labels"]["team"] == "shop"
    assert "since" not in written["metadata"]["labels"]
    assert "annotations" not in written["metadata"]
