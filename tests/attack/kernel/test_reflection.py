"""A client's forged source of the outside must not make the router send errors there, with EGRESS_SOURCE."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.attack.kernel.staying import ROUTER, Process, process

__all__ = ["process"]
pytestmark = pytest.mark.root

#: Sends from the far end of the cluster interface: TTL 1 through the pod, and to a closed port and an open line of the
#: pod, from a forged source; prints the types of the ICMP messages that leave by the egress interface, by source.
FORGE = """
import socket, struct, time
near = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); near.bind(("far0", 0))
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); out.bind(("far1", 0)); out.settimeout(0.3)
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
def packet(target, protocol, payload, ttl):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 7, 0, ttl, protocol, 0,
                       socket.inet_aton("203.0.113.50"), socket.inet_aton(target))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload
udp = lambda port: struct.pack("!HHHH", 4000, port, 9, 0) + b"x"
syn = lambda flags: struct.pack("!HHIIBBHHH", 4000, 80, 1, 0, 0x50, flags, 1000, 0, 0)
mac = bytes.fromhex("020000000001") + bytes.fromhex("020000000099") + b"\\x08\\x00"
for ttl in (1, 2, 64):
    for target in ("198.51.100.7", "10.128.0.2"):
        kinds = (17, udp(9)), (17, udp(81)), (6, syn(2)), (6, syn(16)), (132, bytes(12)), (253, b"x")
        for protocol, payload in kinds:
            near.send(mac + packet(target, protocol, payload, ttl))
seen = {}
end = time.monotonic() + 1.5
while time.monotonic() < end:
    try: frame = out.recv(2048)
    except TimeoutError: continue
    if frame[12:14] == b"\\x08\\x00" and frame[23] == 1:
        seen[(socket.inet_ntoa(frame[26:30]), frame[34])] = seen.get((socket.inet_ntoa(frame[26:30]), frame[34]), 0) + 1
print(seen)
"""
PLACES = """
ip link set eth0 address 02:00:00:00:00:01
ip neigh replace 192.0.2.1 lladdr 02:00:00:00:00:77 dev macvlan0
ip neigh replace 10.128.0.1 lladdr 02:00:00:00:00:78 dev eth0
"""


def inside(process: Process, *command: str) -> str:
    assert process.popen is not None
    enter = ["nsenter", f"--net=/proc/{process.popen.pid}/ns/net", *command]
    return subprocess.run(enter, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_no_error_leaves_for_a_forged_client(backend: str, process: Process) -> None:
    process.setup += "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 "
    process.setup += "net.ipv4.conf.eth0.rp_filter=0 net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=100000\n"
    process.setup += "ip link set eth0 address 02:00:00:00:00:01\n"
    process.env = {**ROUTER, "EGRESS_NAT_BACKEND": backend, "EGRESS_HEALTH_PORT": "off"}
    process.env["XTABLES_LOCKFILE"] = str(process.folder / "xtables.lock")
    process.start("run")
    process.until(process.says("staying until SIGTERM"))
    inside(process, "sh", "-ec", PLACES)
    assert inside(process, sys.executable, "-c", FORGE) == "{}"
