"""Round trips of small datagrams: ``pingpong.py serve ADDRESS PORT`` or ``pingpong.py ask ADDRESS PORT COUNT``."""

from __future__ import annotations

import json
import socket
import sys
import time


def serve(address: str, port: int) -> None:
    """Send every datagram back, until killed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, port))
        while True:
            data, peer = server.recvfrom(2048)
            server.sendto(data, peer)


def ask(address: str, port: int, count: int) -> None:
    """Send ``count`` datagrams, each after the answer to the one before; print percentiles in seconds as JSON."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        client.settimeout(2)
        times = []
        for _ in range(count + count // 10):
            began = time.perf_counter()
            client.send(b"x" * 32)
            client.recv(2048)
            times.append(time.perf_counter() - began)
    # The first ones find neighbours and fill caches.
    times = sorted(times[count // 10 :])
    print(json.dumps({f"p{part}": times[part * len(times) // 100] for part in (50, 90, 99)}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
