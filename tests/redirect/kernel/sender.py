"""Sends without a pause until standard input ends (at most two minutes), each flow every few milliseconds.

Every input line is a JSON list of flows that takes the place of the one before: {"kind": "tcp" | "udp", "address": …,
"port": …, "bind": address or null, "device": name or null, "keep": the same socket for every datagram}.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from contextlib import suppress
from typing import Any

INTERVAL = 0.03
LIMIT = 120.0


class Flow:
    def __init__(self, flow: dict[str, Any]) -> None:
        self.flow = flow
        self.socket: socket.socket | None = None

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def open(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.flow["address"] else socket.AF_INET
        kind = socket.SOCK_STREAM if self.flow["kind"] == "tcp" else socket.SOCK_DGRAM
        opened = socket.socket(family, kind)
        opened.setblocking(False)
        if self.flow.get("device"):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.flow["device"].encode())
        if self.flow.get("bind"):
            opened.bind((self.flow["bind"], 0))
        return opened

    def send(self) -> None:
        peer = (self.flow["address"], self.flow["port"])
        if not self.flow.get("keep"):
            self.close()
        with suppress(OSError):
            self.socket = self.socket or self.open()
            if self.flow["kind"] == "udp":
                self.socket.sendto(b"x", peer)
            else:
                self.socket.connect(peer)


def main() -> None:
    flows: list[Flow] = []
    end = time.monotonic() + LIMIT
    print(flush=True)
    while time.monotonic() < end:
        if select.select([sys.stdin], [], [], INTERVAL)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            for flow in flows:
                flow.close()
            flows = [Flow(item) for item in json.loads(line)]
        for flow in flows:
            flow.send()


if __name__ == "__main__":
    main()
