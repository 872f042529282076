"""Several Squids that share the work of one proxy."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from lab import Lab
from tests.http_proxy.kernel.http_pod import PORT, Client, Proxy
from tests.support.endpoint import Endpoint

# What the kernel spreads inside of one pod, however that is connected.
pytestmark = [pytest.mark.root, pytest.mark.parametrize("shape", ["bridge"])]

GOOD = "203.0.113.25"
LOAD = str(Path("bench/children/http_load.py").resolve())

WORKERS = 3


@pytest.fixture
def shared(lab: Lab, proxy: Proxy) -> Proxy:
    lab.http(GOOD, port=80)
    proxy.start("*", {"EGRESS_HTTP_PROXY_WORKERS": str(WORKERS)})
    return proxy


@pytest.fixture
def endpoint(lab: Lab, client: Client) -> Endpoint:
    return Endpoint(client.pod, client.proxy.address)


def tunnels(client: Client, count: int) -> list[socket.socket]:
    opened = [client.tunnel(f"{GOOD}:80") for _ in range(count)]
    assert {status for status, _ in opened} == {200}
    return [tunnel for _, tunnel in opened]


def alive(tunnel: socket.socket) -> bool:
    try:
        tunnel.sendall(f"GET / HTTP/1.1\r\nHost: {GOOD}\r\n\r\n".encode())
        return tunnel.recv(65536).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def held(proxy: Proxy) -> Counter[int]:
    """How many connections of clients each Squid holds."""
    listed = proxy.pod.run(["ss", "-Htnp", "state", "established", "sport", "=", f":{PORT}"]).stdout
    return Counter(map(int, re.findall(r"pid=([0-9]+)", listed)))


def test_connections_are_spread(shared: Proxy, client: Client, endpoint: Endpoint) -> None:
    opened = tunnels(client, 48)
    counts = held(shared)
    assert counts.keys() == set(shared.squid_pids())
    assert len(counts) == WORKERS
    assert counts.total() == 48
    assert min(counts.values()) >= 4, "a hash leaves none idle"
    figures = endpoint.figures()
    assert figures["egress_router_http_workers"] == WORKERS
    assert figures["egress_router_http_tunnels"] == 48, "of all Squids together"
    for tunnel in opened:
        tunnel.close()
    assert len(shared.wait_for_log(48)) == 48


def test_the_others_go_on_when_one_dies(shared: Proxy, client: Client, endpoint: Endpoint) -> None:
    opened = tunnels(client, 48)
    victim, *others = shared.squid_pids()
    cut = held(shared)[victim]
    command = [sys.executable, LOAD, shared.address, str(PORT), f"http://{GOOD}/bytes/100", "600", "8", "200"]
    load = client.pod.popen(command, stdout=subprocess.PIPE, text=True)
    os.kill(victim, signal.SIGKILL)
    seen = shared.wait_for("generation 2 is in force")
    assert "squid was killed by SIGKILL" in seen
    assert f"{WORKERS - 1} others go on" in seen
    assert endpoint.ready()
    assert sum(not alive(tunnel) for tunnel in opened) == cut > 0, "only its own connections are cut"
    result = json.loads(load.communicate(timeout=60)[0])
    assert sum(result["failures"].values()) <= 8, "what it had in hand"
    assert result["good"] >= 592
    figures = endpoint.figures()
    assert figures["egress_router_engine_restarts_total"] == 1
    assert figures['egress_router_reloads_total{result="ok"}'] == 0
    for tunnel in opened:
        tunnel.close()
    shared.wait_for("generation 1 is drained")
    assert len(shared.squid_pids()) == WORKERS
    assert not set(shared.squid_pids()) & {victim, *others}


def test_one_that_hangs_is_seen(shared: Proxy, client: Client, endpoint: Endpoint) -> None:
    endpoint.until(endpoint.ready, "the proxy is ready")
    victim = shared.squid_pids()[-1]
    os.kill(victim, signal.SIGSTOP)
    endpoint.until(lambda: endpoint.unready("squid does not answer on"), "the hang is seen")
    assert endpoint.healthy()
    os.kill(victim, signal.SIGCONT)
    endpoint.until(endpoint.ready, "the proxy is ready again")


def test_all_die(shared: Proxy, client: Client) -> None:
    for pid in shared.squid_pids():
        os.kill(pid, signal.SIGKILL)
    shared.wait_for("generation 2 is in force")
    assert client.status(f"http://{GOOD}/") == 200
    assert len(shared.squid_pids()) == WORKERS


def test_one_dies_while_its_successors_start(lab: Lab, proxy: Proxy, client: Client) -> None:
    lab.http(GOOD, port=80)
    proxy.write_policy("*")
    proxy.start(None, {"EGRESS_HTTP_PROXY_WORKERS": str(WORKERS)})
    before = proxy.squid_pids()
    proxy.write_policy("\n".join([*(f"!10.{n // 256}.{n % 256}.0/24" for n in range(5000)), "*"]))
    os.kill(proxy.supervisor_pid(), signal.SIGHUP)
    deadline = time.monotonic() + 20
    while len(proxy.squid_pids()) == WORKERS:
        assert time.monotonic() < deadline
    os.kill(before[0], signal.SIGKILL)
    # Connections that it has not accepted yet go down with it.
    while before[0] in proxy.squid_pids():
        assert time.monotonic() < deadline
    assert client.status(f"http://{GOOD}/") == 200, "the others still serve"
    proxy.wait_for("generation 1 is drained")
    seen = proxy.err.read_text()
    assert "its successor is starting" in seen
    assert "generation 3" not in seen
    assert client.status(f"http://{GOOD}/") == 200
    assert len(proxy.squid_pids()) == WORKERS
    assert not set(before) & set(proxy.squid_pids())
