"""What operators do to routers in a real cluster: change lists, delete, upgrade, lose nodes, and what they are told."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from lab import client
from lab.addressing import parse
from lab.capture import Capture
from lab.kubernetes.cluster import Cluster
from lab.kubernetes.plan import Plan
from tests.support.products import NAMESPACE, Routers, is_ready, manifests

pytestmark = [
    pytest.mark.root,
    pytest.mark.on_demand,
    pytest.mark.xdist_group("cluster"),
    pytest.mark.timeout(400),
    pytest.mark.parametrize("cluster", [Plan(attachments=True)], indirect=True, ids=["bridge"]),
]

ECHO, OTHER = "203.0.113.25", "203.0.113.26"
GOOD = f"80 tcp {ECHO}\n"


@pytest.fixture(scope="module")
def routers(cluster: Cluster) -> Routers:
    cluster.echo(ECHO, tcp=[80])
    cluster.echo(OTHER, tcp=[80])
    return Routers(cluster)


@pytest.fixture(autouse=True)
def nothing_else(routers: Routers) -> Iterator[None]:
    """Each test has the namespace to itself; what it said is shown when it fails."""
    yield
    routers.clear()


def owners(seen: Capture, source: str) -> list[str]:
    """Return the MACs that sent with a source address, in the order of their first packet."""
    return list(dict.fromkeys(p.src_mac for p in seen.received() if str(p.src) == source and p.proto == "tcp"))


def turns(seen: Capture, source: str) -> int:
    """Return how often the MAC that sends with a source changes."""
    macs = [p.src_mac for p in seen.received() if str(p.src) == source and p.proto == "tcp"]
    return sum(1 for before, after in itertools.pairwise(macs) if before != after)


@pytest.mark.cross_section
@pytest.mark.parametrize("kind", ["redirect", "http-proxy", "dns-proxy"])
def test_a_changed_config_map_is_reloaded_without_a_failed_connection(routers: Routers, kind: str) -> None:
    """The documented way: apply, and touch an annotation of the pod, so that the kubelet looks at once."""
    lists = {
        "redirect": (GOOD, f"{GOOD}82 tcp {OTHER} 80\n"),
        "http-proxy": (f"{ECHO}\n", f"{ECHO}\n{OTHER}\n"),
        "dns-proxy": (f"80 {ECHO}\n", f"80 {ECHO}\n82 {OTHER} 80\n"),
    }
    before, after = lists[kind]
    routers.apply(manifests(kind, "shop", ["192.0.2.46"], before))
    (pod,) = routers.wait_ready("shop")
    service, direct = routers.service("shop"), pod["status"]["podIP"]

    def served() -> bool:
        if kind == "http-proxy":
            return " 200 " in routers.say(direct, 8080, tunnel(OTHER)[0])
        return routers.source(direct, 82) == "192.0.2.46"

    port, (send, expect) = (8080, tunnel(ECHO)) if kind == "http-proxy" else (80, ("x\n", "x\n"))
    with routers.connecting(service, port, send=send, expect=expect) as outcome:
        time.sleep(1)
        routers.apply(manifests(kind, "shop", ["192.0.2.46"], after))
        routers.kubectl("annotate", "pod", "-l", "app.kubernetes.io/instance=shop", "egress-router/list=1")
        took = routers.until("the new line is served", served, 90)
        time.sleep(1)
    print(f"{kind}: served after {took:.1f} s, {outcome['connections']} connections")
    assert took < 20, "the kubelet looks when an annotation changes"
    assert outcome["failures"] == []
    assert outcome["connections"] > 50
    assert [one["metadata"]["uid"] for one in routers.pods("shop")] == [pod["metadata"]["uid"]], "the same pod"


def tunnel(server: str) -> tuple[str, str]:
    """Return what asks an HTTP proxy for a tunnel, and what must be in the answer."""
    return f"CONNECT {server}:80 HTTP/1.1\r\nHost: {server}:80\r\n\r\n", " 200 "


@pytest.mark.cross_section
def test_a_deleted_pod_and_its_successor_are_never_live_at_once(routers: Routers) -> None:
    """The successor is there at once, on the same node, and waits until the old one has let its connections finish."""
    node = routers.cluster.shape.node_names[0]
    options = ("--node-selector", f"kubernetes.io/hostname={node}")
    routers.apply(manifests("redirect", "shop", ["192.0.2.46"], GOOD, *options))
    (old,) = routers.wait_ready("shop")
    service, host = routers.service("shop"), routers.client(2)
    with routers.cluster.capture() as seen:
        held = client.connect(host, parse(service), 80, 10)
        held.sendall(b"one\n")
        assert held.recv(100).startswith(b"192.0.2.46 ")
        routers.kubectl("delete", "pod", old["metadata"]["name"], "--wait=false")
        routers.until("there are two pods", lambda: len(routers.pods("shop")) == 2, 20)
        started = time.monotonic()
        while time.monotonic() - started < 8:
            assert routers.source(service, 80, 2) == "192.0.2.46", "who leaves serves until its successor may"
            time.sleep(0.5)
        assert len(routers.pods("shop")) == 2, "it still waits for the connection that is held"
        held.sendall(b"two\n")
        assert held.recv(100) == b"two\n"
        held.close()
        (new,) = routers.wait_ready("shop", timeout=60)
        assert routers.source(service, 80, 2) == "192.0.2.46"
    assert new["spec"]["nodeName"] == old["spec"]["nodeName"] == node
    assert len(owners(seen, "192.0.2.46")) == 2
    assert turns(seen, "192.0.2.46") == 1, "first one, then the other"
    assert sum(one["restartCount"] for one in new["status"]["initContainerStatuses"]) == 0


def test_two_routers_with_one_source_on_one_node(routers: Routers) -> None:
    """The second waits, ends with 75, and `kubectl describe` shows why; the first serves on."""
    node = routers.cluster.shape.node_names[0]
    options = ("--node-selector", f"kubernetes.io/hostname={node}")
    routers.apply(manifests("redirect", "first", ["192.0.2.46"], GOOD, *options))
    routers.wait_ready("first")
    text = manifests("redirect", "second", ["192.0.2.46"], GOOD, *options)
    source = "- name: EGRESS_SOURCE"
    assert text.count(source) == 2
    text = text.replace(source, f'- {{name: EGRESS_DAD_WAIT, value: "3"}}\n            {source}')
    routers.apply(text)
    service = routers.service("first")
    with routers.connecting(service, 80) as outcome:
        described(routers, "second", "Exit Code:    75", "192.0.2.46 is in use", timeout=60)
        assert routers.ready("second") == []
    assert outcome["failures"] == []


def described(routers: Routers, name: str, *texts: str, timeout: float = 60) -> str:
    """Wait until `kubectl describe pods` shows all the texts, and return it."""
    told = ""

    def shown() -> bool:
        nonlocal told
        told = routers.kubectl("describe", "pods", "-l", f"app.kubernetes.io/instance={name}")
        return all(text in " ".join(told.split()) or text in told for text in texts)

    with suppress(Exception):
        routers.until("it is described", shown, timeout)
    missing = [text for text in texts if text not in told and text not in " ".join(told.split())]
    assert not missing, f"{missing}\n{told}"
    return told


@pytest.mark.cross_section
def test_the_node_s_own_address_is_refused(routers: Routers) -> None:
    """No probe would tell: a macvlan never hears its parent."""
    routers.apply(
        manifests("redirect", "shop", ["192.0.2.11"], GOOD, "--node-selector", "kubernetes.io/hostname=node-1")
    )
    described(routers, "shop", "Exit Code:    78", "192.0.2.11", "is the address of the node")


@pytest.mark.parametrize(
    ("old", "new", "texts"),
    [
        ('value: "192.0.2.1"', 'value: "192.0.2.46"', ("Exit Code:    78", "EGRESS_GATEWAY")),
        (f"80 tcp {ECHO}\n", "80 tpc 203.0.113.25\n", ("Exit Code:    78", "line 1", "tpc")),
    ],
    ids=["gateway", "list"],
)
def test_what_is_wrong_is_described(routers: Routers, old: str, new: str, texts: tuple[str, ...]) -> None:
    text = manifests("redirect", "shop", ["192.0.2.46"], GOOD)
    assert old in text
    routers.apply(text.replace(old, new))
    described(routers, "shop", *texts)


def test_a_mended_list_is_taken_without_the_kubelet_s_back_off(routers: Routers) -> None:
    """The first `init` ends, so that its message is shown; the second waits for the list, and the message stays."""
    text = manifests("redirect", "shop", ["192.0.2.46"], GOOD)
    routers.apply(text.replace(GOOD, "80 tpc 203.0.113.25\n"))
    described(routers, "shop", "Exit Code:    78", "line 1", "tpc")

    def init() -> dict[str, Any]:
        found: dict[str, Any] = routers.pods("shop")[0]["status"]["initContainerStatuses"][0]
        return found

    routers.until("the second waits", lambda: init()["restartCount"] == 1 and "running" in init()["state"], 60)
    told = described(routers, "shop", "Last State: Terminated", "Exit Code:    78", "tpc")
    assert "State: Running" in " ".join(told.split())
    assert "tpc" in routers.kubectl("logs", "deploy/shop", "-c", "init")
    time.sleep(12)
    assert init()["restartCount"] == 1, "it waits longer than the first"
    routers.apply(text)
    routers.kubectl("annotate", "pod", "-l", "app.kubernetes.io/instance=shop", "egress-router/list=1")
    begun = time.monotonic()
    routers.wait_ready("shop")
    print(f"Ready {time.monotonic() - begun:.1f} s after the list was mended")
    assert init()["restartCount"] == 1
    assert routers.source(routers.service("shop"), 80) == "192.0.2.46"


def test_a_namespace_that_is_not_privileged_refuses_the_pods(routers: Routers) -> None:
    """What `manifests` says first is to label the namespace; the event names the capability where nobody did."""
    routers.cluster.kubectl("create", "namespace", "plain")
    routers.cluster.kubectl("label", "namespace", "plain", "pod-security.kubernetes.io/enforce=baseline")
    routers.apply(manifests("redirect", "shop", ["192.0.2.46"], GOOD, "--namespace=plain"))

    def told() -> bool:
        return "NET_ADMIN" in routers.cluster.kubectl("-n", "plain", "describe", "replicasets")

    routers.until("the pods are refused", told, 30)
    routers.cluster.kubectl("delete", "namespace", "plain", "--wait=false")


def test_a_gateway_that_does_not_answer(routers: Routers) -> None:
    """The pod is not Ready, and the probe's event has the reason."""
    text = manifests("redirect", "shop", ["192.0.2.46"], GOOD).replace('"192.0.2.1"', '"192.0.2.77"')
    routers.apply(text)
    routers.until("it runs", lambda: routers.pods("shop")[0]["status"]["phase"] == "Running", 60)
    time.sleep(15)
    (pod,) = routers.pods("shop")
    assert not is_ready(pod)
    described(routers, "shop", "Readiness probe failed", "503")
    logs = routers.kubectl("logs", "deploy/shop")
    assert "gateway 192.0.2.77 does not answer" in logs


