"""Which TCP sockets there are on a port, which of them a process holds (from /proc, without privilege), and whether one
can be had.
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: States of linux/tcp_states.h
ESTABLISHED = 1
LISTEN = 10
#: The peer still may get data in these: established, and our own side half closed.
OPEN = frozenset({ESTABLISHED, 4, 5, 8})  # FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT
#: The local port of a line in one of these states; a busy proxy has tens of thousands of lines.
_OPEN = re.compile(rb"^ *[0-9]+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} 0[1458] ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """One line of /proc/net/tcp or tcp6."""

    state: int
    inode: int


def on_port(port: int) -> list[TcpSocket]:
    """Return the sockets of this network namespace whose local port it is."""
    found = []
    suffix = f":{port:04X}"
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            fields = line.split()
            if fields[1].endswith(suffix):
                found.append(TcpSocket(int(fields[3], 16), int(fields[9])))
    return found


def open_by_port() -> Counter[int]:
    """Return how many connections of clients are open in this network namespace, by local port."""
    found: Counter[bytes] = Counter()
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):
            found.update(_OPEN.findall(Path(f"/proc/self/net/{table}").read_bytes()))
    return Counter({int(port, 16): count for port, count in found.items()})


def listeners(port: int) -> int:
    """Return how many sockets listen on a port."""
    return sum(one.state == LISTEN for one in on_port(port))


def clients(pid: int, port: int) -> int:
    """Return how many open connections to a port a process holds; 0 when it is gone."""
    mine = _inodes(pid)
    return sum(one.state in OPEN and one.inode in mine for one in on_port(port))


def listens(pid: int, port: int) -> bool:
    """Return whether a process has a socket that listens on a port."""
    mine = _inodes(pid)
    return any(one.state == LISTEN and one.inode in mine for one in on_port(port))


def can_listen(address: str) -> bool:
    """Return whether this network namespace has the family of a local IPv4 or IPv6 address, so that it can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _inodes(pid: int) -> set[int]:
    inodes = set()
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return set()
    for descriptor in descriptors:
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(int(target[8:-1]))
    return inodes
