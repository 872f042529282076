"""ICMP echoes to nodes, and questions to their agents, from one thread.

ICMP: RFC 792, RFC 4443. What agents tell each other is one small JSON datagram each way.
"""

from __future__ import annotations

import json
import math
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeGuard

from egress_router.net.agent_figures import Figures, parse_figures
from egress_router.net.oserror import translating
from egress_router.net.probe_pace import Pace, asked_again, patience_with
from egress_router.net.signed_messages import ANY_SOURCE, Opened, Signatures
from egress_router.net.starting_pods import StartingPods
from egress_router.net.tunnel_echo import (
    SELDOM,
    SELDOM_ROUNDS,
    Leg,
    SeldomLegs,
    TunnelEchoes,
    TunnelWay,
    echo_request,
    random_ident,
)
from egress_router.net.wireguard import is_key

_ECHO = {4: (8, 0), 6: (128, 129)}
_MAX_DATAGRAM = 8192
#: The messages of agents are an object with lists and an object of addresses in it; nothing nests deeper.
_MOST_BRACKETS = 8
#: What one message may say of that many addresses and no more; the longest text of an IPv6 address has 45 characters.
_MOST_ITEMS = 64
_MAX_ADDRESS = 45
#: So many pods are asked about at once: the question and the answer fit a datagram.
_MOST_PODS = 20
#: What is said of a pod that starts is no longer than a name and a uid.
_MAX_WORDS = 320
#: The numbers of probes: 16 bits, as in an ICMP echo.
_MAX_NUMBER = 0xFFFF
_SOL_RAW, _ICMP_FILTER = 255, 1
_SO_RCVBUFFORCE = 33
_BUFFER = 4 << 20
#: How soon ``stop`` is noticed.
_STOP_SECONDS = 0.2
#: Questions that are sent before answers are looked at.
_BURST = 32
#: Answers to probes of so many rounds ago still count as a sign of life.
LATEST_ROUNDS = 10
#: A node that said so long ago that it sends traffic here is forgotten.
_REMEMBERED_SECONDS = 600.0
#: Nobody sends more echoes a second, however many nodes are probed: each costs some 15 us of a processor, with its
#: answer. Beyond that rounds take longer.
MOST_ECHOES = 5000
#: The longest time until its next question that somebody may name; seconds.
_LONGEST_PAUSE = 60.0
#: Those that are asked again between two rounds take no more than this part of them.
_AGAIN_PART = 0.5
#: Agents of nodes that are up are asked in every so many rounds.
REDUCED_RATE_ROUNDS = 3
#: How often a controller asks each agent for all of its figures; seconds.
FIGURES_SECONDS = 30.0


class DrainPhase(StrEnum):
    """How far an operator's drain of a node is, in the word of the messages: none, connections are waited for, or not
    any more.
    """

    NONE = ""
    WAITS = "waits"
    OVER = "over"


_PHASES = {phase.value: phase for phase in DrainPhase}


@dataclass(frozen=True, slots=True)
class Answer:
    """What one node answered to one probe. ``pending`` are egress IPs that it shall hold and does not (yet); None when
    its agent said nothing. ``sources`` is what it translates the pods to that it was asked about. ``legs``: whether an
    echo came back by each of the ways through the tunnel that it was asked by. ``answers_tunnel``: its agent says that
    its node answers echoes there. ``draining``: others had better use another node, whether an operator's ``drain`` is
    the reason or not. ``takes_pods``: its agent can be told of pods that start. ``figures``: the part of them that it
    was asked for.
    """

    echo: bool
    ready: bool
    draining: bool
    pending: frozenset[str] | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    legs: Mapping[Leg, bool] = field(default_factory=dict)
    answers_tunnel: bool = False
    drain: DrainPhase = DrainPhase.NONE
    takes_pods: bool = False
    figures: Figures | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What an agent or a controller asks: the ``number`` of its probe, whether it sends traffic here (None: it does not
    say, as controllers do) and the pods that it asks about; in how many seconds it asks again, 0 when it does not say;
    its public key, see Reply. ``starts``: pods of its node that wait to start, and what there is to say of each.
    ``part``: which part of the figures it asks for (None: none). ``ask_now``: what it would answer about pods has
    changed, so it had better be asked again at once.
    """

    number: int
    uses: bool | None = None
    pods: tuple[str, ...] = ()
    pause: float = 0.0
    key: str = ""
    starts: Mapping[str, str] = field(default_factory=dict)
    part: int | None = None
    ask_now: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What an agent says to the probe ``number``; see Answer. ``key`` is the public key of its encrypted tunnel, empty
    when it has none.
    """

    number: int
    ready: bool
    draining: bool
    pending: frozenset[str] | None
    sources: Mapping[str, str]
    answers_tunnel: bool = False
    drain: DrainPhase = DrainPhase.NONE
    key: str = ""
    takes_pods: bool = False
    figures: Figures | None = None


