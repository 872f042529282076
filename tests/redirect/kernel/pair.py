"""Two routers with one EGRESS_SOURCE under test, on two nodes, and what a client of both sees all the time."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from lab import Capture, Lab
from lab.packet import Packet
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.router import SOURCE4, SOURCE6

RULES = "80 tcp 203.0.113.25\n443 tcp 2001:db8:113::25\n"
NUMBER = "46"
#: What a client asks for, by family.
PORTS = {4: 80, 6: 443}
SOURCES = {4: SOURCE4, 6: SOURCE6}
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class RouterPair:
    """Routers on ``nodes`` of a lab, and a client on the third one. A variable that is given empty is not set."""

    nodes = (0, 1)

    def __init__(self, lab: Lab, backend: str, directory: Path, run_directory: Path, **env: str) -> None:
        self.lab = lab
        lab.echo("203.0.113.25", tcp=[80])
        lab.echo("2001:db8:113::25", tcp=[443])
        self.client = lab.pod("client", node=2)
        self.routers = []
        for node, name in zip(self.nodes, ("router-a", "router-b"), strict=True):
            own = directory / name
            own.mkdir()
            settings = {
                "EGRESS_LOG_FORMAT": "json",
                # There are always connections, so it waits for all of it.
                "EGRESS_SHUTDOWN_GRACE": "3",
                "EGRESS_PAIR": NUMBER,
                "EGRESS_RUN_DIR": str(run_directory / name),
                "EGRESS_DAD": "on",
                **env,
            }
            settings = {key: value for key, value in settings.items() if value}
            router = LiveRouter(lab, backend, own, RULES, (name, node, self.client), **settings)
            self.routers.append(router)

    def start(self) -> None:
        """Start both and wait until one of them is active, and the other one has heard of it."""
        for router in self.routers:
            router.start()
        self.until(lambda: self.roles() == ["active", "standby"], "one is active")
        standby = self.other(self.active())
        self.until(lambda: status(standby)["pair"]["peers"], "the other one has heard of it")
        self.until_both_elect()

    def until_both_elect(self) -> None:
        """Wait until both take part: one that has just started listens first, and its keepalived takes a moment."""
        self.until(lambda: all(len(descendants(pid(router))) > 1 for router in self.routers), "both elect")
        time.sleep(0.3)

    def stream(self, family: int) -> Stream:
        """Return connections of new clients of both routers, not begun yet."""
        return Stream(self, family)

    def roles(self) -> list[str]:
        """Return the roles, sorted; what has its address in place alone is active."""
        return sorted(self.role(router) for router in self.routers)

    def role(self, router: LiveRouter) -> str:
        """Return the role of a router, "gone" when it does not answer."""
        pair = status(router).get("pair")
        if not pair:
            return "gone"
        return "taking over" if pair["role"] == "active" and not pair["holding"] else str(pair["role"])

    def active(self) -> LiveRouter:
        """Return the active one."""
        return next(router for router in self.routers if self.role(router) == "active")

    def other(self, router: LiveRouter) -> LiveRouter:
        """Return the one that ``router`` is not."""
        return next(item for item in self.routers if item is not router)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until ``condition`` holds; the log of both is shown if it does not."""
        self.until_for(condition, what, 15)

    def until_for(self, condition: Callable[[], object], what: str, seconds: float) -> None:
        """Wait so long until ``condition`` holds."""
        end = time.monotonic() + seconds
        while not condition():
            logs = "\n".join(f"{router.host.name}:\n{router.log()}" for router in self.routers)
            assert time.monotonic() < end, f"waited for: {what}; roles {self.roles()}\n{logs}"
            time.sleep(0.02)

    def start_with_reverse_path_filter(self, value: int) -> None:
        """Start pods that have inherited it from their node; it takes no role from anybody."""
        for router in self.routers:
            router.host.sysctl("net.ipv4.conf.all.rp_filter", value)
        self.start()
        changes = [status(router)["pair"]["changes"] for router in self.routers]
        time.sleep(2)
        assert [status(router)["pair"]["changes"] for router in self.routers] == changes


def status(router: LiveRouter) -> dict[str, Any]:
    """Return /status of a router, asked from its own pod; nothing when it does not answer."""
    code, text = page(router, "/status")
    return json.loads(text) if code == 200 else {}


def page(router: LiveRouter, path: str) -> tuple[int, str]:
    """Return status code and body of a page, (0, "") without an answer."""
    with suppress(OSError, ValueError), router.host.socket(socket.AF_INET) as asked:
        asked.settimeout(2)
        asked.connect((str(router.host.addresses[4]), int(router.env.get("EGRESS_HEALTH_PORT", "9909"))))
        asked.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        data = b"".join(iter(lambda: asked.recv(65536), b""))
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()
    return 0, ""