def test_a_config_map_that_is_missing(routers: Routers) -> None:
    routers.apply(manifests("redirect", "shop", ["192.0.2.46"], GOOD))
    routers.wait_ready("shop")
    routers.kubectl("delete", "configmap", "shop")
    routers.kubectl("delete", "pod", "-l", "app.kubernetes.io/instance=shop", "--grace-period=1")
    described(routers, "shop", 'configmap "shop" not found')
    routers.apply(manifests("redirect", "shop", ["192.0.2.46"], GOOD))
    routers.wait_ready("shop", timeout=150)


def test_deleting_one_leaves_the_others(routers: Routers) -> None:
    """No namespace is in what is written; removal by label takes one set alone."""
    one, two = (manifests("redirect", name, [ip], GOOD) for name, ip in (("one", "192.0.2.46"), ("two", "192.0.2.47")))
    routers.apply(one)
    routers.apply(two)
    (kept,) = routers.wait_ready("two")
    routers.wait_ready("one")
    routers.cluster.kubectl("delete", "-f", "-", "--wait=false", input=one)
    routers.until("its pods are gone", lambda: not routers.pods("one"), 60)
    assert [pod["metadata"]["uid"] for pod in routers.ready("two")] == [kept["metadata"]["uid"]]
    assert routers.source(routers.service("two"), 80) == "192.0.2.47"
    labels = "app.kubernetes.io/part-of=egress-router,app.kubernetes.io/instance"
    kinds = "all,configmap,serviceaccount,networkpolicy,poddisruptionbudget,network-attachment-definitions"
    routers.apply(one)
    routers.kubectl("delete", kinds, "-l", f"{labels}=two", "--wait=false")
    left = routers.kubectl("get", kinds, "-l", f"{labels}=two", "-o", "name")
    routers.until("its pods are gone", lambda: not routers.pods("two"), 60)
    left = routers.kubectl("get", kinds, "-l", f"{labels}=two", "-o", "name")
    assert left == ""
    routers.wait_ready("one")


