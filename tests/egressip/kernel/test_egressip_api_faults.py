"""The source and the lease on a real API server that is killed, restored from older data, or without streamed lists."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from egress_router.egressip.api import ClusterState
from egress_router.egressip.source.groups import LocalNode
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.kubernetes.client import MERGE_PATCH, ApiError, ApiUnavailable, Client
from egress_router.kubernetes.configuration import ApiConfiguration, from_kubeconfig
from egress_router.kubernetes.lease import KubernetesLease
from lab.kubernetes.api_server import ApiServer
from tests.support.threads import threads

pytestmark = [pytest.mark.root, pytest.mark.on_demand, pytest.mark.timeout(180)]

CRDS = Path(__file__).parents[3] / "deploy" / "egress-ips" / "base" / "crds"
OURS = "/apis/egress-router.io/v1alpha1"
ME = LocalNode("node-a", ("192.0.2.11",))
Make = Callable[..., ApiServer]


def prepared(make_api_server: Make, *flags: str) -> tuple[ApiServer, Client]:
    """Return a server with our objects' definitions, a namespace and an EgressIP."""
    server = make_api_server(flags=flags)
    for file in sorted(CRDS.glob("*.yaml")):
        server.kubectl("apply", "-f", str(file))
    server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
    client = Client(from_kubeconfig(server.kubeconfig, {}))
    client.request("POST", "/api/v1/namespaces", body={"metadata": {"name": "web", "labels": {"env": "shop"}}})
    create(client, "shop", "192.0.2.45")
    return server, client


def create(client: Client, name: str, ip: str) -> None:
    spec = {"egressIPs": [ip], "namespaceSelector": {"matchLabels": {"env": "shop"}}}
    body = {"apiVersion": "egress-router.io/v1alpha1", "kind": "EgressIP", "metadata": {"name": name}, "spec": spec}
    client.request("POST", f"{OURS}/egressips", body=body)


