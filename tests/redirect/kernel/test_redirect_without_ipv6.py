"""A machine that was booted with ipv6.disable=1: no IPv6 sockets, no /proc/sys/net/ipv6, no IPv6 routes. IPv4 works.

scripts/test-kernels boots such a machine for these. Elsewhere a seccomp filter takes the sockets away, which is most of
it. The lab has both families everywhere, so these make their few namespaces themselves.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import IO, cast

import pytest

from egress_router.http_proxy.squid.ipv4_only import without_ipv6
from lab import Host, Lab
from lab.host import ETC_NETNS
from lab.patience import patient
from lab.worker import Worker
from tests.dns_proxy.kernel.dns_proxy_pod import DnsProxyPod
from tests.http_proxy.kernel.http_pod import Proxy

pytestmark = [pytest.mark.root, pytest.mark.without_ipv6]

#: Whether this kernel has none itself.
BOOTED_SO = "ipv6.disable=1" in os.environ.get("TEST_KERNEL_PARAMETERS", "")
#: What runs the rest of a command line without IPv6 sockets.
FILTER = [] if BOOTED_SO else list(without_ipv6(()))
SOURCE, SERVER, POD = "192.0.2.46", "203.0.113.25", "10.128.0.5"
SETTINGS = {
    "EGRESS_ROUTER_MODE": "init",
    "EGRESS_SOURCE": f"{SOURCE}/24",
    "EGRESS_GATEWAY": "192.0.2.1",
    "EGRESS_DAD": "on",
}
#: Names of namespaces: the router's pod, the cluster with a client, the network outside.
ROUTER, CLUSTER, OUTSIDE = (f"er-{os.getpid()}-{name}" for name in ("router", "cluster", "outside"))
NAMESPACES = f"""
ip netns add {ROUTER}
ip netns add {CLUSTER}
ip netns add {OUTSIDE}
ip -n {ROUTER} link add eth0 type veth peer name pod netns {CLUSTER}
ip -n {OUTSIDE} link add lan type veth peer name macvlan0 netns {ROUTER}
ip -n {ROUTER} link set lo up
ip -n {OUTSIDE} link set lo up
ip -n {CLUSTER} addr add 10.128.0.1/24 dev pod
ip -n {CLUSTER} link set pod up
ip -n {ROUTER} addr add {POD}/24 dev eth0
ip -n {ROUTER} link set eth0 up
ip -n {ROUTER} route add default via 10.128.0.1
ip -n {OUTSIDE} addr add 192.0.2.1/24 dev lan
ip -n {OUTSIDE} addr add {SERVER}/32 dev lo
ip -n {OUTSIDE} link set lan up
"""
#: Answers each HTTP request with the address that it came from.
PROGRAM = f"""
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())
http.server.ThreadingHTTPServer(("{SERVER}", 80), Handler).serve_forever()
"""


def inside(namespace: str, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a namespace; EGRESS_* variables are those given."""
    command = ["ip", "netns", "exec", namespace, *argv]
    return subprocess.run(command, env=environment(variables), capture_output=True, text=True, timeout=patient(60))


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("EGRESS_")} | dict(variables)


