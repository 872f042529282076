"""A router whose established connections a flow table takes around the rules, and clients that keep theirs open."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from lab import Host, Lab
from tests.redirect.kernel.router import Router

SERVERS = {4: "203.0.113.25", 6: "2001:db8:113::25"}
RULES = "".join(
    f"80 tcp {server}\n53 udp {server}\n81 tcp {server} 80\n54 udp {server} 53\n" for server in SERVERS.values()
)
KINDS = {"tcp": (socket.SOCK_STREAM, 80), "udp": (socket.SOCK_DGRAM, 53)}
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


def serve(lab: Lab) -> None:
    """Have the servers answer on the ports of RULES, each bound to the address that is asked."""
    for server in SERVERS.values():
        lab.echo(server, tcp=[80], udp=[53])


def far_client(lab: Lab) -> Host:
    """Return a pod of the second node. It is not on the network of the router's eth0, and answers for its own address
    alone: who takes it for a neighbour never finds it.
    """
    client = lab.pod("far-client", node=1)
    client.sysctl("net.ipv4.conf.all.arp_ignore", 1)
    return client


class Talk:
    """A connection or flow of a client to a port of the router's pod."""

    def __init__(self, client: Host, router: Router, kind: str, family: int, port: int = 0) -> None:
        type_, own = KINDS[kind]
        self.kind = kind
        self.socket = client.socket(socket.AF_INET if family == 4 else socket.AF_INET6, type_)
        self.socket.settimeout(3)
        self.socket.connect((str(router.host.addresses[family]), port or own))
        self.port = int(self.socket.getsockname()[1])

    def say(self, text: str = "again") -> str:
        """Send a few bytes and return what comes back. Raises OSError where nothing does."""
        self.socket.send(text.encode())
        answer = self.socket.recv(65536).decode()
        if not answer:
            raise ConnectionResetError("the connection ended")
        return answer

    def reset(self) -> None:
        """End the connection by a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self.socket.close()

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


@contextmanager
def talking(client: Host, router: Router, kind: str, family: int, port: int = 0) -> Iterator[Talk]:
    """Open a connection or flow, have it in the flow table, and close it afterwards."""
    talk = Talk(client, router, kind, family, port)
    try:
        talk.say("first")
        # The first reply after the handshake puts it there, and what comes next goes that way.
        talk.say()
        yield talk
    finally:
        talk.close()


def tracked(router: Router, port: int) -> str:
    """Return what the kernel says of the connections of a client's port, a line each."""
    lines = router.host.run(["cat", "/proc/net/nf_conntrack"]).stdout.splitlines()
    return "\n".join(line for line in lines if f" sport={port} " in line)


def is_offloaded(router: Router, talk: Talk) -> bool:
    """Whether the flow table has it."""
    return "[OFFLOAD]" in tracked(router, talk.port)