def pod(client: Client, name: str, ip: str, node: str = "node-a") -> None:
    path = "/api/v1/namespaces/web/pods"
    spec = {"nodeName": node, "containers": [{"name": "main", "image": "none"}]}
    client.request("POST", path, body={"metadata": {"name": name}, "spec": spec})
    status = {"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}}
    client.request("PATCH", f"{path}/{name}/status", body=status, content_type=MERGE_PATCH)


class Follower:
    """A source, and what it said last."""

    def __init__(self, source: KubernetesSource) -> None:
        self.source = source
        self.state = ClusterState()
        self.problems: tuple[Any, ...] = ()

    def until(self, condition: Callable[[ClusterState], bool], seconds: float = 30.0) -> ClusterState:
        end = time.monotonic() + seconds
        while True:
            try:
                self.state, self.problems = self.source.read()
                if condition(self.state):
                    return self.state
            except OSError:
                pass
            assert time.monotonic() < end, (self.state, self.problems)
            self.source.wait(0.2)


@contextmanager
def following(configuration: ApiConfiguration, me: LocalNode | None = ME) -> Iterator[Follower]:
    source = KubernetesSource(Client(configuration), threads().start, me)
    try:
        yield Follower(source)
    finally:
        source.close()


def configuration(server: ApiServer) -> ApiConfiguration:
    return from_kubeconfig(server.kubeconfig, {})


@pytest.mark.parametrize("flags", [[], ["--feature-gates=WatchList=false"]], ids=["streamed", "in pages"])
def test_objects_are_followed_with_and_without_streamed_lists(make_api_server: Make, flags: list[str]) -> None:
    server, client = prepared(make_api_server, *flags)
    pod(client, "one", "10.0.0.1")
    with following(configuration(server)) as follower:
        state = follower.until(lambda state: len(state.pods) == 1)
        assert [(p.namespace, p.name, p.ips) for p in state.pods.values()] == [("shop", "web/one", ("10.0.0.1",))]
        pod(client, "two", "10.0.0.2")
        pod(client, "elsewhere", "10.0.1.3", "node-b")
        client.request("DELETE", "/api/v1/namespaces/web/pods/one", body={"gracePeriodSeconds": 0})
        follower.until(lambda state: [p.name for p in state.pods.values()] == ["web/two"])
        # Pods of other nodes count from when this node is given the address.
        body = {
            "apiVersion": "egress-router.io/v1alpha1",
            "kind": "EgressIPAssignment",
            "metadata": {"name": "192.0.2.45"},
            "spec": {"egressIP": "192.0.2.45", "node": "node-a", "epoch": 1},
        }
        client.request("POST", f"{OURS}/egressipassignments", body=body)
        state = follower.until(lambda state: state.assignment.get("node-a") == ("192.0.2.45",))
        assert sorted(p.name for p in state.pods.values()) == ["web/elsewhere", "web/two"], "with the address, its pods"
        client.request(
            "PATCH", "/api/v1/namespaces/web", body={"metadata": {"labels": {"env": "x"}}}, content_type=MERGE_PATCH
        )
        follower.until(lambda state: {p.namespace for p in state.pods.values()} == {"-"})


def test_what_was_known_stays_while_the_server_is_away(make_api_server: Make) -> None:
    server, client = prepared(make_api_server)
    pod(client, "one", "10.0.0.1")
    with following(configuration(server)) as follower:
        known = follower.until(lambda state: len(state.pods) == 1)
        server.kill()
        follower.until(lambda _state: bool(follower.problems))
        assert "what was known stays" in str(follower.problems[0])
        end = time.monotonic() + 5
        while time.monotonic() < end:
            assert follower.source.read()[0] == known
            time.sleep(0.1)
        server.start()
        pod(client, "two", "10.0.0.2")
        follower.until(lambda state: len(state.pods) == 2 and not follower.problems)


def test_a_server_that_goes_back_in_time(make_api_server: Make) -> None:
    server, client = prepared(make_api_server)
    with following(configuration(server)) as follower:
        follower.until(lambda state: "shop" in state.namespaces)
        server.save()
        create(client, "later", "192.0.2.46")
        for number in range(50):
            client.request(
                "PATCH",
                f"{OURS}/egressips/later",
                body={"metadata": {"labels": {"n": str(number)}}},
                content_type=MERGE_PATCH,
            )
        follower.until(lambda state: "later" in state.namespaces)
        server.restore()
        follower.until(lambda state: "later" not in state.namespaces)
        # Versions are lower now than those seen before: what happens must be seen all the same.
        create(client, "again", "192.0.2.47")
        follower.until(lambda state: "again" in state.namespaces)


def test_a_burst_of_changes(make_api_server: Make) -> None:
    server, client = prepared(make_api_server)
    with following(configuration(server), None) as follower:
        follower.until(lambda state: "shop" in state.namespaces)
        for number in range(200):
            pod(client, f"p{number}", f"10.0.{number // 250}.{number % 250 + 1}")
        for number in range(0, 200, 2):
            client.request("DELETE", f"/api/v1/namespaces/web/pods/p{number}", body={"gracePeriodSeconds": 0})
        state = follower.until(lambda state: len(state.pods) == 100)
        assert {p.name for p in state.pods.values()} == {f"web/p{number}" for number in range(1, 200, 2)}


def test_a_token_that_expires_and_is_rotated(make_api_server: Make, tmp_path: Path) -> None:
    server, _ = prepared(make_api_server)
    token = tmp_path / "token"
    token.write_text("no token of this server")
    rotated = ApiConfiguration(server.url, ca_file=server.ca, token_file=token)
    with pytest.raises(ApiError, match="401"):
        Client(rotated).request("GET", "/api/v1/namespaces")
    kept = Client(rotated)
    token.write_text(server.token + "\n")
    assert kept.request("GET", "/api/v1/namespaces")["items"]
    with following(rotated) as follower:
        follower.until(lambda state: "shop" in state.namespaces)


def test_an_authority_that_is_rotated(make_api_server: Make, tmp_path: Path) -> None:
    """As the kubelet does it in a pod: the file is another one, and the processes that have read it go on."""
    server, client = prepared(make_api_server)
    other = make_api_server()
    authority = tmp_path / "ca.crt"
    authority.write_bytes(Path(other.ca).read_bytes())
    rotated = ApiConfiguration(server.url, ca_file=authority, token=server.token)
    kept = Client(rotated)
    with following(rotated) as follower:
        with pytest.raises(ApiUnavailable, match="certificate"):
            kept.request("GET", "/version")
        with pytest.raises(OSError, match="certificate"):
            follower.source.read()
        fresh = tmp_path / "fresh"
        fresh.write_bytes(Path(other.ca).read_bytes() + Path(server.ca).read_bytes())
        fresh.rename(authority)
        assert kept.request("GET", "/version")["major"] == "1"
        follower.until(lambda state: "shop" in state.namespaces)
        # The old one alone again: what runs goes on, what begins anew does not, and what was known stays.
        authority.write_bytes(Path(other.ca).read_bytes())
        server.kill()
        server.start()
        time.sleep(2.0)
        follower.until(lambda state: "shop" in state.namespaces and bool(follower.problems))
        authority.write_bytes(Path(server.ca).read_bytes())
        create(client, "later", "192.0.2.46")
        # The watches come back one by one, each after its own pause.
        follower.until(lambda state: "later" in state.namespaces and not follower.problems, 60.0)


def test_a_server_with_another_certificate_is_not_spoken_to(make_api_server: Make) -> None:
    server, _ = prepared(make_api_server)
    other = make_api_server()
    with pytest.raises(ApiUnavailable, match="certificate"):
        Client(ApiConfiguration(server.url, ca_file=other.ca, token=server.token)).request("GET", "/version")


def test_a_lease_is_held_by_one_and_lost_in_time(make_api_server: Make) -> None:
    server, client = prepared(make_api_server)

    def lease(name: str) -> KubernetesLease:
        client = Client(configuration(server))
        return KubernetesLease(client, threads().start, "default", "tried", name, duration=3.0, deadline=2.0, retry=0.3)

    one, two = lease("one"), lease("two")
    lost: list[float] = []
    one.on_lost = lambda: lost.append(time.monotonic())
    assert one.acquire()
    one.annotations["kept"] = "x"
    end = time.monotonic() + 5
    while time.monotonic() < end:
        assert one.held()
        assert not two.acquire(), "it is renewed"
        time.sleep(0.1)
    server.kill()
    killed = time.monotonic()
    while one.held():
        assert time.monotonic() - killed < 3, "it counts itself out before another may count it out"
        time.sleep(0.02)
    server.start()
    while not two.acquire():
        assert time.monotonic() - killed < 30
        if one.held():
            # Renewed in time after all, which nobody has contested: it was never anybody else's.
            assert not two.held()
        time.sleep(0.02)
        if one.held() and time.monotonic() - killed > 8:
            break
    assert not (one.held() and two.held())
    if not two.held():
        one.release()
        two._next = 0.0
        assert two.acquire()
    assert two.transitions >= 1
    assert two.annotations.get("kept") == "x"
    # Somebody deletes it: nobody has it then, and the next one must be told apart by the epoch alone.
    client.request("DELETE", "/apis/coordination.k8s.io/v1/namespaces/default/leases/tried")
    end = time.monotonic() + 5
    while two.held():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert two.lost
    for each in (one, two):
        each.release()
