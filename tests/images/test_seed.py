"""The seed's manifests run: with the privileges that they give, and with the least that is enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import Lab
from tests.images.container import ManifestPod
from tests.images.seed import LEAST_INIT, LEAST_MAIN, assert_left_with, fetch, images, objects, world

pytestmark = [pytest.mark.root, pytest.mark.timeout(600, func_only=True)]
privileges = pytest.mark.parametrize("least", [False, True], ids=["as-in-the-manifest", "least"])


def pod(lab: Lab, name: str, tag: str, directory: Path, *, least: bool) -> ManifestPod:
    init, main = (LEAST_INIT, LEAST_MAIN) if least else (None, None)
    return ManifestPod(lab, objects(name), directory, images=images(tag), least=init, least_main=main)


@privileges
def test_redirect(lab: Lab, tag: str, tmp_path: Path, least: bool) -> None:
    world(lab)
    client = lab.pod("client")
    lab.echo("8.8.8.8", tcp=[53, 80])
    assert lab.tcp(client, "8.8.8.8", 53).split()[2] == "8.8.8.8"
    with lab.capture() as capture, pod(lab, "redirect", tag, tmp_path, least=least) as router:
        capture.clear()
        router.init()
        router.start("sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait")
        for port in (53, 80):
            peer, _, server, server_port, *_ = lab.tcp(client, router.host.addresses[4], port).split()
            assert (peer, server, server_port) == ("10.42.253.46", "8.8.8.8", str(port))
        assert_left_with(capture, "10.42.253.46", router.host.mac("macvlan0"))
        assert router.stop() == 0


@privileges
def test_http_proxy(lab: Lab, tag: str, tmp_path: Path, least: bool) -> None:
    world(lab)
    client = lab.pod("client")
    server = lab.http("203.0.113.25")
    for name in ("free.fr", "perdu.com", "www.perdu.com"):
        lab.dns.set(name, A=["203.0.113.25"])
    with lab.capture() as capture, pod(lab, "http-proxy", tag, tmp_path, least=least) as router:
        router.init()
        router.start()
        router.wait_for(lambda: "is in force" in router.logs())
        status, body = fetch(client, router.host.addresses[4], "http://free.fr/hello")
        assert (status, body.split()[0]) == (200, "10.42.253.43")
        for name in ("perdu.com", "www.perdu.com", "10.42.253.1"):
            status, page = fetch(client, router.host.addresses[4], f"http://{name}/")
            assert (status, "The policy of this proxy" in page) == (403, True)
        assert fetch(client, router.host.addresses[4], "http://no.such.name/")[0] == 503
        assert "ERROR" not in router.logs(), "Squid found all files"
        assert [request.path for request in server.requests] == ["/hello"]
        assert_left_with(capture, "10.42.253.43", router.host.mac("macvlan0"))
        assert router.stop() == 0


@privileges
def test_dns_proxy(lab: Lab, tag: str, tmp_path: Path, least: bool) -> None:
    world(lab)
    client = lab.pod("client")
    lab.echo("203.0.113.25", tcp=[80])
    lab.echo("203.0.113.26", tcp=[80])
    lab.dns.set("service.example", A=["203.0.113.26"])
    with lab.capture() as capture, pod(lab, "dns-proxy", tag, tmp_path, least=least) as router:
        if least:
            # For port 80: a sysctl that any pod may ask for in its securityContext.
            router.host.sysctl("net.ipv4.ip_unprivileged_port_start", 0)
        router.init()
        router.start()
        router.wait_for(lambda: "is in force" in router.logs())
        for port, address in ((80, "203.0.113.25"), (8080, "203.0.113.26")):
            peer, _, server, *_ = lab.tcp(client, router.host.addresses[4], port).split()
            assert (peer, server) == ("10.42.253.44", address)
        assert_left_with(capture, "10.42.253.44", router.host.mac("macvlan0"))
        assert router.stop() == 0
