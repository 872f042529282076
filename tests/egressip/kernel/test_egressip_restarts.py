"""An agent that starts again loses no packet, and goes on counting what it drops."""

from __future__ import annotations

import select
import signal
import socket
import struct
import threading
import time
from contextlib import ExitStack

import pytest

from lab import Host
from tests.egressip.kernel.egress_scene import FAMILY, SERVICES, TOTO, Scene, checksum, send_raw

pytestmark = pytest.mark.root

_TYPES = {4: (8, 0), 6: (128, 129)}
#: Seconds between two pings of a flood.
EVERY = 0.002


class Flood:
    """Pings of a pod without a pause; each has a number, and the kernel of the service answers. One more flow begins
    anew with each datagram.
    """

    def __init__(self, pod: Host, version: int, ident: int) -> None:
        protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
        self.name = f"pings of {pod.name}, IPv{version}"
        self._version, self._ident = version, ident
        self._socket = pod.socket(FAMILY[version], socket.SOCK_RAW, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
        self._socket.connect((SERVICES[version], 0))
        self._socket.setblocking(False)
        self.sent: dict[int, float] = {}
        self.answered: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        due = time.monotonic()
        while not self._stop.is_set():
            number += 1
            # An identifier is a flow: each hundred pings begin one.
            head = struct.pack("!BBHHHI", _TYPES[self._version][0], 0, 0, self._ident + number // 100 % 400, 0, number)
            if self._version == 4:
                head = head[:2] + struct.pack("!H", checksum(head)) + head[4:]
            try:
                self._socket.send(head)
                self.sent[number] = time.monotonic()
            except BlockingIOError:
                pass
            due = max(due + EVERY, time.monotonic() - 0.1)
            while (left := due - time.monotonic()) > 0:
                self._hear(left)

    def _hear(self, seconds: float) -> None:
        if not select.select([self._socket], [], [], seconds)[0]:
            return
        try:
            while True:
                data = self._socket.recv(200)
                data = data[(data[0] & 0xF) * 4 :] if self._version == 4 else data
                if data[0] == _TYPES[self._version][1] and len(data) >= 12:
                    self.answered.add(struct.unpack_from("!I", data, 8)[0])
        except BlockingIOError:
            return

    def lost(self) -> list[float]:
        """Stop; return when the pings were sent that nobody answered."""
        self._stop.set()
        self._thread.join(30)
        end = time.monotonic() + 1
        while time.monotonic() < end and self.answered < self.sent.keys():
            self._hear(0.1)
        self._socket.close()
        return [at for number, at in self.sent.items() if number not in self.answered]


def flooded_restarts(scene: Scene, restarts: int) -> None:
    """Have the agents end, by SIGTERM and SIGKILL, and start again, one after the other under floods of pings."""
    cluster, lab = scene.cluster, scene.lab
    pods = (scene.client, scene.local, scene.rival)
    ident = 1
    with ExitStack() as stack:
        capture = stack.enter_context(lab.capture())
        floods = []
        for pod in pods:
            for version in (4, 6):
                floods.append(Flood(pod, version, ident))
                ident += 5000
        moments: list[tuple[float, str]] = []
        for number in range(restarts):
            node = lab.nodes[number % 3]
            agent = cluster.agents[node.name]
            moments.append((time.monotonic(), f"end {node.name}"))
            agent.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
            agent.wait(10)
            cluster.start(node)
            cluster.settle(timeout=60)
            moments.append((time.monotonic(), f"settled {node.name}"))
        time.sleep(0.5)
        lost = {flood.name: flood.lost() for flood in floods}
        sent = sum(len(flood.sent) for flood in floods)
        allowed = {str(a) for n in lab.nodes for a in n.addresses.values()}
        assert sum(len(flood.answered) for flood in floods) > 100 * restarts, "positive control"
        leaks = capture.leaks(allowed=allowed | {*TOTO.values(), "192.0.2.54", "2001:db8:2::54"})
        assert not leaks
    when = [
        f"{name}: {at - max(m for m, _ in moments if m <= at):.3f} s after {[w for m, w in moments if m <= at][-1]}"
        for name, times in lost.items()
        for at in times
    ]
    print(f"{restarts} restarts: {sum(map(len, lost.values()))} of {sent} pings lost")
    assert not when, when


def test_restarts_lose_nothing(scene: Scene) -> None:
    flooded_restarts(scene, 6)


@pytest.mark.on_demand
@pytest.mark.timeout(1200)
def test_a_hundred_restarts_lose_nothing(scene: Scene) -> None:
    flooded_restarts(scene, 100)


@pytest.mark.parametrize("version", [4, 6])
def test_what_was_dropped_is_counted_on(scene: Scene, version: int) -> None:
    node = scene.lab.nodes[0]
    from tests.egressip.kernel.egress_scene import UDP, ip_packet, udp

    source = str(scene.nobody.addresses[version])
    for _ in range(3):
        send_raw(scene.nobody, ip_packet(source, SERVICES[version], UDP, udp()), version)
    scene.cluster.until(lambda: scene.dropped(0, "unknown_pod") >= 3)
    before = scene.dropped(0, "unknown_pod")
    scene.cluster.agents[node.name].kill()
    scene.cluster.agents[node.name].wait(10)
    scene.cluster.start(node)
    scene.cluster.settle()
    assert scene.dropped(0, "unknown_pod") >= before
