"""What the agent of a node needs, without a kernel and a network: each notes what is done, in one list in order."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from egress_router.daemon.threads import Threads
from egress_router.egressip.api import ClusterState
from egress_router.egressip.node.agent import Agent
from egress_router.egressip.node.repair import Heard
from egress_router.egressip.node.state import NodeSettings, NodeState
from egress_router.errors import EgressRouterError, Problem
from egress_router.net.icmp_probe import Answer
from egress_router.net.rtnetlink.values import LinkAddress, Observed
from egress_router.net.tunnel_echo import TunnelWay
from tests.support.fake_loop import FakeClock, fake_loop

INTERFACE, HOST_IP = "eth0", "192.0.2.11"
SETTINGS = NodeSettings("a", INTERFACE, (), probe_interval=0.1, probe_misses=3, probe_returns=2)
UP = Answer(echo=True, ready=True, draining=False, pending=frozenset())
GONE = Answer(echo=False, ready=False, draining=False)


class Pipe:
    """A descriptor that is readable after ``ring``."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK)

    def fileno(self) -> int:
        return self._read

    def ring(self) -> None:
        os.write(self._write, b"x")

    def silence(self) -> None:
        os.read(self._read, 100)


class FakeSource(Pipe):
    """Objects that a test sets."""

    def __init__(self, state: ClusterState) -> None:
        super().__init__()
        self.state = state
        #: Whether somebody waits, and the states that were said to be in place.
        self.waits = False
        self.starting: tuple[str, ...] = ()
        self.heard: list[tuple[str, Mapping[str, str]]] = []
        self.read_last = state
        self.placed: list[ClusterState] = []

    def set(self, state: ClusterState) -> None:
        self.state = state
        self.ring()

    def follow(self, threads: Threads) -> None:
        pass

    def read(self) -> tuple[ClusterState, tuple[Problem, ...]]:
        self.read_last = self.state
        return self.state, ()

    takes_pods = True

    def urgent(self) -> bool:
        return self.waits

    def waiting(self) -> tuple[str, Collection[str]]:
        return ("uid", self.starting) if self.waits else ("", ())

    def pods_told(self, node: str, pods: Mapping[str, str], *, signed: bool) -> bool:
        self.heard.append((node, pods))
        return True

    def in_place(self, *, everywhere: bool = True) -> None:
        self.placed.append(self.read_last)
        self.waits = False

    def wait(self, timeout: float) -> bool:
        self.silence()
        return True

    def close(self) -> None:
        pass


