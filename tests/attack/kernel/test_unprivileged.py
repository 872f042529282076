"""The proxies as root: they give it up, and keep no more than low ports where those need a capability."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attack.kernel.staying import PORT, Process, process

__all__ = ["process"]
pytestmark = pytest.mark.root

VERBS = {
    "http-proxy": {"EGRESS_HTTP_PROXY_DESTINATION": "example.com", "EGRESS_HTTP_PROXY_WORKERS": "1"},
    "dns-proxy": {"EGRESS_DNS_PROXY_DESTINATION": "80 203.0.113.25", "EGRESS_SOURCE": "10.128.0.2"},
}
NOTHING, LOW_PORTS = "0000000000000000", "0000000000000400"


def field(pid: str | int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))


def started(process: Process, verb: str, first_port: int) -> list[str | int]:
    """Start a proxy as root; return its process and that of its engine."""
    process.folder.chmod(0o755)
    process.setup += f"sysctl -qw net.ipv4.ip_unprivileged_port_start={first_port}\nmount -t tmpfs none /dev/shm\n"
    process.env = {"EGRESS_RUN_DIR": str(process.folder / "run"), "EGRESS_HEALTH_PORT": str(PORT), **VERBS[verb]}
    process.start(verb)
    process.until(process.says("is in force"))
    assert process.popen is not None
    pid = process.popen.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert children
    return [pid, *children]


@pytest.mark.parametrize("verb", VERBS)
def test_root_is_given_up(verb: str, process: Process) -> None:
    for pid in started(process, verb, 0):
        assert field(pid, "Uid").split() == ["1001"] * 4
        assert {field(pid, name) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {NOTHING}
        assert field(pid, "NoNewPrivs") == "1"


def test_low_ports_go_on(process: Process) -> None:
    """Nobody has set the sysctl, and port 80 was fine as root."""
    for pid in started(process, "dns-proxy", 1024):
        assert field(pid, "Uid").split() == ["1001"] * 4
        assert {field(pid, name) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {LOW_PORTS}
        assert field(pid, "NoNewPrivs") == "1"
