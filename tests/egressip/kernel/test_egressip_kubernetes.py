"""Egress IPs from a real API server: what is applied there is what packets show, and what objects say is true."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from egress_router.config.inputs import Problems, SourceText
from egress_router.egressip.source.api_objects import STAYS
from egress_router.manifests.egress_ips.migrate import migrate_egress_ips
from lab import Host, Lab, NoReply
from tests.egressip.kernel.api_cluster import CRDS, NAMESPACE, OURS, ApiCluster, api_cluster
from tests.egressip.kernel.egress_cluster import talking
from tests.support.moved_clock import MovedClock

pytestmark = [pytest.mark.root, pytest.mark.on_demand, pytest.mark.timeout(240)]

SERVICE, SERVICE6 = "203.0.113.25", "2001:db8:113::25"
FIRST, SECOND, FIRST6 = "192.0.2.45", "192.0.2.54", "2001:db8:2::45"


@pytest.fixture
def kube(make_lab: Callable[..., Lab], tmp_path: Path) -> Iterator[ApiCluster]:
    """Three nodes; the second and third may be given addresses. Nothing runs yet."""
    lab = make_lab(nodes=3, shape="bridge")
    for service in (SERVICE, SERVICE6):
        lab.echo(service, tcp=[80], udp=53)
    with api_cluster(lab, tmp_path) as kube:
        kube.assignable(*lab.nodes[1:])
        yield kube


@pytest.mark.cross_section
def test_from_an_object_to_packets_and_back(kube: ApiCluster) -> None:
    lab = kube.lab
    kube.namespace("web", env="shop")
    kube.namespace("other")
    client, plain = kube.pod("client", "web", 0), kube.pod("plain", "other", 0)
    kube.start()
    kube.start_controller("controller", lab.nodes[0])
    kube.until(lambda: kube.source_of(client, SERVICE) == str(lab.nodes[0].addresses[4]))
    kube.egress_ip("shop", FIRST, FIRST6, env="shop")
    kube.until(lambda: kube.ready("shop") == ("True", "AllHeld"))
    assert kube.source_of(client, SERVICE) == FIRST, "Ready means that packets leave with it"
    assert kube.source_of(client, SERVICE6) == FIRST6
    assert kube.source_of(plain, SERVICE) == str(lab.nodes[0].addresses[4]), "nobody selects this one"
    status = kube.get(f"{OURS}/egressips/shop")["status"]
    assert (status["pods"], status["namespaces"]) == (1, 1)
    assert {item["egressIP"]: item["node"] for item in status["items"]} == {
        FIRST: kube.holder(FIRST),
        FIRST6: kube.holder(FIRST6),
    }
    for ip in (FIRST, FIRST6):
        shown = [ip in node.ip("addr show dev eth0") for node in lab.nodes]
        assert sum(shown) == 1
        assert lab.nodes[shown.index(True)].name == kube.holder(ip)
    events = kube.get("/apis/events.k8s.io/v1/namespaces/default/events")["items"]
    assert {"Assigned", "AllHeld"} <= {event["reason"] for event in events}
    late = kube.pod("late", "web", 1)
    kube.until(lambda: kube.source_of(late, SERVICE) == FIRST)
    # The label goes, and with it the selection; nothing else is touched.
    kube.patch("/api/v1/namespaces/web", {"metadata": {"labels": {"env": None}}})
    kube.until(lambda: kube.source_of(client, SERVICE) == str(lab.nodes[0].addresses[4]))
    kube.patch("/api/v1/namespaces/web", {"metadata": {"labels": {"env": "shop"}}})
    kube.until(lambda: kube.source_of(client, SERVICE) == FIRST)
    kube.server.client.request("DELETE", f"{OURS}/egressips/shop")
    kube.until(lambda: kube.source_of(client, SERVICE) == str(lab.nodes[0].addresses[4]))
    kube.until(lambda: not kube.get(f"{OURS}/egressipassignments")["items"])
    kube.until(lambda: not any(FIRST in node.ip("addr show dev eth0") for node in lab.nodes))


def test_destinations_that_an_object_excepts(kube: ApiCluster) -> None:
    """With a change under traffic, for a pod of the holder and one elsewhere, and without a holder in the end."""
    lab = kube.lab
    direct, direct6 = "203.0.113.70", "2001:db8:113::4:7"
    for address in (direct, direct6):
        lab.echo(address, udp=53)
    kube.namespace("web", env="shop")
    kube.start()
    kube.start_controller("controller", lab.nodes[0])
    kube.egress_ip("shop", FIRST, FIRST6, env="shop")
    kube.until(lambda: kube.ready("shop") == ("True", "AllHeld"))
    holder = next(number for number, node in enumerate(lab.nodes) if node.name == kube.holder(FIRST))
    pods = {number: kube.pod(f"client{number}", "web", number) for number in (0, holder)}
    path = f"{OURS}/egressips/shop"
    for number, pod in pods.items():
        kube.until(lambda pod=pod: kube.source_of(pod, direct) == FIRST)  # type: ignore[misc]
        kube.until(lambda pod=pod: kube.source_of(pod, direct6) == FIRST6)  # type: ignore[misc]
        own = lab.nodes[number].addresses
        with lab.capture() as capture, talking(lambda pod=pod: kube.source_of(pod, SERVICE, 0.1)):  # type: ignore[misc]
            kube.patch(path, {"spec": {"destinations": {"except": ["203.0.113.64/27", "2001:db8:113::4:0/112"]}}})
            kube.until(lambda pod=pod, own=own: kube.source_of(pod, direct) == str(own[4]))  # type: ignore[misc]
            kube.until(lambda pod=pod, own=own: kube.source_of(pod, direct6) == str(own[6]))  # type: ignore[misc]
            assert (kube.source_of(pod, SERVICE), kube.source_of(pod, SERVICE6)) == (FIRST, FIRST6)
            kube.patch(path, {"spec": {"destinations": None}})
            kube.until(lambda pod=pod: kube.source_of(pod, direct) == FIRST)  # type: ignore[misc]
            beside = {str(packet.src) for packet in capture.outgoing() if str(packet.dst) == SERVICE}
            assert beside == {FIRST}
    kube.patch(path, {"spec": {"destinations": {"except": ["203.0.113.64/27"]}}})
    for node in lab.nodes:
        kube.patch(f"/api/v1/nodes/{node.name}", {"metadata": {"labels": {"egress-router.io/egress-assignable": None}}})
    kube.until(lambda: kube.ready("shop") == ("False", "NoNode"))
    for number, pod in pods.items():
        kube.until(lambda pod=pod, number=number: kube.source_of(pod, direct) == str(lab.nodes[number].addresses[4]))  # type: ignore[misc]
        with pytest.raises(NoReply):
            kube.source_of(pod, SERVICE)


def test_what_migrate_has_written_stays_until_its_node_is_cordoned(kube: ApiCluster) -> None:
    """Both addresses were on one node. The controller starts first and alone; no balance takes them apart."""
    lab = kube.lab
    before, after = lab.nodes[2], lab.nodes[1]
    for node in (before, after):
        kube.patch(f"/api/v1/nodes/{node.name}", {"metadata": {"labels": {"k8s.ovn.org/egress-assignable": ""}}})
    items = [
        {
            "apiVersion": "k8s.ovn.org/v1",
            "kind": "EgressIP",
            "metadata": {"name": name},
            "spec": {"egressIPs": [ip], "namespaceSelector": {"matchLabels": {"env": name}}},
            "status": {"items": [{"egressIP": ip, "node": before.name}]},
        }
        for name, ip in (("shop", FIRST), ("bank", SECOND))
    ]
    old = SourceText("old.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    text, _ = migrate_egress_ips([old], Problems())
    kube.server.kubectl("apply", "--validate=strict", "-f", "-", input=text)
    kube.namespace("web", env="shop")
    client = kube.pod("client", "web", 0)
    kube.start_controller("controller", lab.nodes[0], drain_on_cordon="")
    kube.until(lambda: "waits for the agents of nodes that have addresses" in kube.logs["controller"].read_text(), 40.0)
    assert (kube.holder(FIRST), kube.holder(SECOND)) == (before.name, before.name)
    kube.start()
    kube.until(lambda: kube.ready("shop") == kube.ready("bank") == ("True", "AllHeld"), 60.0)
    kube.until(lambda: kube.source_of(client, SERVICE) == FIRST)
    assert (kube.holder(FIRST), kube.holder(SECOND)) == (before.name, before.name)
    assert " -> " not in kube.logs["controller"].read_text(), "nothing has moved"
    kube.server.kubectl("cordon", before.name)
    kube.until(lambda: kube.holder(FIRST) == kube.holder(SECOND) == after.name, 60.0)
    kube.until(lambda: kube.source_of(client, SERVICE) == FIRST)

    def handed_over() -> bool:
        return bool(kube.get(f"{OURS}/egressnodes/{before.name}")["status"]["drain"]["phase"] == "HandedOver")

    kube.until(handed_over, 30.0)
    for entry in kube.get(f"{OURS}/egressipassignments")["items"]:
        assert STAYS not in entry["metadata"]["annotations"], "what had to move is balanced from now on"


def test_addresses_from_a_pool(kube: ApiCluster) -> None:
    """Given, kept over restarts of both controllers, exhausted, and given back."""
    lab = kube.lab
    pools = f"{OURS}/egressippools"
    ranges = [{"start": "192.0.2.64", "end": "192.0.2.65"}, {"cidr": "2001:db8:2::1:0/112"}]
    body = {"apiVersion": "egress-router.io/v1alpha1", "kind": "EgressIPPool", "metadata": {"name": "office"}}
    kube.create(pools, {**body, "spec": {"ipRanges": ranges}})
    clients = {}
    for name in ("shop", "lab"):
        kube.namespace(name, env=name)
        clients[name] = kube.pod(name, name, 0)
    kube.start()
    controllers = [kube.start_controller(f"controller{n}", lab.nodes[n], lease_seconds="3") for n in range(2)]

    def ask_for(name: str) -> None:
        spec = {"pool": "office", "namespaceSelector": {"matchLabels": {"env": name}}}
        kind = {"apiVersion": "egress-router.io/v1alpha1", "kind": "EgressIP", "metadata": {"name": name}}
        kube.create(f"{OURS}/egressips", {**kind, "spec": spec})

    def given(name: str) -> list[str]:
        return list(kube.get(f"{OURS}/egressips/{name}")["status"].get("egressIPs", []))

    def usage() -> tuple[int, str]:
        status = kube.get(f"{pools}/office")["status"]
        return status["usage"]["used"], status["conditions"][0]["reason"]

    ask_for("shop")
    kube.until(lambda: kube.ready("shop") == ("True", "AllHeld"))
    first = given("shop")
    assert [":" in ip for ip in first] == [False, True]
    assert first[0] in ("192.0.2.64", "192.0.2.65")
    assert kube.source_of(clients["shop"], SERVICE) == first[0]
    assert kube.source_of(clients["shop"], SERVICE6) == first[1]
    ask_for("lab")
    kube.until(lambda: kube.ready("lab") == ("True", "AllHeld"))
    second = given("lab")
    assert not set(first) & set(second)
    kube.until(lambda: usage() == (4, "NoFreeAddress"))
    with lab.capture() as capture:
        for number in range(2):
            controllers[number].kill()
            controllers[number].wait()
            controllers[number] = kube.start_controller(f"again{number}", lab.nodes[number], lease_seconds="3")
            time.sleep(4)
        ask_for("late")
        kube.until(lambda: kube.ready("late") == ("True", "SomeHeld"))
        assert (given("shop"), given("lab")) == (first, second), "nobody's address changes because controllers do"
        assert kube.source_of(clients["shop"], SERVICE) == first[0]
        assert not capture.leaks(allowed={*first, *second})
    late = kube.get(f"{OURS}/egressips/late")["status"]["conditions"]
    assert "pool office: has no free IPv4 address; 2 of 2 are given or listed" in str(late)
    kube.server.client.request("DELETE", f"{OURS}/egressips/lab")
    kube.until(lambda: second[0] in given("late"))
    kube.until(lambda: kube.ready("late") == ("True", "AllHeld"))
    taken = [item["spec"]["egressIP"] for item in kube.get(f"{OURS}/egressipassignments")["items"]]
    assert sorted(taken) == sorted([*first, *given("late")]), "what was given back is nobody's any more"

    def figures() -> str:
        return "".join(
            node.run(["curl", "-s", "http://127.0.0.1:9911/metrics"], check=False).stdout for node in lab.nodes
        )

    kube.until(lambda: 'egress_router_controller_pool_addresses_used{pool="office"} 4.0' in figures())


def test_why_an_address_is_nowhere(kube: ApiCluster) -> None:
    lab = kube.lab
    kube.namespace("web", env="shop")
    client = kube.pod("client", "web", 0)
    kube.start()
    kube.start_controller("controller", lab.nodes[0])
    kube.egress_ip("outside", "203.0.113.77", env="shop")
    kube.until(lambda: kube.ready("outside") == ("False", "NotInSubnet"))
    with pytest.raises(NoReply):
        kube.source_of(client, SERVICE)
    kube.egress_ip("one", FIRST, env="a")
    kube.until(lambda: kube.ready("one") == ("True", "AllHeld"))
    kube.egress_ip("two", FIRST, SECOND, env="b")
    kube.until(lambda: kube.ready("two") == ("True", "SomeHeld"))
    kube.until(lambda: kube.ready("one") == ("False", "Conflict"))
    kube.server.client.request("DELETE", f"{OURS}/egressips/two")
    kube.until(lambda: kube.ready("one") == ("True", "AllHeld"))
    # Another machine of the network answers for the address.
    lab.machine("stranger", "192.0.2.60")
    kube.egress_ip("taken", "192.0.2.60", env="c")
    kube.until(lambda: kube.ready("taken") == ("False", "DuplicateAddress"))
    for node in lab.nodes[1:]:
        label = {"egress-router.io/egress-assignable": None}
        kube.patch(f"/api/v1/nodes/{node.name}", {"metadata": {"labels": label}})
    kube.until(lambda: kube.ready("one") == ("False", "NoNode"))


def test_a_node_that_dies_and_the_server_that_is_away(kube: ApiCluster) -> None:
    lab = kube.lab
    kube.namespace("web", env="shop")
    client = kube.pod("client", "web", 0)
    agents = kube.start()
    kube.start_controller("controller", lab.nodes[0])
    kube.egress_ip("shop", FIRST, SECOND, env="shop")
    kube.until(lambda: kube.ready("shop") == ("True", "AllHeld"))
    first = kube.source_of(client, SERVICE)
    kube.server.kill()
    for _ in range(20):
        assert kube.source_of(client, SERVICE) == first, "nothing moves because the server is away"
        time.sleep(0.1)
    dead = lab.nodes[1] if kube.ask(lab.nodes[1])["held"] == [first] else lab.nodes[2]
    other = SECOND if first == FIRST else FIRST
    lab.unplug(dead)
    kube.until(lambda: kube.source_of(client, SERVICE) == other)
    # An agent that starts now knows nothing, and touches nothing.
    agents[0].send_signal(signal.SIGKILL)
    agents[0].wait()
    kube.start(lab.nodes[0])
    for _ in range(10):
        assert kube.source_of(client, SERVICE) == other
        time.sleep(0.1)
    lab.plug(dead)
    kube.server.start()
    kube.until(lambda: kube.ready("shop") == ("True", "AllHeld"))
    assert kube.source_of(client, SERVICE) in (FIRST, SECOND)


def test_a_controller_that_was_frozen_cannot_write(kube: ApiCluster) -> None:
    lab = kube.lab
    kube.namespace("web", env="shop")
    kube.start()
    old = kube.start_controller("old", lab.nodes[0], lease_seconds="3")
    kube.egress_ip("shop", FIRST, env="shop")
    kube.until(lambda: kube.ready("shop") == ("True", "AllHeld"))
    epoch = kube.get(f"{OURS}/egressipassignments/{FIRST}")["spec"]["epoch"]
    new = kube.start_controller("new", lab.nodes[0], health_port="off", lease_seconds="3")
    old.send_signal(signal.SIGSTOP)
    kube.until(lambda: '"message": "assigns"' in kube.logs["new"].read_text())
    holder = kube.holder(FIRST)
    dead = next(node for node in lab.nodes if node.name == holder)
    lab.unplug(dead)
    kube.until(lambda: kube.holder(FIRST) not in ("", holder))
    moved = kube.get(f"{OURS}/egressipassignments/{FIRST}")
    assert moved["spec"]["epoch"] > epoch
    old.send_signal(signal.SIGCONT)
    assert old.wait(15) == 75, "it finds out that it does not lead, and says so by its exit code"
    assert kube.get(f"{OURS}/egressipassignments/{FIRST}")["spec"] == moved["spec"]
    new.send_signal(signal.SIGTERM)
    assert new.wait(10) == 0
    lease = kube.get("/apis/coordination.k8s.io/v1/namespaces/default/leases/egress-router-controller")
    assert lease["spec"].get("holderIdentity", "") == "", "given back, so that the next one need not wait"


@pytest.mark.parametrize("seconds_until_frozen", [0.0, 0.02, 0.5])
def test_a_frozen_controller_gives_no_address_of_a_pool_to_two(kube: ApiCluster, seconds_until_frozen: float) -> None:
    """Frozen in the middle of giving, for longer than the lease; meanwhile another one gives, takes back and gives."""
    lab = kube.lab
    kind = {"apiVersion": "egress-router.io/v1alpha1", "kind": "EgressIPPool", "metadata": {"name": "office"}}
    ranges = [{"start": "192.0.2.64", "end": "192.0.2.66"}]
    kube.create(f"{OURS}/egressippools", {**kind, "spec": {"ipRanges": ranges}})
    clients = {}
    for name in ("shop", "lab", "late"):
        kube.namespace(name, env=name)
        clients[name] = kube.pod(name, name, 0)

    def ask_for(name: str) -> None:
        spec = {"pool": "office", "namespaceSelector": {"matchLabels": {"env": name}}}
        body = {"apiVersion": "egress-router.io/v1alpha1", "kind": "EgressIP", "metadata": {"name": name}, "spec": spec}
        kube.create(f"{OURS}/egressips", body)

    def written() -> dict[str, tuple[str, str, int]]:
        """Return to whom each address is given, where it is, and by which epoch."""
        specs = [item["spec"] for item in kube.get(f"{OURS}/egressipassignments")["items"]]
        return {spec["egressIP"]: (spec["givenTo"]["uid"], spec["node"], spec["epoch"]) for spec in specs}

    kube.start()
    old = kube.start_controller("old", lab.nodes[0], lease_seconds="3")
    ask_for("shop")
    kube.until(lambda: kube.ready("shop") == ("True", "AllHeld"))
    new = kube.start_controller("new", lab.nodes[0], health_port="off", lease_seconds="3")
    ask_for("lab")
    time.sleep(seconds_until_frozen)
    old.send_signal(signal.SIGSTOP)
    kube.until(lambda: '"message": "assigns"' in kube.logs["new"].read_text())
    kube.until(lambda: kube.ready("lab") == ("True", "AllHeld"))
    # What the frozen one takes for the first object's is another one's when it comes back.
    kube.server.client.request("DELETE", f"{OURS}/egressips/shop")
    kube.until(lambda: len(written()) == 1)
    ask_for("late")
    kube.until(lambda: kube.ready("late") == ("True", "AllHeld"))
    before = written()
    with lab.capture() as capture:
        old.send_signal(signal.SIGCONT)
        assert old.wait(15) == 75, "it finds out that it does not lead, and says so by its exit code"
        time.sleep(1)
        assert written() == before, "nothing that it wrote counts"
        given = {name: kube.get(f"{OURS}/egressips/{name}")["status"]["egressIPs"] for name in ("lab", "late")}
        assert sorted(ip for ips in given.values() for ip in ips) == sorted(before), "each has one of its own"
        for name, (ip,) in given.items():
            shown = [node.name for node in lab.nodes if f" {ip}/" in node.ip("addr show dev eth0")]
            assert shown == [before[ip][1]], "on one node, which is the one that is written"
            assert kube.source_of(clients[name], SERVICE) == ip
        assert not capture.leaks(allowed=set(before))
    new.send_signal(signal.SIGTERM)
    assert new.wait(10) == 0


def test_clocks_that_jump_move_nothing(kube: ApiCluster, tmp_path: Path) -> None:
    """By hours, forward and back, of the controller that leads, of the one that waits, and of the agents."""
    lab = kube.lab
    # Back is not before the server's certificate.
    clocks = {name: MovedClock(tmp_path, name, hours=24) for name in ("leads", "waits", "agents")}
    kube.namespace("web", env="shop")
    client = kube.pod("client", "web", 0)
    kube.environment = clocks["agents"].environment
    agents = kube.start()
    kube.environment = clocks["leads"].environment
    leads = kube.start_controller("leads", lab.nodes[0], lease_seconds="3")
    kube.egress_ip("shop", FIRST, SECOND, env="shop")
    kube.until(lambda: kube.ready("shop") == ("True", "AllHeld"))
    kube.environment = clocks["waits"].environment
    waits = kube.start_controller("waits", lab.nodes[1], lease_seconds="3")
    source = kube.source_of(client, SERVICE)

    def lease() -> dict[str, Any]:
        path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/egress-router-controller"
        return dict(kube.get(path)["spec"])

    def ahead() -> float:
        """Return how many hours the clock of the one that leads is ahead, as it writes itself."""
        renewed = datetime.fromisoformat(lease()["renewTime"].replace("Z", "+00:00"))
        return (renewed - datetime.now(UTC)).total_seconds() / 3600

    def settled() -> tuple[object, ...]:
        specs = [item["spec"] for item in kube.get(f"{OURS}/egressipassignments")["items"]]
        now = lease()
        return specs, now["holderIdentity"], now["leaseTransitions"]

    before = settled()
    with lab.capture() as capture, talking(lambda: kube.source_of(client, SERVICE, 0.3)) as heard:
        for name, hours in (("leads", 6), ("waits", 6), ("leads", -12), ("agents", 6), ("waits", -12), ("agents", -12)):
            clocks[name].move(hours)
            time.sleep(4)
            assert abs(ahead() - clocks["leads"].hours) < 0.01, "positive control: it is seen"
            assert settled() == before, f"the clock of {name} moved by {hours} hours"
        assert {text for _, text in heard} == {source}, "no packet was lost, and none had another source"
        assert not capture.leaks(allowed={FIRST, SECOND})
    assert [process.poll() for process in (*agents, leads, waits)] == [None] * 5
    for number, node in enumerate(lab.nodes):
        status = kube.ask(node)
        assert not status["problems"], (number, status["problems"])
    leads.kill()
    kube.until(lambda: settled()[1] != before[1], 20.0)
    late = kube.pod("late", "web", 1)
    kube.until(lambda: kube.source_of(late, SERVICE) in (FIRST, SECOND))


def test_an_address_that_another_pod_has_next(kube: ApiCluster) -> None:
    """A DELETED takes away only what came with its own uid, and two owners of an address get none."""
    lab = kube.lab
    kube.namespace("web", env="shop")
    kube.namespace("lab", env="lab")
    pod = kube.pod("old", "web", 0)
    kube.start()
    kube.start_controller("controller", lab.nodes[0])
    kube.egress_ip("shop", FIRST, env="shop")
    kube.egress_ip("lab", SECOND, env="lab")
    kube.until(lambda: kube.ready("shop")[0] == kube.ready("lab")[0] == "True")
    kube.until(lambda: kube.source_of(pod, SERVICE) == FIRST)
    kube.tell(pod, "new", "lab", 0)
    kube.until(lambda: any("two pods" in text for text in kube.ask(lab.nodes[0])["problems"]))
    with pytest.raises(NoReply):
        kube.source_of(pod, SERVICE)
    kube.delete_pod("old", "web")
    kube.until(lambda: kube.source_of(pod, SERVICE) == SECOND)
    # An ended pod keeps its address in its status, and has no claim to it.
    kube.tell(pod, "ended", "web", 0)
    kube.patch("/api/v1/namespaces/web/pods/ended/status", {"status": {"phase": "Succeeded"}})
    kube.until(lambda: kube.source_of(pod, SERVICE) == SECOND)
    kube.delete_pod("new", "lab")
    kube.until(lambda: kube.ask(lab.nodes[0])["pods"] == 0)
    with pytest.raises(NoReply):
        kube.source_of(pod, SERVICE)


def test_spec_drain_hands_over(kube: ApiCluster) -> None:
    lab = kube.lab
    kube.namespace("web", env="shop")
    client = kube.pod("client", "web", 0)
    kube.start()
    kube.start_controller("controller", lab.nodes[0])
    kube.egress_ip("shop", FIRST, SECOND, env="shop")
    kube.until(lambda: kube.ready("shop") == ("True", "AllHeld"))
    first = kube.source_of(client, SERVICE)
    holder = kube.holder(first)
    kube.patch(f"{OURS}/egressnodes/{holder}", {"spec": {"drain": True}})
    kube.until(lambda: kube.source_of(client, SERVICE) != first)
    kube.until(lambda: "phase" in kube.get(f"{OURS}/egressnodes/{holder}")["status"].get("drain", {}))
    kube.patch(f"{OURS}/egressnodes/{holder}", {"spec": {"drain": False}})
    kube.until(lambda: kube.source_of(client, SERVICE) == first)


def test_the_rights_that_are_installed_are_enough(kube: ApiCluster) -> None:
    lab = kube.lab
    kube.server.kubectl("apply", "-k", str(CRDS.parents[1]))
    kube.namespace("web", env="shop")
    client = kube.pod("client", "web", 0)
    for node in lab.nodes:
        kube.start(node, kubeconfig=kube.rights_of("egress-router-node", node))
    rights = kube.rights_of("egress-router-controller", lab.nodes[0])
    kube.start_controller("controller", lab.nodes[0], kubeconfig=rights, lease_namespace=NAMESPACE)
    kube.egress_ip("shop", FIRST, FIRST6, env="shop")
    kube.until(lambda: kube.ready("shop") == ("True", "AllHeld"))
    assert kube.source_of(client, SERVICE) == FIRST
    announced = kube.get(f"{OURS}/egressipassignments/{FIRST}")["status"]
    assert announced["node"] == kube.holder(FIRST)
    assert [(c["type"], c["status"], c["reason"]) for c in announced["conditions"]] == [("Announced", "True", "Held")]
    kube.server.client.request("DELETE", f"{OURS}/egressips/shop")
    kube.until(lambda: not kube.get(f"{OURS}/egressipassignments")["items"])
    refused = re.compile(r"\bsays 403\b|Forbidden", re.IGNORECASE)
    assert not refused.search(kube.text())


def test_uninstall_leaves_nothing_behind(kube: ApiCluster) -> None:
    lab = kube.lab
    before = [kernel_of(node) for node in lab.nodes]
    kube.namespace("web", env="shop")
    client = kube.pod("client", "web", 0)
    before[0] = kernel_of(lab.nodes[0])
    agents = kube.start()
    controller = kube.start_controller("controller", lab.nodes[0])
    kube.egress_ip("shop", FIRST, FIRST6, env="shop")
    kube.until(lambda: kube.ready("shop") == ("True", "AllHeld"))
    assert kube.source_of(client, SERVICE) == FIRST
    assert [kernel_of(node) for node in lab.nodes] != before
    command = [sys.executable, "-m", "egress_router", "node", "uninstall", "--socket"]
    refused = lab.nodes[0].run([*command, str(kube.socket_of(lab.nodes[0]))], check=False)
    assert refused.returncode == 75
    assert "end it first" in refused.stderr
    for process in (controller, *agents):
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    with pytest.raises(NoReply):
        kube.source_of(kube.lab.pod("new", node=0), SERVICE)
    for node in lab.nodes:
        node.run([*command, str(kube.socket_of(node))])
    assert kube.source_of(client, SERVICE) == str(lab.nodes[0].addresses[4])
    after = [kernel_of(node) for node in lab.nodes]
    assert [(state[0], *state[2:]) for state in after] == [(state[0], *state[2:]) for state in before]
    assert "nothing of an agent here" in lab.nodes[0].run([*command, str(kube.socket_of(lab.nodes[0]))]).stdout


def kernel_of(node: Host) -> tuple[str, ...]:
    """Return tables, links, addresses of the outside interface, rules and routes of our numbers."""
    links = " ".join(
        sorted(line.split(":")[1].strip() for line in node.ip("-o link").splitlines() if "veth" not in line)
    )
    return (
        node.run(["nft", "list", "tables"]).stdout,
        "",
        links,
        node.ip("-o addr show dev eth0 scope global").replace("valid_lft", ""),
        node.ip("rule"),
        node.ip("-6 rule"),
        node.ip("route show table all proto 147"),
        node.ip("-6 route show table all proto 147"),
    )