class FakeDataplane(Pipe):
    """Obeys egressip.node.ports.Dataplane. ``before`` is what an earlier agent left: addresses, slots, used, alive."""

    def __init__(self, steps: list[tuple[Any, ...]]) -> None:
        super().__init__()
        self.steps = steps
        self.applied: NodeState | None = None
        self.cut = 0
        self.on_link: set[str] = set()
        self.slots: dict[str, int] = {}
        self.before: tuple[Collection[int], Collection[int]] = ((), ())
        self.tables = False
        self.foreign_change = False
        self.error: EgressRouterError | None = None
        self.network = Pipe()
        self.undone: list[str] = []
        self.taken: set[str] = set()
        self.repair_error: EgressRouterError | None = None
        self.unknown: EgressRouterError | None = None
        self.looks = 0
        self.obstacles: list[str] = []
        self.open: list[bytes] = []

    def tampered(self) -> bool:
        self.silence()
        self.foreign_change, tampered = False, self.foreign_change
        if self.unknown is not None:
            raise self.unknown
        return tampered

    def change_by_others(self) -> None:
        self.foreign_change = True
        self.ring()

    def others_changed(self) -> bool:
        return False

    def learn_key(self, host_ip: str, key: str) -> None:
        self.steps.append(("key", host_ip, key))

    def unheard_changed(self) -> bool:
        return False

    tunnel_mtu = 1450

    def address_among_pods(self) -> str:
        return ""

    def make_way(self) -> tuple[list[str], list[str], list[str]]:
        self.looks += 1
        return [], list(self.obstacles), []

    def network_fileno(self) -> int:
        return self.network.fileno()

    def network_heard(self) -> Heard:
        self.network.silence()
        return Heard(bool(self.undone), frozenset(self.taken))

    def repair(self, now: float) -> list[str]:
        if self.repair_error is not None:
            raise self.repair_error
        lines, self.undone = self.undone, []
        if lines:
            self.steps.append(("repair", *lines))
        return lines

    def tampering(self, now: float) -> str:
        return ""

    def addresses_on_link(self) -> set[str]:
        return set(self.on_link)

    def take_away(self, ip: str) -> None:
        self.on_link.discard(ip)
        self.taken.add(ip)
        self.network.ring()

    def undo(self, line: str) -> None:
        self.undone.append(line)
        self.network.ring()

    def present(self) -> bool:
        if self.unknown is not None:
            raise self.unknown
        return self.tables

    def adopt(self) -> frozenset[str]:
        self.steps.append(("adopt",))
        return frozenset(self.on_link)

    def slots_before(self, nodes: Mapping[str, str]) -> dict[str, int]:
        return dict(self.slots)

    def gateways_before(self) -> tuple[Collection[int], Collection[int]]:
        return self.before

    def addresses(self) -> Collection[LinkAddress]:
        return self.observed().addresses

    def observed(self) -> Observed:
        addresses = [LinkAddress(INTERFACE, ip_interface(f"{HOST_IP}/24"))]
        addresses += [LinkAddress(INTERFACE, ip_interface(f"{ip}/32")) for ip in sorted(self.on_link)]
        return replace(Observed(), addresses=tuple(addresses))

    def add(self, ip: str) -> None:
        self.steps.append(("add", ip))
        self.on_link.add(ip)

    def apply(self, state: NodeState) -> None:
        if self.error is not None:
            raise self.error
        self.steps.append(("apply", state))
        self.applied, self.tables = state, True
        self.on_link &= state.assigned

    def lead_to(self, pods: Collection[str], old: int, new: int) -> int:
        self.steps.append(("lead", sorted(pods), old, new))
        return len(pods)

    def open_with(self, ips: Collection[str]) -> list[bytes]:
        self.steps.append(("open with", sorted(ips)))
        return list(self.open)

    def go_on_by(self, records: Collection[bytes], slot: int) -> str:
        self.steps.append(("go on by", sorted(records), slot))
        return ""

    def restore(self, records: Collection[bytes], local: Collection[bytes]) -> str:
        self.steps.append(("restore", sorted(records), sorted(local)))
        return ""

    def forget(self) -> None:
        self.steps.append(("forget",))
        self.applied = None

    def dropped_packets(self) -> dict[str, int]:
        return {}


