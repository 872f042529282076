"""A pair in a real cluster: what a Service makes of a node without power, and of a new image."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab import client
from lab.addressing import parse
from lab.kubernetes.cluster import Cluster
from lab.kubernetes.plan import Plan
from tests.support.products import NAMESPACE, Routers, manifests

pytestmark = [
    pytest.mark.root,
    pytest.mark.on_demand,
    pytest.mark.xdist_group("cluster"),
    pytest.mark.timeout(500),
    pytest.mark.parametrize("cluster", [Plan(attachments=True)], indirect=True, ids=["bridge"]),
]

ECHO, SHOP = "203.0.113.25", "192.0.2.46"
LIST = f"80 tcp {ECHO}\n"
#: A client that knows in ten seconds that nobody acknowledges what it sends (tcp(7)).
USER_TIMEOUT, USER_TIMEOUT_SECONDS = 18, 10
#: Until the node is Unknown its pod stays among those that a Service sends new connections to: Plan's node_grace, and
#: what controllers and kube-proxy need.
MOST_NAMED = 90.0


@pytest.fixture(scope="module")
def routers(cluster: Cluster) -> Routers:
    cluster.echo(ECHO, tcp=[80])
    return Routers(cluster)


@pytest.fixture(autouse=True)
def nothing_else(routers: Routers) -> Iterator[None]:
    """Each test has the namespace to itself."""
    yield
    routers.clear()


def apply(routers: Routers, *options: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Apply a pair; return its active pod, and the one that stands by."""
    routers.apply(manifests("redirect", "shop", [SHOP], LIST, "--pair=46", *options))

    def stands() -> bool:
        pods = routers.pods("shop")
        return len(routers.ready("shop")) == 1 and [is_running(pod) for pod in pods] == [True, True]

    routers.until("one is active, and the other one stands by", stands, 120)
    (active,) = routers.ready("shop")
    (standby,) = [pod for pod in routers.pods("shop") if pod["metadata"]["uid"] != active["metadata"]["uid"]]
    return active, standby


def is_running(pod: dict[str, Any]) -> bool:
    return all("running" in one["state"] for one in pod["status"].get("containerStatuses", ({"state": {}},)))


def served(routers: Routers, address: str, number: int) -> bool:
    """Whether a new connection is answered within half a second, and leaves with the pair's address."""
    try:
        return routers.source(address, 80, number, 0.5) == SHOP
    except client.NoReply:
        return False


@pytest.mark.parametrize("network", ["egress", "cluster"])
def test_the_node_of_the_active_router_loses_power(routers: Routers, network: str) -> None:
    """The pair has the address again at once. A Service knows later: the dead pod stays among its ready ones until its
    node is Unknown, and an open connection to it has nobody any more who could end it.
    """
    active, standby = apply(routers, f"--pair-network={network}")
    taken = {pod["spec"]["nodeName"] for pod in (active, standby)}
    number, _ = next((n, name) for n, name in enumerate(routers.cluster.shape.node_names, 1) if name not in taken)
    service, direct = routers.service("shop"), standby["status"]["podIP"]
    held = client.connect(routers.client(number), parse(service), 80, 30)
    held.setsockopt(socket.IPPROTO_TCP, USER_TIMEOUT, USER_TIMEOUT_SECONDS * 1000)
    held.sendall(b"one\n")
    assert held.recv(100).decode().split()[0] == SHOP
    assert not served(routers, direct, number)
    routers.cluster.cut(active["spec"]["nodeName"])
    cut = time.monotonic()
    try:
        held.sendall(b"two\n")
        took = routers.until("the other one has the address", lambda: served(routers, direct, number), 30)
        ended, why = end_of(held, cut)
        attempts: list[tuple[float, bool]] = []
        while time.monotonic() - cut < MOST_NAMED:
            attempts.append((time.monotonic() - cut, served(routers, service, number)))
            time.sleep(0.2)
    finally:
        routers.cluster.heal(active["spec"]["nodeName"])
        held.close()
    failed = [when for when, good in attempts if not good]
    named = max(failed, default=0.0)
    share = len(failed) / max(1, sum(when <= named for when, _ in attempts))
    print(
        f"{network}: the other router serves after {took:.1f} s; by the Service {share:.0%} of new connections failed "
        f"for {named:.0f} s; the open connection ended after {ended:.1f} s ({why})"
    )
    assert took < 5
    assert USER_TIMEOUT_SECONDS - 1 < ended < USER_TIMEOUT_SECONDS + 10, "by the client's own time-out, no sooner"
    assert attempts[-1][1], "in the end the Service knows"
    assert share < 0.8, "it knows the active one as soon as that is ready"


def end_of(held: socket.socket, since: float) -> tuple[float, str]:
    """Return after how long a connection ended, and how."""
    held.settimeout(60)
    try:
        why = "data" if held.recv(1) else "closed"
    except OSError as error:
        why = error.strerror or str(error)
    return time.monotonic() - since, why


@pytest.mark.parametrize(("options", "most"), [((), 10.0), (("--headless",), 60.0)], ids=["service", "headless"])
def test_a_new_image_of_both(routers: Routers, options: tuple[str, ...], most: float) -> None:
    """`kubectl apply` tells both to leave at once. A headless name has no pod that ends: then nobody is named until the
    first of the new ones has the address.
    """
    routers.cluster.load_products("next")
    active, standby = apply(routers, *options)
    old = {pod["metadata"]["uid"] for pod in (active, standby)}
    service = "" if options else routers.service("shop")
    routers.apply(manifests("redirect", "shop", [SHOP], LIST, "--pair=46", "--tag=next", *options))
    last, longest, end = time.monotonic(), 0.0, time.monotonic() + 200
    while time.monotonic() < end:
        pods, ready = routers.pods("shop"), routers.ready("shop")
        # What the name of a headless Service says is what is ready and does not end.
        places = [service] if service else [pod["status"]["podIP"] for pod in ready]
        if places and served(routers, places[0], 1):
            longest = max(longest, time.monotonic() - last)
            last = time.monotonic()
            if ready and len(pods) == 2 and not old & {pod["metadata"]["uid"] for pod in pods}:
                break
        time.sleep(0.1)
    print(f"{' '.join(options) or 'Service'} in {NAMESPACE}: new clients found nobody for {longest:.1f} s at most")
    assert not old & {pod["metadata"]["uid"] for pod in routers.pods("shop")}
    assert longest < most