def kill(router: LiveRouter) -> None:
    """Kill everything of a router at once, as the end of a container does; its network namespace stays."""
    for number in reversed([pid(router), *descendants(pid(router))]):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def pid(router: LiveRouter) -> int:
    """Return the process of a router."""
    assert router.process is not None
    return router.process.pid


def descendants(number: int) -> list[int]:
    """Return the processes below one. What ends meanwhile, a thread or a process, has none."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{number}/task").iterdir():
            with suppress(OSError):
                for child in (task / "children").read_text().split():
                    found += [int(child), *descendants(int(child))]
    return found


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory with a short name, as keepalived's is to be."""
    with tempfile.TemporaryDirectory(prefix="pair-") as name:
        yield Path(name)


@dataclass(frozen=True)
class Answer:
    """A connection that was answered: when, by which router."""

    at: float
    router: str


class Stream:
    """Opens a connection to every router of a pair every few milliseconds, as clients behind a Service would to the
    ready one.
    """

    def __init__(
        self,
        pair: RouterPair,
        family: int = 4,
        pace: float = 0.01,
        answered: Callable[[LiveRouter], bool] | None = None,
        threads: int = 1,
    ) -> None:
        """``answered`` tries one, and returns whether it was; the usual one connects, and that is all."""
        self._pair = pair
        self._answered = answered
        self._family = family
        self._pace = pace
        self._stop = threading.Event()
        self.answers: list[Answer] = []
        self._threads = [
            threading.Thread(target=self._run, args=(router,)) for router in pair.routers for _ in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
            time.sleep(self._pace / len(self._threads))
        self._pair.until(lambda: len(self.answers) > 20, "connections are answered")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, router: LiveRouter) -> None:
        answered = self._answered or self._connects
        while not self._stop.is_set():
            started = time.time()
            if answered(router):
                self.answers.append(Answer(time.time(), router.host.name))
            time.sleep(max(0.0, self._pace - (time.time() - started)))

    def _connects(self, router: LiveRouter) -> bool:
        kind = socket.AF_INET if self._family == 4 else socket.AF_INET6
        with suppress(OSError), self._pair.client.socket(kind) as asked:
            asked.settimeout(0.1)
            asked.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            asked.connect((str(router.host.addresses[self._family]), PORTS[self._family]))
            return True
        return False

    def gap(self, since: float) -> float:
        """Return the longest time without an answer after ``since``; one that was about to end then counts whole."""
        times = sorted(answer.at for answer in self.answers)
        return max((later - earlier for earlier, later in pairwise(times) if later > since), default=float("inf"))

    def answered_since(self, when: float, router: LiveRouter) -> bool:
        """Whether a router has answered after that time."""
        return any(answer.at > when and answer.router == router.host.name for answer in list(self.answers))


@dataclass(frozen=True)
class Overlap:
    """What two routers sent with EGRESS_SOURCE in a span of time: for how many seconds both did, and how many packets
    came from the one that sent less meanwhile.
    """

    seconds: float
    packets: int


def overlap(capture: Capture, macs: tuple[str, str], since: float, until: float) -> Overlap:
    """Return for how long both routers sent, of both families together."""
    sources = set(SOURCES.values())
    times = {
        mac: [
            packet.time
            for packet in capture.outgoing()
            if packet.src_mac == mac and str(packet.src) in sources and since <= packet.time < until
        ]
        for mac in macs
    }
    if not all(times.values()):
        return Overlap(0.0, 0)
    first, last = max(map(min, times.values())), min(map(max, times.values()))
    if last < first:
        return Overlap(0.0, 0)
    return Overlap(last - first, min(sum(first <= at <= last for at in sent) for sent in times.values()))


def wrong_sources(capture: Capture) -> list[Packet]:
    """Return the packets that left with another source than EGRESS_SOURCE."""
    return capture.leaks(allowed=SOURCES.values())


def of_standby(capture: Capture, mac: str, until: float) -> list[Packet]:
    """Return what a standby has sent with EGRESS_SOURCE, or said about it, until that time."""
    return [
        packet
        for packet in capture.received()
        if packet.src_mac == mac
        and packet.time < until
        and (
            str(packet.src) in SOURCES.values() or (packet.proto != "icmpv6" and str(packet.target) in SOURCES.values())
        )
    ]


def bridge_drop(lab: Lab, *conditions: str) -> None:
    """Have the LAN's switch drop frames; without conditions, none any more."""
    lines = "\n".join(f"{condition} drop" for condition in conditions)
    lab.lan.nft(
        "table bridge split\ndelete table bridge split\n"
        f"table bridge split {{\nchain forward {{\ntype filter hook forward priority 0\n{lines}\n}}\n}}\n"
    )