def parse_message(data: bytes) -> Question | Reply | None:
    """Return what a datagram says, None when it is no message of an agent or controller. Never raises: the port is open
    to every machine of the nodes' network. Nothing in it is trusted to be of a type, a size or a depth.
    """
    if data.count(b"[") + data.count(b"{") > _MOST_BRACKETS:
        return None
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    if "ask" in message:
        number = _number(message["ask"])
        uses = message["uses"] is True if "uses" in message else None
        pods = tuple(_addresses(message.get("pods")))
        pause, key = _seconds(message.get("next")), _key(message.get("key"))
        if number is None:
            return None
        starts, part = _starts(message.get("starts")), _number(message.get("figures"))
        return Question(number, uses, pods, pause, key, starts, part, message.get("askNow") is True)
    number = _number(message.get("told"))
    if number is None:
        return None
    pending, sources = message.get("lacks"), message.get("pods")
    return Reply(
        number,
        message.get("ready") is True,
        message.get("draining") is True,
        frozenset(_addresses(pending)) if isinstance(pending, list) else None,
        {pod: source for pod in _addresses(sources) if _is_short(source := sources[pod])}
        if isinstance(sources, dict)
        else {},
        message.get("tunnel") is True,
        _PHASES.get(drain, DrainPhase.NONE) if isinstance(drain := message.get("drain"), str) else DrainPhase.NONE,
        _key(message.get("key")),
        message.get("takes") is True,
        parse_figures(message.get("figures")),
    )


def _number(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_NUMBER else None


def _seconds(value: object) -> float:
    return float(value) if type(value) in (int, float) and 0 <= value <= _LONGEST_PAUSE else 0.0  # type: ignore[operator, arg-type]


def _key(value: object) -> str:
    return value if isinstance(value, str) and is_key(value) else ""


def _addresses(value: object) -> list[str]:
    """Return the short texts of a list, or of the keys of an object; nothing of anything else."""
    return [item for item in list(value)[:_MOST_ITEMS] if _is_short(item)] if isinstance(value, list | dict) else []


def _starts(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {pod: words for pod in _addresses(value) if _is_short(words := value[pod], _MAX_WORDS)}


def _parted(pods: Collection[str]) -> list[list[str]]:
    """Return so many pods at a time as a question may be about; one that is about none where there are none."""
    listed = list(pods)
    return [listed[start : start + _MOST_PODS] for start in range(0, len(listed), _MOST_PODS)] or [[]]


def _is_short(value: object, most: int = _MAX_ADDRESS) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) <= most and value.isascii() and value.isprintable()


_SILENCE = Reply(0, ready=False, draining=False, pending=None, sources={})
_LEGS = frozenset(Leg)


@dataclass(slots=True)
class _Target:
    """``asked`` and ``heard``: legs of this round, and those that are asked by seldom. ``part``: which part of the
    figures is asked for next, not before ``figures_due`` (time.monotonic()). ``asked_at``: when it was asked last;
    ``reported``: what was missing since then has been reported. ``seldom``: which of those legs are asked by now.
    """

    name: str
    host_ip: str
    pace: Pace
    reply: Reply | None = None
    asked: set[Leg] = field(default_factory=set)
    heard: set[Leg] = field(default_factory=set)
    seldom: SeldomLegs = field(default_factory=SeldomLegs)
    part: int = 0
    figures_due: float = 0.0
    asked_at: float = 0.0
    reported: bool = False

    def has_answered(self) -> bool:
        """Return whether all answers that come in each round are there."""
        return Leg.DIRECT in self.heard and self.asked - SELDOM <= self.heard

    def told(self, reply: Reply, now: float) -> None:
        """Take in a reply; one without figures after a question for some leaves a question for the rest as it is."""
        known = self.reply
        if reply.figures is None and known is not None and known.figures is not None:
            reply = replace(reply, figures=known.figures)
        self.reply = reply
        if reply.figures is not None:
            self.part = reply.figures.part + 1
            if self.part >= reply.figures.parts:
                self.part, self.figures_due = 0, now + FIGURES_SECONDS


def _only_echo_replies(version: int) -> tuple[int, int, bytes]:
    """Return the arguments of setsockopt that keep all else out: the questions of other nodes, above all. See raw(7),
    RFC 3542 section 3.2; a bit that is set blocks a type.
    """
    if version == 4:
        return _SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF ^ 1 << _ECHO[4][1])
    words = [0xFFFFFFFF] * 8
    words[_ECHO[6][1] >> 5] &= ~(1 << (_ECHO[6][1] & 31))
    return socket.IPPROTO_ICMPV6, _ICMP_FILTER, struct.pack("=8I", *words)


