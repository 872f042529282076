"""Opens TCP connections one after the other until a file appears; prints how many and every failure, as JSON.

Run inside a client pod: ``python connections.py ADDRESS PORT STOP-FILE [THREADS] [AT-MOST] [SEND EXPECT] [PATIENCE]``;
PATIENCE is how long each may take, in seconds (10).
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from pathlib import Path

#: Seconds from one connection of a thread to its next, at least: a port is not free again for a minute, and there are
#: 28,000.
PACE = 0.008


def main(
    address: str, port: int, stop: Path, threads: int, most: int, send: bytes, expect: bytes, patience: float
) -> None:
    """Connect, send a text, expect one in the answer, close."""
    failures: list[str] = []
    counts = [0] * threads

    def work(number: int) -> None:
        while counts[number] < most // threads and not stop.exists():
            counts[number] += 1
            began = time.time()
            try:
                with socket.create_connection((address, port), timeout=patience) as connection:
                    connection.sendall(send)
                    if expect not in (answer := connection.recv(4096)):
                        failures.append(f"{began:.3f} {answer[:60]!r}")
            except OSError as error:
                failures.append(f"{began:.3f} {error}")
            time.sleep(max(0.0, began + PACE - time.time()))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    began = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(json.dumps({"connections": sum(counts), "failures": failures, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    _, ADDRESS, PORT, STOP, *REST = sys.argv
    THREADS, MOST = (int(word) for word in (*REST, *("4", "1000000")[len(REST) :])[:2])
    SEND, EXPECT = REST[2:4] or ("x\n", "x\n")
    PATIENCE = float((REST[4:] or ["10"])[0])
    main(ADDRESS, int(PORT), Path(STOP), THREADS, MOST, SEND.encode(), EXPECT.encode(), PATIENCE)
