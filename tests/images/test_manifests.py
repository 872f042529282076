"""What `egress-router manifests` writes is what runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab import Lab, NoReply
from tests.images.container import ManifestPod, load, podman
from tests.images.seed import assert_left_with, fetch

pytestmark = [pytest.mark.root, pytest.mark.timeout(600, func_only=True)]
SOURCE = "192.0.2.46"


def manifests(tag: str, component: str, destinations: str, *options: str) -> list[dict[str, object]]:
    """Write the manifests of a router for Kubernetes with Multus."""
    words = ["manifests", component, "--name", "shop", "--source", SOURCE, "--gateway", "192.0.2.1"]
    words += ["--destinations", "-", "--registry", "localhost", "--tag", tag, *options]
    result = subprocess.run(
        [sys.executable, "-m", "egress_router", *words], input=destinations, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return load(result.stdout)


def assert_confined(router: ManifestPod) -> None:
    """RuntimeDefault and no new privileges, and all works: for the supervisor and what it starts."""
    found = router.confinement()
    assert found
    assert set(found.values()) == {("2", "1")}, found


MULTUS = ["--platform", "kubernetes", "--parent-interface", "eth0"]
SDN = ["--platform", "openshift", "--sdn"]


@pytest.mark.parametrize("platform", [MULTUS, SDN], ids=["kubernetes", "openshift"])
def test_redirect(lab: Lab, tag: str, tmp_path: Path, platform: list[str]) -> None:
    client = lab.pod("client")
    lab.echo("203.0.113.25", tcp=[80])
    items = manifests(tag, "redirect", "8080 tcp 203.0.113.25 80\n", *platform)
    with lab.capture() as capture, ManifestPod(lab, items, tmp_path, images={}) as router:
        router.init()
        router.start()
        router.wait_ready()
        assert_confined(router)
        assert lab.tcp(client, router.host.addresses[4], 8080).split()[0] == SOURCE
        with pytest.raises(NoReply):
            lab.tcp(client, router.host.addresses[4], 8081)
        assert_left_with(capture, SOURCE, router.host.mac("macvlan0"))
        assert router.probe("livenessProbe")
        router.host.ip(f"address del {SOURCE}/32 dev macvlan0")
        router.wait_for(lambda: SOURCE in router.host.ip("address show dev macvlan0"))
        router.wait_ready()
        assert lab.tcp(client, router.host.addresses[4], 8080).split()[0] == SOURCE
        assert router.stop() == 0


def test_http_proxy(lab: Lab, tag: str, tmp_path: Path) -> None:
    client = lab.pod("client")
    lab.http("203.0.113.25")
    lab.dns.set("free.fr", A=["203.0.113.25"])
    items = manifests(tag, "http-proxy", "!perdu.com\n*\n", *MULTUS)
    with lab.capture() as capture, ManifestPod(lab, items, tmp_path, images={}) as router:
        router.init()
        router.start()
        router.wait_ready()
        assert_confined(router)
        assert router.probe("livenessProbe")
        assert fetch(client, router.host.addresses[4], "http://free.fr/")[0] == 200
        assert fetch(client, router.host.addresses[4], "http://perdu.com/")[0] == 403
        assert_left_with(capture, SOURCE, router.host.mac("macvlan0"))
        assert router.stop() == 0


def test_dns_proxy(lab: Lab, tag: str, tmp_path: Path) -> None:
    client = lab.pod("client")
    lab.echo("203.0.113.26", tcp=[80])
    lab.dns.set("service.example", A=["203.0.113.26"])
    items = manifests(tag, "dns-proxy", "80 service.example\n", *MULTUS)
    with lab.capture() as capture, ManifestPod(lab, items, tmp_path, images={}) as router:
        router.init()
        router.start()
        router.wait_ready()
        assert_confined(router)
        assert router.probe("livenessProbe")
        peer, _, server, *_ = lab.tcp(client, router.host.addresses[4], 80).split()
        assert (peer, server) == (SOURCE, "203.0.113.26")
        assert_left_with(capture, SOURCE, router.host.mac("macvlan0"))
        assert router.stop() == 0


def test_a_redirect_router_of_a_pair(lab: Lab, tag: str, tmp_path: Path) -> None:
    """The image's keepalived, with no more than the manifest allows it."""
    client = lab.pod("client")
    lab.echo("203.0.113.25", tcp=[80])
    items = manifests(tag, "redirect", "8080 tcp 203.0.113.25 80\n", "--pair", "46", *MULTUS)
    with lab.capture() as capture, ManifestPod(lab, items, tmp_path, images={}) as router:
        router.init()
        assert SOURCE not in router.host.ip("address show")
        router.start()
        router.wait_ready()
        assert_confined(router)
        assert lab.tcp(client, router.host.addresses[4], 8080).split()[0] == SOURCE
        assert_left_with(capture, SOURCE, router.host.mac("macvlan0"))
        assert router.stop() == 0
        assert SOURCE not in router.host.ip("address show")


def test_an_http_proxy_of_a_pair(lab: Lab, tag: str, tmp_path: Path) -> None:
    """The proxy has no privileges; the container beside it has the address, and takes it along."""
    client = lab.pod("client")
    lab.http("203.0.113.25")
    items = manifests(tag, "http-proxy", "*\n", "--pair", "46", *MULTUS)
    with lab.capture() as capture, ManifestPod(lab, items, tmp_path, images={}) as router:
        router.init()
        router.start()
        router.wait_ready(90)
        assert_confined(router)
        assert fetch(client, router.host.addresses[4], "http://203.0.113.25/")[0] == 200
        assert_left_with(capture, SOURCE, router.host.mac("macvlan0"))
        (pair,) = router.beside
        podman("stop", "--time", "20", pair)
        assert SOURCE not in router.host.ip("address show")
        assert fetch(client, router.host.addresses[4], "http://203.0.113.25/")[0] == 503
