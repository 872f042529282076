"""What the encrypted tunnel costs: `python -m bench.encrypted_tunnel [ROUNDS]`. Needs root and a kernel with WireGuard.

Two clusters stand side by side, one whose tunnel encrypts, and are measured in turns: a datagram of a pod to a service
outside through another node and the answer, small and almost as large as a packet may be, and a stream of TCP. All of
it is in this kernel, so the processor time of the whole machine is counted, in microseconds: of both nodes, the pod,
the gateway and the service, of the workers that encrypt too. Nothing else should run. Agents are gone while it is
measured: the kernel goes on without them. In the virtual machine of ``scripts/test-kernels``, in software, a
microsecond is 1,000 instructions.

Streams come in super-packets of up to 64 kB, which a plain tunnel between network namespaces takes whole from end to
end, while WireGuard cuts them, as a network card does: their ratio is the worst that there is.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from lab import SHAPES, Host, Lab
from tests.egressip.kernel.egress_cluster import SERVICE, EgressCluster

EGRESS_IP = "192.0.2.54"
#: Bytes of payload: a question of DNS; a packet that is full in both tunnels.
SIZES = (64, 1300)
EXCHANGES = 1000
STREAM = 16 << 20
IN_CLEAR, ENCRYPTED = "in clear", "encrypted"
TICK = os.sysconf("SC_CLK_TCK")


def busy() -> float:
    """Return the seconds that all processors have worked. What is left of the time is told exactly (NO_HZ)."""
    idle, waiting = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[4:6])
    return time.monotonic() * (os.cpu_count() or 1) - (idle + waiting) / TICK


class Way:
    """A pod whose traffic leaves by the other one of two nodes."""

    def __init__(self, lab: Lab, folder: Path, **options: str) -> None:
        self.cluster = cluster = EgressCluster(lab, folder)
        cluster.namespace("far", EGRESS_IP)
        cluster.holds(lab.nodes[1], EGRESS_IP)
        self.client: Host = cluster.pod("client", "far", 0)
        lab.echo(SERVICE, udp=53)
        cluster.start(**options)
        cluster.settle(timeout=60)
        assert cluster.source_of(self.client) == EGRESS_IP
        for agent in cluster.agents.values():
            agent.kill()
            agent.wait()
        self._listener = lab.services.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.bind((SERVICE, 5001))
        self._listener.listen()

    def exchanges(self, size: int) -> float:
        """Return the cost of a datagram of ``size`` bytes and its answer, which is a few bytes longer."""
        payload = b"x" * size
        with self.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(60)
            asking.connect((SERVICE, 53))
            begun = busy()
            for _ in range(EXCHANGES):
                asking.send(payload)
                answer = asking.recv(2048)
            assert answer.startswith(EGRESS_IP.encode())
            return (busy() - begun) / EXCHANGES * 1e6

    def stream(self) -> float:
        """Return the cost of a megabyte."""
        with self.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sending:
            sending.connect((SERVICE, 5001))
            receiving, (source, _) = self._listener.accept()
            assert source == EGRESS_IP
            begun = busy()
            thread = threading.Thread(target=sending.sendall, args=(bytes(STREAM),))
            thread.start()
            left, buffer = STREAM, bytearray(1 << 20)
            with receiving:
                while left:
                    left -= receiving.recv_into(buffer)
            thread.join()
            return (busy() - begun) / (STREAM >> 20) * 1e6


def measure(ways: dict[str, Way], rounds: int) -> None:
    """Print medians and the median of the ratios of rounds."""
    kinds: dict[str, Callable[[Way], float]] = {
        **{f"{size} bytes and the answer": partial(Way.exchanges, size=size) for size in SIZES},
        "a megabyte of TCP": Way.stream,
    }
    for kind, cost in kinds.items():
        found: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            for name in (*ways,)[:: -1 if number % 2 else 1]:
                found[name].append(cost(ways[name]))
        ratios = [two / one for one, two in zip(found[IN_CLEAR], found[ENCRYPTED], strict=True)]
        print(
            f"{kind}: {IN_CLEAR} {statistics.median(found[IN_CLEAR]):.0f} µs, "
            f"{ENCRYPTED} {statistics.median(found[ENCRYPTED]):.0f} µs, "
            f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


def main() -> None:
    """Print the figures."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        keys = folder / "keys"
        keys.write_text("k" * 32)
        options = {IN_CLEAR: {}, ENCRYPTED: {"tunnel_encryption": "wireguard", "agent_keys": str(keys)}}
        ways = {
            kind: Way(stack.enter_context(Lab(nodes=2, shape=SHAPES[0])), folder / kind, **more)
            for kind, more in options.items()
        }
        measure(ways, rounds)


if __name__ == "__main__":
    main()