@pytest.mark.parametrize("kind", ["redirect", "http-proxy"])
def test_an_upgrade_of_two_loses_no_new_connection(routers: Routers, kind: str) -> None:
    """`kubectl apply` of a new image ends both at once; clients of the Service do not notice."""
    routers.cluster.load_products("next")
    sources = ["192.0.2.46", "192.0.2.47"]
    port = 80 if kind == "redirect" else 8080
    content = GOOD if kind == "redirect" else f"{ECHO}\n"
    routers.apply(manifests(kind, "shop", sources, content))
    before = {pod["metadata"]["uid"] for pod in routers.wait_ready("shop", 2)}
    service = routers.service("shop")
    send, expect = ("x\n", "x\n") if kind == "redirect" else tunnel(ECHO)
    with routers.connecting(service, port, send=send, expect=expect) as outcome:
        time.sleep(2)
        routers.apply(manifests(kind, "shop", sources, content, "--tag=next"))

        def replaced() -> bool:
            pods = routers.ready("shop")
            return len(pods) == len(routers.pods("shop")) == 2 and not before & {p["metadata"]["uid"] for p in pods}

        took = routers.until("both are new", replaced, 200)
        time.sleep(2)
    print(f"{kind}: both replaced after {took:.0f} s, {outcome['connections']} connections")
    assert outcome["failures"] == []
    assert outcome["connections"] > 100


