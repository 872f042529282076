"""Answers TCP, UDP and SCTP with who it saw: ``PEER_IP PEER_PORT LOCAL_IP LOCAL_PORT PAYLOAD``.

Usage: echo.py '{"address": IP, "tcp": [PORT…], "udp": [PORT…], "sctp": [PORT…], "stay": false}'. Ends when standard
input closes, unless it is told to stay. On a TCP connection and an SCTP association the line comes with the first data
(or the client's end of sending); all further data come back as they are.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
from contextlib import suppress

selector = selectors.DefaultSelector()


def head(peer: tuple[str, int], local: tuple[str, int]) -> bytes:
    """Return what goes before the payload."""
    return f"{peer[0]} {peer[1]} {local[0]} {local[1]} ".encode()


class Connection:
    """One TCP connection or SCTP association; what the peer does not take yet waits in ``pending``."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.greeted = False
        self.ended = False
        self.pending = b""
        connected.setblocking(False)
        selector.register(connected, selectors.EVENT_READ, self.turn)

    def turn(self) -> None:
        """Read and write what is possible without waiting."""
        try:
            if not self.ended and not self.pending:
                self.read()
            if self.pending:
                with suppress(BlockingIOError):
                    self.pending = self.pending[self.socket.send(self.pending) :]
            if self.ended and not self.pending:
                self.close()
            else:
                waits = selectors.EVENT_WRITE if self.pending else selectors.EVENT_READ
                selector.modify(self.socket, waits, self.turn)
        except OSError:
            self.close()

    def read(self) -> None:
        """Take data from the peer; it becomes what we send."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        self.ended = not data
        if not self.greeted:
            data = head(self.socket.getpeername(), self.socket.getsockname()) + data
            self.greeted = True
        self.pending = data

    def close(self) -> None:
        """Forget the connection."""
        selector.unregister(self.socket)
        self.socket.close()


def listen(family: int, kind: int, address: str, port: int, protocol: int = 0) -> socket.socket:
    """Return a bound socket."""
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind((address, port))
    if kind == socket.SOCK_STREAM:
        opened.listen(4096)
    opened.setblocking(False)
    return opened


def accept(listener: socket.socket) -> None:
    """Take all connections that wait."""
    with suppress(BlockingIOError):
        while True:
            try:
                connected, _ = listener.accept()
            except ConnectionError:
                continue
            Connection(connected)


def answer(server: socket.socket) -> None:
    """Answer all datagrams that wait."""
    with suppress(BlockingIOError):
        while True:
            data, peer = server.recvfrom(65536)
            with suppress(OSError):
                server.sendto(head(peer, server.getsockname()) + data, peer)


def main() -> None:
    """Serve."""
    settings = json.loads(sys.argv[1])
    address = settings["address"]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for protocol, ports in ((socket.IPPROTO_TCP, settings["tcp"]), (socket.IPPROTO_SCTP, settings["sctp"])):
        for port in ports:
            listener = listen(family, socket.SOCK_STREAM, address, port, protocol)
            selector.register(listener, selectors.EVENT_READ, lambda listener=listener: accept(listener))
    for port in settings["udp"]:
        server = listen(family, socket.SOCK_DGRAM, address, port)
        selector.register(server, selectors.EVENT_READ, lambda server=server: answer(server))
    if not settings.get("stay"):
        selector.register(0, selectors.EVENT_READ, sys.exit)
    sys.stdout.write('{"result": null}\n')
    sys.stdout.flush()
    while True:
        for key, _ in selector.select():
            key.data()


if __name__ == "__main__":
    main()
