"""An egress interface that is renamed: nothing leaves or comes in by its new name, and the router is not ready."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.attack.kernel.staying import PORT, ROUTER, Process, process

__all__ = ["process"]
pytestmark = pytest.mark.root

RENAME = """
ip link set macvlan0 down
ip link set macvlan0 name other0
ip link set other0 address 02:00:00:00:00:02
ip link set other0 up
ip route add 203.0.113.0/24 dev other0 proto static
ip neigh add 203.0.113.9 lladdr 02:00:00:00:00:09 dev other0
"""
#: Sends datagrams from an address of the cluster side, and prints the sources that were seen at the far end; then has
#: the far end send something, and prints whether it came in.
TRAFFIC = """
import socket, time
far = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
far.bind(("far1", 0))
far.settimeout(0.2)
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"other0")
own.bind(("10.128.0.2", 5353))
seen, errors = set(), 0
for _ in range(10):
    try: own.sendto(b"x", ("203.0.113.9", 9))
    except OSError: errors += 1
    end = time.monotonic() + 0.05
    while time.monotonic() < end:
        try: frame = far.recv(2048)
        except TimeoutError: break
        if frame[12:14] == b"\\x08\\x00" and frame[30:34] == socket.inet_aton("203.0.113.9"):
            seen.add(socket.inet_ntoa(frame[26:30]))
head = bytes.fromhex("020000000002020000000009") + b"\\x08\\x00"
def ip(payload):
    raw = b"\\x45\\x00" + (20 + len(payload)).to_bytes(2, "big") + bytes(4) + b"\\x40\\x11\\x00\\x00"
    raw += socket.inet_aton("203.0.113.9") + socket.inet_aton("10.128.0.2")
    total = sum(int.from_bytes(raw[at:at + 2], "big") for at in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    return raw[:10] + (~total & 0xFFFF).to_bytes(2, "big") + raw[12:] + payload
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.bind(("10.128.0.2", 5354)); listener.settimeout(0.5)
far.send(head + ip((9).to_bytes(2, "big") + (5354).to_bytes(2, "big") + (9).to_bytes(2, "big") + bytes(2) + b"y"))
try: came = listener.recv(9) == b"y"
except TimeoutError: came = False
print(sorted(seen), came)
"""


def inside(process: Process, *command: str) -> str:
    assert process.popen is not None
    done = subprocess.run(
        ["nsenter", f"--net=/proc/{process.popen.pid}/ns/net", *command], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_a_renamed_egress_interface(backend: str, process: Process) -> None:
    process.env = {**ROUTER, "EGRESS_NAT_BACKEND": backend, "EGRESS_HEALTH_PORT": str(PORT)}
    process.env["XTABLES_LOCKFILE"] = str(process.folder / "xtables.lock")
    process.start("run")
    process.until(process.says("staying until SIGTERM"))
    inside(process, "sh", "-ec", RENAME)
    assert inside(process, sys.executable, "-c", TRAFFIC) == "[] False"
    process.until(lambda: process.page("/readyz")[0] == 503)
    assert "macvlan0" in process.page("/readyz")[1]


def test_without_the_rules_it_leaves(process: Process) -> None:
    """The control."""
    process.env = {**ROUTER, "EGRESS_ROUTER_MODE": "init"}
    process.start(
        "init", python="import egress_router.redirect.init as i, time\ni._end_stale = lambda *_: time.sleep(60)"
    )
    process.until(process.says("set up"))
    inside(process, "sh", "-ec", RENAME)
    assert inside(process, sys.executable, "-c", TRAFFIC) == "[] False"
    inside(process, "nft", "flush", "ruleset")
    inside(process, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.other0.rp_filter=0")
    assert inside(process, sys.executable, "-c", TRAFFIC) == "['10.128.0.2'] True"
