"""Reload, drain, death: no connection pays for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import Lab, NoReply
from tests.dns_proxy.kernel.dns_proxy_pod import DnsProxyPod, echoes

pytestmark = pytest.mark.root

ONE, TWO = "203.0.113.25", "203.0.113.26"
CONNECTIONS = str(Path(__file__).parents[2] / "support/connections.py")


@pytest.fixture
def shape() -> str:
    """Processes and sockets of one pod do not depend on how it is connected."""
    return "bridge"


@pytest.fixture
def servers(lab: Lab) -> Lab:
    """Two servers and a name for each."""
    for server, name in ((ONE, "one.example.com"), (TWO, "two.example.com")):
        lab.echo(server, tcp=[80])
        lab.dns.set(name, A=[server])
    return lab


def swap(pod: DnsProxyPod, text: str) -> None:
    """Replace the list as the kubelet does it with a ConfigMap: a new file behind a symbolic link."""
    version = pod.directory / f"version-{time.monotonic_ns()}"
    version.write_text(text)
    link = pod.directory / "link"
    link.symlink_to(version)
    link.rename(pod.list)


def reloads(pod: DnsProxyPod) -> int:
    """How many generations were put in force."""
    return pod.messages().count("is in force")


def test_reload_breaks_no_connection(servers: Lab, open_directory: Path) -> None:
    stop = open_directory / "stop"
    with DnsProxyPod(servers, open_directory, "80 one.example.com\n", families="4") as pod, pod.hold(80) as held:
        command = [sys.executable, CONNECTIONS, pod.address, "80", str(stop)]
        load = pod.client.popen(command, stdout=subprocess.PIPE)
        for number in range(1, 5):
            before = reloads(pod)
            if number % 2:
                swap(pod, f"80 {('one', 'two')[number // 2]}.example.com\n{8000 + number} two.example.com 80\n")
            else:
                pod.signal(signal.SIGHUP)
            pod.until(lambda before=before: reloads(pod) == before + 1)  # type: ignore[misc]
        # In force is what the last list says, and the connection of the first generation lives.
        assert pod.served(80, 4) == {TWO: 4}
        assert pod.ask(8003)[2] == TWO
        # A Service and a NetworkPolicy know the ports of the first list alone.
        assert [pod.messages().count(f"new ports{what}") for what in ("", ": 8001/tcp. ", ": 8003/tcp. ")] == [2, 1, 1]
        assert echoes(held)
        stop.touch()
        result = json.loads(load.communicate(timeout=20)[0])
        assert result["connections"] > 200
        assert result["failures"] == []
        assert len(pod.haproxy_pids()) == 2, "generations without connections have ended"


def test_bad_list_is_reported_and_the_old_one_stays(servers: Lab, open_directory: Path) -> None:
    with DnsProxyPod(servers, open_directory, "80 one.example.com\n", families="4") as pod, pod.hold(80) as held:
        swap(pod, "80 one.example.com\n80 two.example.com\n81 999.1.1.1\n")
        pod.until(lambda: "reload refused" in pod.messages())
        assert "line 2" in pod.messages()
        assert "line 3" in pod.messages()
        assert pod.served(80, 2) == {ONE: 2}
        assert echoes(held)
        swap(pod, "80 two.example.com\n")
        pod.until(lambda: reloads(pod) == 2)
        assert pod.served(80, 2) == {TWO: 2}


def test_sigterm_drains(servers: Lab, open_directory: Path) -> None:
    with DnsProxyPod(servers, open_directory, "80 one.example.com\n", families="4") as pod:
        assert pod.process is not None
        with pod.hold(80) as held:
            pod.signal(signal.SIGTERM)
            pod.until(lambda: refused(pod))
            assert echoes(held), "what runs may finish"
            assert pod.process.poll() is None
        assert pod.process.wait(5) == 0
        assert pod.access_log()[-1]["name"] == "one.example.com"


def refused(pod: DnsProxyPod) -> bool:
    """Whether nobody listens any more."""
    try:
        pod.ask(80)
    except NoReply as error:
        return error.reason == "refused"
    return False


def test_kill_9_of_haproxy_and_of_the_supervisor(servers: Lab, open_directory: Path) -> None:
    with DnsProxyPod(servers, open_directory, "80 one.example.com\n", families="4") as pod:
        assert pod.process is not None
        (haproxy,) = pod.haproxy_pids()
        # The name server is gone too: what is known must be enough.
        servers.dns.stop()
        os.kill(haproxy, signal.SIGKILL)
        pod.until(lambda: reloads(pod) == 2)
        assert pod.served(80, 2) == {ONE: 2}
        servers.dns.start()
        (haproxy,) = pod.haproxy_pids()
        pod.process.kill()
        pod.process.wait(5)
        pod.until(lambda: not Path(f"/proc/{haproxy}").exists() or "Z" in state(haproxy))
        pod.start()
        assert pod.served(80, 2) == {ONE: 2}


def state(pid: int) -> str:
    """Return the line of a process's state."""
    try:
        return Path(f"/proc/{pid}/status").read_text().splitlines()[2]
    except OSError:
        return "Z"


def test_keepalive_and_idle_timeout(servers: Lab, open_directory: Path) -> None:
    with (
        DnsProxyPod(servers, open_directory, "80 one.example.com\n", families="4", DNS_PROXY_IDLE_TIMEOUT="2s") as pod,
        pod.hold(80) as held,
    ):
        timers = pod.router.run(["ss", "-Htno", "state", "established"]).stdout
        assert timers.count("timer:(keepalive,") == 2, f"towards the client and towards the server:\n{timers}"
        held.settimeout(10)
        assert held.recv(1) == b"", "closed after two idle seconds"
        pod.until(lambda: any(entry["state"] in ("cD", "sD") for entry in pod.access_log()))


def test_low_port_that_may_not_be_used(servers: Lab, open_directory: Path) -> None:
    pod = DnsProxyPod(servers, open_directory, "80 one.example.com\n", families="4")
    pod.init()
    pod.router.sysctl("net.ipv4.ip_unprivileged_port_start", 1024)
    pod.start(wait=False)
    assert pod.process is not None
    assert pod.process.wait(10) == 69
    assert "port 80 (line 1): net.ipv4.ip_unprivileged_port_start is 1024" in pod.messages()