KINDS = {
    "redirect": (GOOD, 80, ("x\n", "x\n")),
    "http-proxy": (f"{ECHO}\n", 8080, (f"CONNECT {ECHO}:80 HTTP/1.1\r\nHost: {ECHO}:80\r\n\r\n", " 200 ")),
    "dns-proxy": (f"80 {ECHO}\n", 80, ("x\n", "x\n")),
}


@pytest.mark.parametrize("where", ["anywhere", "same"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_upgrade_of_one_is_short(routers: Routers, kind: str, where: str) -> None:
    """The successor starts beside the old one, on any node or on the same one, and waits for the address."""
    routers.cluster.load_products("next")
    content, port, talk = KINDS[kind]
    options = ["--node-selector", f"kubernetes.io/hostname={routers.cluster.shape.node_names[0]}"]
    options = options if where == "same" else []
    routers.apply(manifests(kind, "shop", ["192.0.2.46"], content, *options))
    (before,) = routers.wait_ready("shop")
    service = routers.service("shop")
    with routers.cluster.capture() as seen:
        routers.until("it answers", lambda: answers(routers, service, port, *talk), 20)
        routers.apply(manifests(kind, "shop", ["192.0.2.46"], content, "--tag=next", *options))
        gap = outage(routers, service, port, before["metadata"]["uid"], *talk)
    print(f"{kind}, {where}: {gap:.1f} s without an answer")
    assert len(owners(seen, "192.0.2.46")) == 2
    assert turns(seen, "192.0.2.46") == 1, "first one, then the other"
    assert 0 < gap < 20


def answers(routers: Routers, address: str, port: int, send: str, expect: str) -> bool:
    """Whether a client that connects, and sends something, gets what it expects in half a second."""
    try:
        with client.connect(routers.client(), parse(address), port, 0.5) as opened:
            opened.sendall(send.encode())
            return expect in opened.recv(4096).decode()
    except (client.NoReply, OSError):
        return False


def outage(routers: Routers, address: str, port: int, before: str, send: str, expect: str) -> float:
    """Return how long nobody answered until another pod than ``before`` is Ready and answers."""
    last, longest = time.monotonic(), 0.0
    deadline = last + 120
    over = threading.Event()

    def watch() -> None:
        def replaced() -> bool:
            pods = routers.ready("shop")
            return bool(pods) and all(pod["metadata"]["uid"] != before for pod in pods)

        routers.until("it is replaced", replaced, 110)
        over.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    answered_after = 0
    while answered_after < 3 and time.monotonic() < deadline:
        if answers(routers, address, port, send, expect):
            now = time.monotonic()
            longest = max(longest, now - last)
            last = now
            answered_after += over.is_set()
        time.sleep(0.05)
    watcher.join()
    return longest


def test_a_node_that_loses_power(routers: Routers) -> None:
    """Tolerations bring the router to another node, in a minute and a half at most."""
    routers.apply(manifests("redirect", "shop", ["192.0.2.46"], GOOD))
    (before,) = routers.wait_ready("shop")
    service = routers.service("shop")
    node = before["spec"]["nodeName"]
    number = next(n for n, name in enumerate(routers.cluster.shape.node_names, 1) if name != node)
    routers.cluster.cut(node)
    begun = time.monotonic()
    try:

        def elsewhere() -> bool:
            return routers.source(service, 80, number, 1.0) == "192.0.2.46"

        with pytest.raises(client.NoReply):
            routers.source(service, 80, number, 1.0)
        routers.until("another node serves", elsewhere, 120)
        took = time.monotonic() - begun
    finally:
        routers.cluster.heal(node)
    print(f"after {took:.0f} s")
    assert took <= 90
    routers.until("the node is back", routers.cluster.all_ready, 60)


def pod_of(routers: Routers, name: str) -> dict[str, Any]:
    """Return the only pod of a set."""
    (pod,) = routers.wait_ready(name)
    return pod


def test_who_goes_through_one_proxy_does_not_notice_the_end_of_another(routers: Routers) -> None:
    """On another node, killed without a farewell: "No route to host" was seen twice, and never explained."""
    nodes = routers.cluster.shape.node_names
    for name, source, node in (("web", "192.0.2.48", nodes[0]), ("other", "192.0.2.49", nodes[1])):
        options = ("--node-selector", f"kubernetes.io/hostname={node}")
        routers.apply(manifests("http-proxy", name, [source], f"{ECHO}\n", *options))
    routers.wait_ready("web")
    send, expect = tunnel(ECHO)
    with routers.connecting(routers.service("web"), 8080, number=3, send=send, expect=expect) as outcome:
        for _ in range(4):
            routers.wait_ready("other")
            selector = "app.kubernetes.io/instance=other"
            routers.kubectl("delete", "pod", "-l", selector, "--grace-period=0", "--force")
    print(f"{outcome['connections']} connections")
    assert outcome["failures"] == []
    assert outcome["connections"] > 100


def test_who_goes_through_one_of_two_notices_a_kill_for_a_moment(routers: Routers) -> None:
    """Killed without a farewell, it is an endpoint of the Service until the nodes have heard: what is sent to its
    address meanwhile is answered by its node ("No route to host"), or by nobody.
    """
    nodes = routers.cluster.shape.node_names
    sources = ["192.0.2.48", "192.0.2.49"]
    routers.apply(manifests("http-proxy", "web", sources, f"{ECHO}\n"))
    pods = routers.wait_ready("web", 2)
    killed = next(pod for pod in pods if pod["spec"]["nodeName"] != nodes[2])
    send, expect = tunnel(ECHO)
    node, address = killed["spec"]["nodeName"], killed["status"]["podIP"]
    with (
        Capture(routers.client(3), "eth0") as seen,
        routers.connecting(routers.service("web"), 8080, number=3, send=send, expect=expect) as outcome,
    ):
        time.sleep(1)
        at = time.time()
        routers.kubectl("delete", "pod", killed["metadata"]["name"], "--grace-period=0", "--force")
        routers.wait_ready("web", 2)
    print(f"{outcome['connections']} connections; {address} on {node} killed at {at:.3f}: {outcome['failures']}")
    print([(packet.proto, str(packet.src), packet.time) for packet in seen.received() if packet.proto == "icmp"][:20])
    late = [line for line in outcome["failures"] if float(line.split()[0]) > at + 5]
    assert late == [], "only while nodes have not heard of it"


def test_no_route_to_host_is_said_of_a_dead_endpoint(routers: Routers) -> None:
    """A node whose kube-proxy has not heard of an end yet (here it stands still) sends on to the dead address. That
    one's node goes on for a while as if it were there, then asks for it by ARP, and tells all that wait at once: so as
    many connections fail together as there are clients.
    """
    nodes = routers.cluster.shape.node_names
    routers.apply(manifests("http-proxy", "web", ["192.0.2.48", "192.0.2.49"], f"{ECHO}\n"))
    pods = routers.wait_ready("web", 2)
    killed = next(pod for pod in pods if pod["spec"]["nodeName"] != nodes[2])
    send, expect = tunnel(ECHO)
    late = routers.cluster.node(nodes[2]).proxy
    with (
        Capture(routers.client(3), "eth0") as seen,
        routers.connecting(
            routers.service("web"), 8080, number=3, threads=6, send=send, expect=expect, patience=90.0
        ) as outcome,
    ):
        time.sleep(1)
        late.signal(signal.SIGSTOP)
        try:
            routers.kubectl("delete", "pod", killed["metadata"]["name"], "--grace-period=0", "--force")
            time.sleep(8)
        finally:
            late.signal(signal.SIGCONT)
        routers.wait_ready("web", 2)
        time.sleep(60)
    told = [packet.time for packet in seen.received() if packet.proto == "icmp"]
    unreachable = [line for line in outcome["failures"] if "No route to host" in line]
    kinds = Counter(line.split(" ", 1)[1] for line in outcome["failures"])
    print(f"{outcome['connections']} connections; {kinds}; {unreachable}; {told}")
    assert len(unreachable) == 6
    assert max(told[:6]) - min(told[:6]) < 1.0, "all that wait are told at once"


def test_debug_from_an_ephemeral_container(routers: Routers) -> None:
    """As docs/operations.md has it: variables by --env, since no input reaches an ephemeral container to its end."""
    routers.apply(manifests("redirect", "shop", ["192.0.2.46"], GOOD))
    name = pod_of(routers, "shop")["metadata"]["name"]
    image = "localhost/egress-router-init:0.1.0"
    words = ["debug", name, "--image", image, "--profile=netadmin", "-c", "look", "--attach=false"]
    variables = {"EGRESS_SOURCE": "192.0.2.46", "EGRESS_GATEWAY": "192.0.2.1", "EGRESS_DESTINATION": GOOD.strip()}
    words += [f"--env={key}={value}" for key, value in variables.items()]
    routers.kubectl(*words, "--", "egress-router", "status")
    routers.until("it has spoken", lambda: "leaving by macvlan0" in routers.kubectl("logs", name, "-c", "look"), 30)
    assert "ok: leaving by macvlan0 with 192.0.2.46/32" in routers.kubectl("logs", name, "-c", "look")
    assert NAMESPACE