def router(verb: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return inside(ROUTER, *FILTER, sys.executable, "-m", "egress_router", verb, **SETTINGS | variables)


@contextmanager
def running(verb: str, log: Path, **variables: str) -> Iterator[None]:
    """Have a process of the router's stay."""
    command = ["ip", "netns", "exec", ROUTER, *FILTER, sys.executable, "-m", "egress_router", verb]
    with log.open("wb") as file, started(command, variables, file) as process:
        yield
        assert process.poll() is None, log.read_text()


@contextmanager
def started(
    command: list[str], variables: Mapping[str, str], output: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=environment(variables), stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patient(15))
        process.kill()
        process.wait()


def fetched(url: str, *options: str) -> str:
    """Return what a client in the cluster gets."""
    return inside(CLUSTER, "curl", "-s", "-m", str(patient(3)), *options, url).stdout


def soon(condition: Callable[[], object], log: Path) -> None:
    end = time.monotonic() + patient(40)
    while not condition():
        assert time.monotonic() < end, f"{log.read_text()}\n{state()}"
        time.sleep(0.1)


def state() -> str:
    """What a report is to show."""
    commands = [["ss", "-tanp"], ["ip", "neigh"], ["ip", "route"]]
    shown = [inside(name, *command).stdout for name in (ROUTER, OUTSIDE) for command in commands]
    return "\n".join([*shown, inside(CLUSTER, "curl", "-sv", "-m", "3", f"http://{POD}/").stderr])


@pytest.fixture(autouse=True)
def scene() -> Iterator[None]:
    """The namespaces, and a server outside."""
    for line in NAMESPACES.strip().splitlines():
        subprocess.run(line.split(), check=True)
    try:
        with started(["ip", "netns", "exec", OUTSIDE, sys.executable, "-c", PROGRAM], {}):
            yield
    finally:
        for name in (ROUTER, CLUSTER, OUTSIDE):
            subprocess.run(["ip", "netns", "del", name], check=False)
            shutil.rmtree(ETC_NETNS / name, ignore_errors=True)


def test_there_is_no_ipv6() -> None:
    """The control of all others."""
    program = "import socket; socket.socket(socket.AF_INET6)"
    assert "Address family not supported" in inside(ROUTER, *FILTER, sys.executable, "-c", program).stderr
    if BOOTED_SO:
        assert not Path("/proc/sys/net/ipv6").exists()


@pytest.mark.parametrize("backend", ["auto", "nftables", "iptables"])
def test_init(backend: str) -> None:
    rules = {"EGRESS_DESTINATION": f"80 tcp {SERVER}", "EGRESS_NAT_BACKEND": backend}
    done = router("init", **rules)
    assert done.returncode == 0, done.stderr
    assert fetched(f"http://{POD}/") == SOURCE
    assert "nothing changed" in router("init", **rules).stderr
    status = router("status", **rules)
    assert status.returncode == 0, status.stdout + status.stderr


def test_an_ipv6_source_is_refused_with_the_reason() -> None:
    both = {"EGRESS_SOURCE": f"{SOURCE}/24 2001:db8:2::46/64", "EGRESS_GATEWAY": "192.0.2.1 2001:db8:2::1"}
    refused = router("init", **both, EGRESS_DESTINATION=f"80 tcp {SERVER}")
    assert refused.returncode == 69, refused.stderr
    assert "this machine has no IPv6" in refused.stderr
    assert "macvlan0 inet" not in inside(ROUTER, "ip", "-o", "addr").stdout, "nothing was changed"


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_run(tmp_path: Path, backend: str) -> None:
    log = tmp_path / "log"
    rules = {"EGRESS_DESTINATION": f"80 tcp {SERVER}", "EGRESS_NAT_BACKEND": backend}
    with running("run", log, **SETTINGS | rules | {"EGRESS_ROUTER_MODE": "legacy"}):
        soon(lambda: fetched(f"http://{POD}/") == SOURCE, log)
        soon(lambda: fetched(f"http://{POD}:9909/readyz"), log)
        # What others take away comes back.
        flush = {"nftables": ["nft", "flush", "ruleset"], "iptables": ["iptables-legacy", "-w", "-t", "nat", "-F"]}
        inside(ROUTER, *flush[backend])
        soon(lambda: fetched(f"http://{POD}/") == SOURCE, log)
    assert "Traceback" not in log.read_text()


class Filtered(Host):
    """The router's pod, whose processes have no IPv6 sockets."""

    def __init__(self) -> None:
        super().__init__(cast(Worker, None), ROUTER, ROUTER, "eth0", {4: ip_address(POD)})

    def command(self, argv: Sequence[str]) -> list[str]:
        return super().command([*FILTER, *argv])


def test_http_proxy() -> None:
    mode = {**SETTINGS, "EGRESS_ROUTER_MODE": "http-proxy"}
    done = router("init", **mode)
    assert done.returncode == 0, done.stderr
    lab = cast(Lab, SimpleNamespace(dns=SimpleNamespace(address="203.0.113.53")))
    with Proxy(lab, Filtered()) as proxy:
        proxy.start(SERVER, mode)
        soon(lambda: fetched(f"http://{SERVER}/", "-x", f"http://{POD}:8080") == SOURCE, proxy.err)
        refused = fetched("http://203.0.113.26/", "-x", f"http://{POD}:8080", "-o", "/dev/null", "-w", "%{http_code}")
        assert refused == "403"
        assert "Traceback" not in proxy.err.read_text()


def test_dns_proxy(open_directory: Path) -> None:
    done = router("init", **{**SETTINGS, "EGRESS_ROUTER_MODE": "dns-proxy"})
    assert done.returncode == 0, done.stderr
    lab = cast(Lab, SimpleNamespace(pod=lambda _: Filtered()))
    proxy = DnsProxyPod(lab, open_directory, f"80 {SERVER}\n", families="4")
    try:
        proxy.start()
        soon(lambda: fetched(f"http://{POD}/") == SOURCE, open_directory / "stderr")
    finally:
        proxy.__exit__()
    assert "Traceback" not in proxy.messages()


def test_check_and_plan() -> None:
    """What only reads."""
    rules = {"EGRESS_DESTINATION": f"80 tcp {SERVER}"}
    for verb in ("check", "plan"):
        done = router(verb, **rules)
        assert done.returncode == 0, (verb, done.stderr)
    router("init", **rules)
    shown = inside(ROUTER, *FILTER, sys.executable, "-m", "egress_router", "status", "-o", "json", **SETTINGS | rules)
    assert json.loads(shown.stdout)["state"] == "ok"
