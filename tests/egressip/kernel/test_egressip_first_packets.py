"""A pod's first packet, where the container runtime tells of the pod before it starts; with a real API server."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from egress_router.kubernetes.nri import Sandbox
from egress_router.kubernetes.protobuf import written
from lab import Host, Lab, NoReply
from tests.egressip.kernel.api_cluster import ApiCluster, api_cluster
from tests.support.fake_runtime import FakeRuntime, listening, sandbox_message

pytestmark = [pytest.mark.root, pytest.mark.on_demand, pytest.mark.timeout(240)]

SERVICE, SERVICE6 = "203.0.113.25", "2001:db8:113::25"
SHOP, SHOP6, LAB = "192.0.2.45", "2001:db8:2::45", "192.0.2.54"
#: New pods of each node.
PODS = 4


class Scene:
    """Three nodes with agents that listen to their runtimes; two of the nodes hold addresses."""

    def __init__(self, kube: ApiCluster, folder: Path, stack: ExitStack) -> None:
        self.kube, self.lab = kube, kube.lab
        self.runtimes: list[FakeRuntime] = []
        self.number = 0
        for name in ("shop", "lab", "other"):
            kube.namespace(name, env=name)
        kube.egress_ip("shop", SHOP, SHOP6, env="shop")
        kube.egress_ip("lab", LAB, env="lab")
        # Holders are known to work from when a pod here needs them.
        first = {
            (space, number): kube.pod(f"{space}-first-{number}", space, number)
            for number in range(3)
            for space in ("shop", "lab")
        }
        listeners = []
        for node in self.lab.nodes:
            path = folder / f"{node.name}.nri"
            listeners.append(stack.enter_context(listening(path)))
            kube.start(node, nri="on", nri_socket=str(path))
        kube.start_controller("controller", self.lab.nodes[0])
        for listener in listeners:
            runtime = FakeRuntime(listener.accept()[0])
            runtime.begin()
            self.runtimes.append(runtime)
        kube.until(lambda: {kube.ready("shop"), kube.ready("lab")} == {("True", "AllHeld")})
        self.holder = {ip: self.number_of(kube.holder(ip)) for ip in (SHOP, SHOP6, LAB)}
        for (space, _), pod in first.items():
            ip = SHOP if space == "shop" else LAB
            kube.until(lambda pod=pod, ip=ip: kube.source_of(pod, SERVICE) == ip)  # type: ignore[misc]

    def number_of(self, name: str) -> int:
        return next(number for number, node in enumerate(self.lab.nodes) if node.name == name)

    def sandbox(self, pod: Host, space: str) -> Sandbox:
        self.number += 1
        ips = tuple(str(ip) for ip in pod.addresses.values())
        return Sandbox(f"s{self.number}", f"uid-{self.number}", space, pod.name, (), ips)

    def run(self, node: int, sandbox: Sandbox) -> float:
        """Have a node's runtime tell of a pod; return how long that took, in milliseconds."""
        began = time.monotonic()
        self.runtimes[node].call("RunPodSandbox", written(1, sandbox_message(sandbox)))
        return 1000 * (time.monotonic() - began)

    def late(self, node: int) -> float:
        """Return how many pods of a node have started before all was in place, as on a machine that has more to do."""
        host = self.lab.nodes[node]
        page = self.lab.tcp(host, str(host.addresses[4]), 9910, payload="GET /metrics HTTP/1.0\r\n\r\n")
        found = re.search(r"^egress_router_node_runtime_late_pods_total (\S+)$", page, re.MULTILINE)
        assert found, page
        return float(found[1])

    def story(self) -> str:
        """Return what holds what, and what was dropped where."""
        drops = {node.name: self.kube.ask(node)["dropped_packets"] for node in self.lab.nodes}
        return f"{self.holder}\n{drops}\n{self.kube.text()}"

    def source(self, pod: Host, target: str = SERVICE) -> str:
        """Return whom the service saw, or "" where one packet and its answer did not get through."""
        try:
            return self.kube.source_of(pod, target, timeout=1.0)
        except NoReply:
            return ""


@pytest.fixture
def scene(make_lab: Callable[..., Lab], tmp_path: Path) -> Iterator[Scene]:
    lab = make_lab(nodes=3, shape="bridge")
    for service in (SERVICE, SERVICE6):
        lab.echo(service, tcp=[80], udp=53)
    with ExitStack() as stack:
        kube = stack.enter_context(api_cluster(lab, tmp_path))
        kube.assignable(*lab.nodes[1:])
        yield Scene(kube, tmp_path, stack)


@pytest.mark.cross_section
def test_the_first_packet_is_right_on_every_node(scene: Scene) -> None:
    """The API knows nothing of these pods; of one that nobody tells of, nothing gets out."""
    lab, took = scene.lab, {True: list[float](), False: list[float]()}
    unknown = lab.pod("unknown", node=0)
    assert scene.source(unknown) == ""
    in_vain = 0
    for number in range(3 * PODS):
        node = number % 3
        for space, ip in (("shop", SHOP), ("lab", LAB), ("other", str(lab.nodes[node].addresses[4]))):
            if space == "other" and number >= 3:
                continue
            pod = lab.pod(f"{space}-{number}", node=node)
            late = scene.late(node)
            milliseconds = scene.run(node, scene.sandbox(pod, space))
            if scene.late(node) > late:
                in_vain += 1
                assert scene.source(pod) in (ip, ""), "never with another source"
                continue
            took[space == "other" or node == scene.holder[ip]].append(milliseconds)
            seen = scene.source(pod)
            assert seen == ip, f"{space} {number}: {seen!r} after {milliseconds:.0f} ms\n{scene.story()}"
            if space == "shop":
                assert scene.source(pod, SERVICE6) == SHOP6
    for here, name in ((True, "the node itself"), (False, "another node")):
        print(f"{name} decides: median {statistics.median(took[here]):.1f} ms, most {max(took[here]):.1f} ms")
    print(f"{in_vain} pods have waited in vain")


def test_an_address_goes_from_a_pod_to_one_of_another_group(scene: Scene) -> None:
    """Both on the same node; nothing of the next pod's leaves as the former one's."""
    for node in range(3):
        pod = scene.lab.pod(f"pod-{node}", node=node)
        former, following = scene.sandbox(pod, "shop"), scene.sandbox(pod, "lab")
        scene.run(node, former)
        assert scene.source(pod) == SHOP
        scene.runtimes[node].call("StopPodSandbox", written(1, sandbox_message(former)))
        scene.run(node, following)
        assert scene.source(pod) in (LAB, ""), "it may be dropped until the former holder knows"
        scene.kube.until(lambda pod=pod: scene.source(pod) == LAB)  # type: ignore[misc]


def test_the_word_of_another_node_is_over_after_some_seconds(scene: Scene) -> None:
    """Without the API's, the holder translates nothing any more."""
    node = next(number for number in range(3) if number != scene.holder[SHOP])
    pod = scene.lab.pod("pod", node=node)
    scene.run(node, scene.sandbox(pod, "shop"))
    assert scene.source(pod) == SHOP
    scene.kube.until(lambda: scene.source(pod) == "", 20)