def _enlarge(one: socket.socket) -> None:
    """Make room for the answers to a round: each takes 2.5 kB, and the default holds 85. See socket(7)."""
    try:
        one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    except PermissionError:
        # Without NET_ADMIN as much as net.core.rmem_max allows.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)


class Prober:
    """Probes every target once per interval and reports each round as {name: Answer}.

    The answers to a round are read when the next one starts, so a late thread never takes an answer that waits in the
    socket for a missing one. With ``misses``, a target that answered so far and is late is reported and asked again at
    once, as often as it takes to miss so many in a row, see Pace. Each miss is that of a probe of its own, so a thread
    that stood still for long counts one at most.

    It also answers other agents' questions, with what ``payload`` returns, given the pods
    that they ask about; without ``payload`` it asks from any port, says nothing of a use, and answers nobody.

    Making one raises CapabilityError without NET_RAW, PlatformError when ``host_ip`` is no address of this machine, and
    TryAgainError when another process has the port.
    """

    def __init__(
        self,
        host_ip: str,
        port: int,
        interval: float,
        report: Callable[[Mapping[str, Answer]], None],
        payload: Callable[[Collection[str]], Mapping[str, object]] | None = None,
        signatures: Signatures | None = None,
        public_key: str = "",
        heard_key: Callable[[str, str], None] | None = None,
        *,
        heard_pods: Callable[[str, Mapping[str, str]], None] | None = None,
        translated: Callable[[Collection[str]], None] = lambda _: None,
        figures: Callable[[int], Mapping[str, object]] | None = None,
        replied: Callable[[str, Reply], None] = lambda *_: None,
        misses: int = 0,
    ) -> None:
        """``signatures``: sign what is said, and believe only what is signed. ``public_key`` is told to all that are
        asked; ``heard_key`` is called in the thread with the address of a node and its key, when that is another one.
        Keys are believed of nodes alone (``set_peers``), and when they are signed. ``heard_pods`` is called in the
        thread with the address of a node and its pods that start, see Question; they are believed of nodes alone, where
        there are signatures when they are signed. ``translated``: see ``tell``. ``figures`` returns a part of what
        nodes, and those who sign, are told when they ask, as controllers do: those without ``payload``. ``replied`` is
        called in the thread, before the round is over, with the name of a target and what it says about pods.
        """
        self._heard_pods = heard_pods
        self._starting = StartingPods(translated)
        self._replied = replied
        #: Addresses of nodes that had better ask again.
        self._to_ask_now: list[str] = []
        self._figures = figures
        self._signatures = signatures
        self._public_key = public_key
        self._heard_key = heard_key
        self._keys: dict[str, str] = {}
        self._host_ip = host_ip
        self._interval = interval
        self._port = port
        self._report = report
        self._payload = payload
        self._lock = threading.Lock()
        self._targets: dict[str, _Target] = {}
        self._by_ip: dict[str, list[_Target]] = {}
        self._uses: frozenset[str] = frozenset()
        self._pods: Mapping[str, Collection[str]] = {}
        self._reduced_rate: frozenset[str] = frozenset()
        self._peers: Collection[str] = frozenset()
        #: When each node said last that it sends traffic here, and how long until it says so again, the longest ago
        #: first.
        self._users: dict[str, tuple[float, float]] = {}
        self._stop_asked = threading.Event()
        self._ended = threading.Event()
        self._ended.set()
        self._misses = misses
        #: The number of the round, and that of the last echoes; when the latest ones were sent.
        self._number = 0
        self._echo_number = 0
        self._sent_at: dict[int, float] = {}
        #: Targets whose answers are looked at before the round is over.
        self._awaited: dict[str, _Target] = {}
        #: Echoes that were sent between two rounds; the next round is the longer for them where there is a bound.
        self._extra = 0
        self._echo_id = random_ident()
        self._tunnel = TunnelEchoes(host_ip, self._receiver)
        #: What ``set_tunnel`` said last, None when the thread has taken it over.
        self._new_way: list[TunnelWay | None] = []
        self._version = 6 if ":" in host_ip else 4
        family = socket.AF_INET6 if self._version == 6 else socket.AF_INET
        with translating(f"probe nodes from {host_ip}, which must be an address of this machine", "NET_RAW"):
            self._icmp = self._receiver(host_ip)
        with translating(f"listen to agents on {host_ip}, UDP port {port}, which must be free", "NET_BIND_SERVICE"):
            self._udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._udp.bind((host_ip, port if payload else 0))
        _enlarge(self._udp)

    def _receiver(self, address: str) -> socket.socket:
        """Open a socket that hears answers to echoes from ``address``. Raises OSError."""
        family, protocol = (
            (socket.AF_INET6, socket.IPPROTO_ICMPV6) if self._version == 6 else (socket.AF_INET, socket.IPPROTO_ICMP)
        )
        opened = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        opened.setsockopt(*_only_echo_replies(self._version))
        opened.bind((address, 0))
        _enlarge(opened)
        return opened

    def set_tunnel(self, way: TunnelWay | None) -> None:
        """Probe the nodes that have a mark through the tunnel as well, from the next round on; None: do not."""
        with self._lock:
            self._new_way = [way]

    def set_targets(
        self,
        targets: Mapping[str, str],
        uses: frozenset[str],
        reduced_rate: frozenset[str],
        pods: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """Probe these nodes (name → address) from the next round on; ``uses`` are those that traffic is sent to. The
        agents of ``reduced_rate`` ones are asked in every third round only. ``pods``: what each is asked about.
        """
        with self._lock:
            self._targets = {
                name: self._targets[name]
                if name in self._targets and self._targets[name].host_ip == ip
                else _Target(name, ip, Pace(self._misses, self._interval))
                for name, ip in targets.items()
            }
            self._by_ip = {}
            for target in self._targets.values():
                self._by_ip.setdefault(target.host_ip, []).append(target)
            self._uses = uses
            self._pods = pods or {}
            self._reduced_rate = reduced_rate - self._pods.keys()

    def tell(self, starts: Mapping[str, Mapping[str, str]]) -> None:
        """Tell agents (by address) at once of pods of this node that wait to start, with what there is to say of each,
        again and again until they say that they translate them, or this is called again. ``translated`` is called in
        the thread then.
        """
        self._starting.set(starts)

    def have_asked(self, addresses: Collection[str]) -> None:
        """Have these nodes ask at once about the pods that they are to ask this one about."""
        with self._lock:
            self._to_ask_now += addresses
        self._starting.wake()

    def set_peers(self, addresses: Collection[str]) -> None:
        """Believe only these nodes that they send traffic here."""
        with self._lock:
            self._peers = addresses
            self._users = {ip: said for ip, said in self._users.items() if ip in addresses}
            self._keys = {ip: key for ip, key in self._keys.items() if ip in addresses}

    def users(self, within: float) -> list[str]:
        """Return the addresses of the nodes that said within so many seconds that they send traffic here; of one that
        asks more seldom, within three of its questions.
        """
        now = time.monotonic()
        with self._lock:
            return sorted(ip for ip, (at, pause) in self._users.items() if now - at < max(within, 3 * pause))

    def listening(self, within: float) -> float:
        """Return after how many seconds every node that sends traffic here has asked: ``within``, or longer."""
        with self._lock:
            return max([within, *(3 * pause for _, pause in self._users.values())])

    def round_seconds(self) -> float:
        """Return how long a round takes: the interval, or as long as MOST_ECHOES allows."""
        with self._lock:
            return self._round_seconds(len(self._targets))

    def _round_seconds(self, targets: int) -> float:
        # One straight and, of an agent, one through the tunnel; those that are seldom sent are few.
        each = 2 if self._payload else 1
        return max(self._interval, (each * targets + self._extra) / MOST_ECHOES)

    def stop(self) -> None:
        """Ask the thread in ``run`` to end, and wait a moment for it."""
        self._stop_asked.set()
        self._ended.wait(2)
        self._tunnel.close()
        self._icmp.close()
        self._udp.close()
        self._starting.close()

    def run(self, beat: Callable[[], None] = lambda: None) -> None:
        """Probe until ``stop``, in a thread; call ``beat`` once a round. May be called again after it raised."""
        self._ended.clear()
        try:
            self._probe(beat)
        finally:
            self._ended.set()

    def _probe(self, beat: Callable[[], None]) -> None:
        due = time.monotonic()
        self._send()
        while not self._stop_asked.is_set():
            beat()
            due = max(due + self.round_seconds(), time.monotonic() - self._interval)
            self._extra = 0
            while not self._stop_asked.is_set() and (look := self._next_look()) < due:
                self._receive_until(look)
                self._ask_again()
            self._receive_until(due)
            self._report(self._take())
            self._send()

    def _take(self) -> dict[str, Answer]:
        """Return what came since the last round; not of those that were asked again a moment ago."""
        with self._lock:
            found = {}
            for name, target in self._targets.items():
                if name in self._awaited or (target.reported and target.heard <= SELDOM):
                    continue
                target.seldom.note(target.asked, target.heard)
                found[name] = self._taken(target, set(target.asked), target.reply)
                target.reply = None
            return found

    @staticmethod
    def _taken(target: _Target, due: set[Leg], reply: Reply | None) -> Answer:
        """Return what a target has answered, by the legs that are ``due``."""
        said = reply or _SILENCE
        target.pace.looked(answered=target.has_answered())
        answer = Answer(
            Leg.DIRECT in target.heard,
            said.ready,
            said.draining,
            None if reply is None else said.pending,
            said.sources,
            {leg: leg in target.heard for leg in due},
            said.answers_tunnel,
            said.drain,
            said.takes_pods,
            said.figures,
        )
        target.heard -= {*due, Leg.DIRECT, Leg.TUNNEL}
        target.asked -= due
        return answer

    def _next_look(self) -> float:
        """Return when the next target has been waited for long enough."""
        return min(self._late_at().values(), default=math.inf)

    def _late_at(self) -> dict[str, float]:
        """Return when the answer of each target that is waited for is late. A controller, which takes addresses away
        from who is late, waits for all as long as for the slowest.
        """
        if self._payload is not None or not self._awaited:
            return {name: target.asked_at + target.pace.patience for name, target in self._awaited.items()}
        with self._lock:
            patience = patience_with([target.pace for target in self._targets.values()])
        return {name: target.asked_at + patience for name, target in self._awaited.items()}

    def _ask_again(self) -> None:
        """Report those that are late and ask them again. What their agents say is left for the end of the round; but a
        controller tells of it, and asks them as well: a node whose agent speaks is not gone because pings get lost.
        """
        now = time.monotonic()
        late_at = self._late_at()
        late = {name: target for name, target in self._awaited.items() if late_at[name] <= now}
        for name in late:
            del self._awaited[name]
        with self._lock:
            late = {name: target for name, target in late.items() if self._targets.get(name) is target}
            found = {}
            for name, target in late.items():
                said = target.reply if self._payload is None else None
                found[name] = self._taken(target, target.asked - SELDOM, said)
                target.reported = True
                if said is not None:
                    target.reply = None
            everybody = {name: target.pace for name, target in self._targets.items()}
        if found:
            self._report(found)
        names = asked_again({name: target.pace for name, target in late.items()}, everybody)
        again = [(name, late[name].host_ip) for name in names]
        # Where very many are late at once there is no hurry: they are asked in the next round.
        left = int(MOST_ECHOES * self._interval * _AGAIN_PART) - self._extra
        again = again[: max(0, left // 2)]
        self._extra += 2 * len(again)
        for _, ip in again if self._payload is None else ():
            self._say({"ask": self._number}, ip)
        self._send_echoes(again, seldom=False, quick={})

    def _send(self) -> None:
        self._number = (self._number + 1) & _MAX_NUMBER
        with self._lock:
            for way in self._new_way:
                self._tunnel.use(way)
            self._new_way = []
            targets = [(name, target.host_ip) for name, target in self._targets.items() if name not in self._awaited]
            parts = self._parts_due()
            uses, reduced_rate, pods = self._uses, self._reduced_rate, self._pods
            quick = {name: legs for name, target in self._targets.items() if (legs := target.seldom.quick)}
        seconds = self._round_seconds(len(targets))
        for number, (name, ip) in enumerate(targets, start=1):
            if number % _BURST == 0:
                self._drain(self._udp)
            if name in reduced_rate and self._number % REDUCED_RATE_ROUNDS != 0:
                continue
            question: dict[str, object] = {"ask": self._number}
            if self._payload:
                question["uses"] = name in uses
            if seconds > self._interval:
                question["next"] = round(seconds * REDUCED_RATE_ROUNDS, 2)
            if self._public_key:
                question["key"] = self._public_key
            first, *more = _parted(pods.get(name, ()))
            if first:
                question["pods"] = first
            if name in parts:
                question["figures"] = parts[name]
            self._say(question, ip)
            self._ask_about(more, ip)
        seldom = self._number % SELDOM_ROUNDS == 0
        if not seldom:
            # The round lasts longer for it where they are very many.
            self._extra += sum(map(len, quick.values()))
        self._send_echoes(targets, seldom=seldom, quick=quick)

    def _send_echoes(self, targets: list[tuple[str, str]], *, seldom: bool, quick: Mapping[str, set[Leg]]) -> None:
        """Send echoes to the nodes (name, address), straight and through the tunnel; see TunnelEchoes.send."""
        if not targets:
            return
        number = self._echo_number = (self._echo_number + 1) & _MAX_NUMBER
        oldest = time.monotonic() - LATEST_ROUNDS * self.round_seconds()
        # What comes before the last was sent is early.
        self._sent_at = {sent: at for sent, at in self._sent_at.items() if at > oldest} | {number: math.inf}
        for count, (_, ip) in enumerate(targets, start=1):
            if count % _BURST == 0:
                self._drain(self._icmp)
            with suppress(OSError):
                self._icmp.sendto(echo_request(self._version, self._echo_id, number), (ip, 0))
        asked = self._tunnel.send(number, self._echo_id, targets, seldom=seldom, quick=quick)
        now = self._sent_at[number] = time.monotonic()
        with self._lock:
            for name, _ in targets:
                if (target := self._targets.get(name)) is not None:
                    target.asked |= asked.get(name, set())
                    target.asked_at, target.reported = now, False
                    if target.pace.hurries and not target.has_answered():
                        self._awaited[name] = target

    def _parts_due(self) -> dict[str, int]:
        """Return which part of its figures each agent is asked for now: by controllers alone."""
        if self._payload is not None:
            return {}
        now = time.monotonic()
        return {name: target.part for name, target in self._targets.items() if target.figures_due <= now}

    def _receive_until(self, due: float) -> None:
        while True:
            self._tell_of_pods()
            left = due - time.monotonic()
            sockets = [self._icmp, self._udp, *([self._tunnel.answers] if self._tunnel.answers else [])]
            wait = max(0.0, min(left, _STOP_SECONDS, self._starting.seconds_left()))
            readable = select.select([*(one.fileno() for one in sockets), self._starting.fileno()], [], [], wait)[0]
            if self._stop_asked.is_set():
                return
            if self._starting.fileno() in readable:
                self._starting.woken()
            for from_socket in sockets:
                if from_socket.fileno() in readable:
                    self._drain(from_socket)
            if not readable and left <= 0:
                return
            if left < -self._interval:
                return

    def _say(self, question: Mapping[str, object], ip: str) -> None:
        # No route, no buffer: nothing will come back, which is what counts.
        with suppress(OSError):
            self._udp.sendto(self._sealed(question, ip), (ip, self._port))

    def _tell_of_pods(self) -> None:
        for ip, pods in self._starting.due().items():
            self._say({"ask": self._number, "pods": list(pods), "starts": pods}, ip)
        with self._lock:
            to_ask_now, self._to_ask_now = self._to_ask_now, []
        for ip in to_ask_now:
            self._say({"ask": self._number, "askNow": True}, ip)

    def _ask_now(self, ip: str) -> None:
        """Ask a node about pods, where there are any to ask it about."""
        with self._lock:
            pods = [pod for target in self._by_ip.get(ip, ()) for pod in self._pods.get(target.name, ())]
        if pods:
            self._ask_about(_parted(pods), ip)

    def _ask_about(self, parts: Iterable[list[str]], ip: str) -> None:
        for some in parts:
            self._say({"ask": self._number, "pods": some}, ip)

    def _drain(self, from_socket: socket.socket) -> None:
        for _ in range(1000):
            try:
                data, address = from_socket.recvfrom(_MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                continue
            if from_socket is self._udp:
                self._on_datagram(data, str(address[0]), address)
            else:
                self._on_echo(data, str(address[0]))

    def _on_echo(self, data: bytes, ip: str) -> None:
        if self._version == 4:
            data = data[(data[0] & 0xF) * 4 :]
        if len(data) < 8:
            return
        type_, _, _, ident, number = struct.unpack_from("!BBHHH", data)
        expected = 0 if self._version == 4 else _ECHO[6][1]
        leg = ident ^ self._echo_id
        sent = self._sent_at.get(number)
        # A distant node may answer after the next round has started.
        if type_ != expected or leg not in _LEGS or sent is None:
            return
        with self._lock:
            for target in self._by_ip.get(ip, ()):
                target.heard.add(Leg(leg))
                if leg not in SELDOM:
                    target.pace.answered(time.monotonic() - sent)
                if self._awaited.get(target.name) is target and target.has_answered():
                    del self._awaited[target.name]

    def _age(self, number: int) -> int:
        """Return how many rounds ago a question was asked."""
        return (self._number - number) & _MAX_NUMBER

    def _on_datagram(self, data: bytes, ip: str, address: tuple[object, ...]) -> None:
        opened = Opened(data) if self._signatures is None else self._signatures.open(data, ip, self._host_ip)
        message = None if opened is None else parse_message(opened.body)
        if opened is not None and opened.sender and message is not None and message.key:
            self._note_key(ip, message.key)
        if opened is not None and isinstance(message, Question):
            self._answer(message, opened.sender, ip, address)
        elif isinstance(message, Reply) and self._age(message.number) <= LATEST_ROUNDS:
            with self._lock:
                names = []
                for target in self._by_ip.get(ip, ()):
                    # Two questions of one round are about different pods.
                    known = target.reply.sources if target.reply is not None else {}
                    target.told(replace(message, sources={**known, **message.sources}), time.monotonic())
                    names += [target.name] if target.name in self._pods else []
            self._starting.heard(ip, message.sources)
            for name in names if message.sources else ():
                self._replied(name, message)

    def _answer(self, question: Question, sender: str, ip: str, address: tuple[object, ...]) -> None:
        if self._payload is None:
            return
        # A controller asks too, perhaps from the same address as an agent, and does not say that it uses anything.
        if question.uses is not None:
            self._note_user(ip, question.pause, uses=question.uses)
        believed = ip in self._peers and (self._signatures is None or sender != "")
        if question.starts and self._heard_pods is not None and believed:
            self._heard_pods(ip, question.starts)
        if question.ask_now:
            if believed:
                self._ask_now(ip)
            return
        reply = dict(self._payload(question.pods))
        # To nodes and those who sign: a small question from a borrowed address brings nobody a large answer.
        if question.part is not None and self._figures is not None and (sender or ip in self._peers):
            reply["figures"] = self._figures(question.part)
        if self._public_key:
            reply["key"] = self._public_key
        with suppress(OSError):
            self._udp.sendto(self._sealed({"told": question.number, **reply}, sender), address)

    def _sealed(self, message: Mapping[str, object], to: str) -> bytes:
        """Return a message to an address, or to the sender of what it answers (empty: one who does not sign)."""
        body = json.dumps(message).encode()
        if self._signatures is None:
            return body
        return self._signatures.seal(body, self._host_ip if self._payload else ANY_SOURCE, to)

    def _note_key(self, ip: str, key: str) -> None:
        with self._lock:
            if ip not in self._peers or self._keys.get(ip) == key:
                return
            self._keys[ip] = key
        if self._heard_key is not None:
            self._heard_key(ip, key)

    def _note_user(self, ip: str, pause: float, *, uses: bool) -> None:
        """Remember a node that sends traffic here; others, and those that said so long ago, are forgotten."""
        now = time.monotonic()
        with self._lock:
            self._users.pop(ip, None)
            if uses and ip in self._peers:
                self._users[ip] = (now, pause)
            for known, (at, _) in list(self._users.items()):
                if now - at < _REMEMBERED_SECONDS:
                    break
                del self._users[known]