class FakeProber:
    """Runs no thread; a test says what is answered."""

    def __init__(self, steps: list[tuple[Any, ...]]) -> None:
        self.steps = steps
        self.targets: dict[str, str] = {}
        self.uses: frozenset[str] = frozenset()
        self.pods: Mapping[str, Collection[str]] = {}
        self.peers: Collection[str] = ()
        self.senders: list[str] = []
        self.tunnel: TunnelWay | None = None
        self.told: list[Mapping[str, Mapping[str, str]]] = []
        #: Takes a round, where a controller made it.
        self.answers: Callable[[Mapping[str, Answer]], None] = lambda _: None

    def set_targets(
        self,
        targets: Mapping[str, str],
        uses: frozenset[str],
        reduced_rate: frozenset[str],
        pods: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self.targets, self.uses, self.pods = dict(targets), uses, pods or {}

    def set_tunnel(self, way: TunnelWay | None) -> None:
        self.tunnel = way

    def tell(self, starts: Mapping[str, Mapping[str, str]]) -> None:
        self.told.append(starts)

    def set_peers(self, addresses: Collection[str]) -> None:
        self.peers = addresses

    def have_asked(self, addresses: Collection[str]) -> None:
        self.steps.append(("have asked", *sorted(addresses)))

    def users(self, within: float) -> list[str]:
        return list(self.senders)

    def listening(self, within: float) -> float:
        return within

    def round_seconds(self) -> float:
        return SETTINGS.probe_interval

    def run(self, beat: Callable[[], None] = lambda: None) -> None:
        beat()

    def stop(self) -> None:
        self.steps.append(("stop",))


class FakeClaims:
    """``duplicates`` are refused, by the reason; the others are free. The answer comes in the loop's next turn."""

    def __init__(self, steps: list[tuple[Any, ...]]) -> None:
        self.steps = steps
        self.answered: frozenset[str] = frozenset()
        self.duplicates: dict[str, str] = {}
        self.done: Callable[[dict[str, str]], None] = lambda _: None

    def check(self, texts: Iterable[str], hurried: Collection[str] = ()) -> None:
        wanted = sorted(texts)
        self.steps += [("check", text) for text in wanted]
        if wanted:
            self.done({text: self.duplicates.get(text, "") for text in wanted})

    def look_again(self, texts: Collection[str]) -> None:
        if texts:
            self.steps.append(("look again", *sorted(texts)))

    def announce(self, texts: Iterable[str]) -> None:
        if found := sorted(texts):
            self.steps.append(("announce", *found))


class FakeControl(Pipe):
    """Asks for ``question`` when it is rung."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.answers: list[dict[str, object]] = []
        self.question: Callable[[Agent], bool] = lambda _: False

    def accept(self) -> Pipe:
        self.silence()
        peer = Pipe()
        peer.ring()
        return peer

    def serve(self, peer: Pipe, agent: Agent, start: object) -> bool:
        changed = self.question(agent)
        self.answers.append(agent.status())
        return changed


class FakeNode:
    """An agent on fakes. ``steps`` is what it did to the kernel and the link, in order; ``at`` plans what happens."""

    def __init__(self, state: ClusterState, path: Path) -> None:
        self.clock = FakeClock()
        self.loop = fake_loop(self.clock)
        self.steps: list[tuple[Any, ...]] = []
        self.source = FakeSource(state)
        self.control = FakeControl(path / "node.sock")
        self.dataplane = FakeDataplane(self.steps)
        self.prober = FakeProber(self.steps)
        self.claims = FakeClaims(self.steps)
        control: Any = self.control
        self.agent = Agent(SETTINGS, HOST_IP, self.source, control, self.loop, Threads(self.loop), self.dataplane)
        self.agent.connect(self.prober, self.claims)
        self.claims.done = self.agent.on_duplicate_check
        self.health: dict[str, Answer] = {}
        #: What was in place whenever somebody looked.
        self.seen: list[NodeState] = []
        #: Connections that leave with this node's addresses, by the address of their pod.
        self.connections: Counter[str] = Counter()
        self.agent.node_drain._job = self._count
        self.agent.source_ports.job = lambda *_, **__: None
        self.agent.figures.job = lambda *_, **__: None
        self.loop.every(SETTINGS.probe_interval, self._round)

    def _count(self, name: str, work: object, done: Callable[[Counter[str]], object], failed: object) -> None:
        self.loop.post(lambda: done(Counter(self.connections)))

    def _round(self) -> None:
        self.agent.on_answers({name: self.health.get(name, GONE) for name in self.prober.targets})

    def run(self, seconds: float, *plan: tuple[float, Callable[[], object]]) -> None:
        """Run the agent for so long; do each action of ``plan`` so many seconds after the start."""
        for after, action in plan:
            self.loop.call_later(after, action)
        self.loop.call_later(seconds, self.loop.stop)
        self.agent.run()

    def look(self) -> None:
        """Remember what is in place."""
        assert self.dataplane.applied is not None
        self.seen.append(self.dataplane.applied)

    def names(self) -> list[str]:
        return [str(step[0]) for step in self.steps]
