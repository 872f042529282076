"""The manifests of the article that this project follows, and the world that they expect."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from egress_router.manifests.upstream.legacy import mend
from lab import Capture, Host, Lab
from tests.images.container import load

HERE = Path(__file__).parent
OLD = HERE.parent / "manifests" / "golden" / "migrate"
GATEWAY = "10.42.253.1"
FETCH = """
import sys, urllib.error, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": sys.argv[1]}))
try:
    reply = opener.open(sys.argv[2], timeout=20)
except urllib.error.HTTPError as error:
    reply = error
print(reply.status, reply.read().decode(errors="replace"))
"""
LEAST_INIT = {
    "runAsUser": 0,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
#: As OpenShift's restricted SCC runs a container: a user of the namespace's range, group 0.
LEAST_MAIN = {
    "runAsUser": 1000730000,
    "runAsGroup": 0,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def images(tag: str) -> dict[str, str]:
    """Return our images for upstream's names. ``origin-pod`` only waits; any image with a shell can stand in for it."""
    init, proxy, dns = (f"localhost/egress-router-{name}:{tag}" for name in ("init", "proxy", "dns"))
    return {
        "docker.io/openshift/origin-egress-router": init,
        "openshift/origin-egress-router": init,
        "openshift/origin-egress-http-proxy": proxy,
        "openshift/origin-egress-dns-proxy": dns,
        "docker.io/openshift/origin-pod": init,
    }


def objects(name: str) -> list[dict[str, Any]]:
    """Return the objects of a manifest, its typographic characters mended."""
    path = OLD / f"seed-{name}" / "old.yaml"
    text = path.read_text() if path.exists() else (HERE / "manifests" / f"{name}.yaml").read_text()
    return load(mend(text, name)[0])


def world(lab: Lab) -> None:
    """Give the gateway the address that the manifests call it by, and a way to the one external address they name.
    All of it is inside of the lab's namespaces.
    """
    lab.gateway.add_addresses([GATEWAY])
    lab.gateway.ip("route add 8.8.8.8/32 dev eth1")


def fetch(client: Host, proxy: object, url: str) -> tuple[int, str]:
    """Fetch a URL through the proxy; return the status and the body."""
    result = client.run([sys.executable, "-I", "-c", FETCH, f"http://{proxy}:8080", url], timeout=30)
    status, _, body = result.stdout.partition(" ")
    return int(status), body


def assert_left_with(capture: Capture, source: str, mac: str) -> None:
    """Everything that left the cluster had ``source``, and the gateway knows it by the macvlan's own address."""
    assert capture.sources() == {source} or {str(one) for one in capture.sources()} == {source}
    assert not capture.leaks(allowed={source})
    assert capture.owner_mac(source) == mac
