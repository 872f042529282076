"""Sends numbered datagrams at a steady pace, whatever comes back, until standard input closes.

``datagrams.py ADDRESS PORT INTERVAL-SECONDS``. The echo server's answer begins with the source that it saw. Prints that
source with the first answer, and at the end one JSON list of [time sent, time answered or null, source or ""];
times are those of time.monotonic(), the same for all processes.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from contextlib import suppress


def main(address: str, port: int, every: float) -> None:
    """Send, collect, report."""
    sent: list[list[float | str | None]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        client.setblocking(False)
        following = time.monotonic()
        over, answered = 0.0, False
        while not over or time.monotonic() < over:
            readable, _, _ = select.select([client, sys.stdin], [], [], max(0.0, following - time.monotonic()))
            if sys.stdin in readable and not over:
                # What is on its way may still arrive.
                over = time.monotonic() + 0.1
            if client in readable:
                with suppress(OSError):
                    words = client.recv(2048).decode().split()
                    if not answered:
                        print(words[0], flush=True)
                        answered = True
                    sent[int(words[4])][1:] = [time.monotonic(), words[0]]
            now = time.monotonic()
            if now >= following and not over:
                following = max(following + every, now)
                with suppress(OSError):
                    client.send(str(len(sent)).encode())
                sent.append([now, None, ""])
            elif over:
                time.sleep(0.001)
    print(json.dumps(sent))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
