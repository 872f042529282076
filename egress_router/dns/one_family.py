"""A name server on loopback for a program that asks for both kinds of addresses where one family alone leads outside.

Questions for the other family are answered at once: the name has no such address. So what a name server never answers
delays nothing. All else is looked up as `resolver` does it: the name servers of resolv.conf(5), by UDP or TCP, as it is
asked for, without a search list. Nothing is remembered: the program has a cache.

UDP alone: on loopback an answer of any size is one datagram.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rrset

from egress_router.config.values import Family, HostName
from egress_router.dns.cache import Answer, CandidateReplies, Failure, NegativeAnswer, Reply
from egress_router.dns.loop_thread import LoopThread, owned_task
from egress_router.dns.resolver import RECORD, Resolver

log = logging.getLogger(__name__)

#: Of the thread, as /healthz names it.
NAME = "one-family"
PORT = 53
#: Names that are looked up or wait for it, and questions that wait for one of them. More get no answer: who asks asks
#: again.
MOST, MOST_WAITING = 1000, 256
#: Names that are asked about at the same time: each takes a descriptor, and a process may have 1,024.
PARALLEL = 256
#: Of which so many may have the same last two labels: one domain whose servers never answer leaves room for the others.
MOST_OF_A_DOMAIN = 192
#: Addresses of an answer: 14 kB, and Squid takes 16.
MOST_ADDRESSES = 512
#: Questions that are read before something else has its turn.
_AT_ONCE = 64
#: Addresses that are tried for one that nobody listens on.
_TRIES = 8
#: RFC 1035, 2.3.4 allows half of it without EDNS.
_LONGEST_QUESTION = 1024

Asker = tuple[str, int]


class OneFamily:
    """Listens on ``address``, one of 127.0.0.0/8, from now on, and answers once it is started. OSError when port 53
    cannot be had there.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self._socket = _listener()
        self.address = str(self._socket.getsockname()[0])
        self._resolver: Resolver | None = None
        self._thread: LoopThread | None = None
        self._waiting: dict[HostName, list[tuple[dns.message.Message, Asker]]] = {}
        self._domains: Counter[str] = Counter()
        self._look_ups: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(PARALLEL)

    def start(self, resolver: Resolver, beat: Callable[[], None] = lambda: None) -> None:
        """Answer, in a thread of its own; ``beat`` is its heartbeat, called every second."""
        self._resolver = resolver
        self._thread = LoopThread(NAME, beat)
        self._thread.call(self._thread.loop.add_reader, self._socket, self._read)

    def close(self) -> None:
        """Answer no more."""
        if self._thread is not None:
            self._thread.call(self._give_up)
            self._thread.stop(1)
        self._socket.close()

    def _give_up(self) -> None:
        for look_up in self._look_ups:
            look_up.cancel()

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, asker = self._socket.recvfrom(_LONGEST_QUESTION)
            except BlockingIOError:
                return
            except OSError as error:
                # An asker that is gone: ICMP tells it to the socket (udp(7)).
                log.debug("%s port %d: %s", self.address, PORT, error)
                continue
            try:
                question = dns.message.from_wire(data)
            except (dns.exception.DNSException, ValueError) as error:
                log.debug("%s port %d: no question: %s", self.address, PORT, error)
                continue
            self._asked(question, asker)

    def _asked(self, question: dns.message.Message, asker: Asker) -> None:
        if question.flags & dns.flags.QR:
            return
        if question.opcode() != dns.opcode.QUERY:
            self._send(_answer(question, dns.rcode.NOTIMP), asker)
            return
        if len(question.question) != 1 or question.question[0].rdclass != dns.rdataclass.IN:
            self._send(_answer(question, dns.rcode.REFUSED), asker)
            return
        kind = question.question[0].rdtype
        if kind != RECORD[self.family]:
            rcode = dns.rcode.NOERROR if kind in RECORD.values() else dns.rcode.NOTIMP
            self._send(_answer(question, rcode), asker)
            return
        # With its dot: asked for as it is.
        name = HostName(question.question[0].name.to_text().lower())
        waiting = self._waiting.get(name)
        if waiting is None:
            if len(self._waiting) < MOST and self._domains[_domain(name)] < MOST_OF_A_DOMAIN:
                self._domains[_domain(name)] += 1
                self._waiting[name] = [(question, asker)]
                assert self._thread is not None  # noqa: S101
                look_up = owned_task(self._thread.loop, self._look_up(name))
                self._look_ups.add(look_up)
                look_up.add_done_callback(self._look_ups.discard)
        elif len(waiting) < MOST_WAITING and (question.id, asker) not in [(one.id, by) for one, by in waiting]:
            waiting.append((question, asker))

    async def _look_up(self, name: HostName) -> None:
        assert self._resolver is not None  # noqa: S101
        replies: list[CandidateReplies] = []
        try:
            async with self._slots:
                replies = await self._resolver.resolve(name, [self.family])
        except Exception:
            # One strange reply must not end the answers for all other names.
            log.exception("%s: looking it up failed unexpectedly", name)
        domain = _domain(name)
        self._domains[domain] -= 1
        if not self._domains[domain]:
            del self._domains[domain]
        reply = replies[0].replies[self.family] if replies else Failure("was not asked for")
        for question, asker in self._waiting.pop(name):
            if not (isinstance(reply, Failure) and reply.silent):
                self._send(told(question, reply), asker)

    def _send(self, answer: dns.message.Message, asker: Asker) -> None:
        # A full buffer or an asker that is gone: it asks again, or does not want to know.
        with suppress(OSError):
            self._socket.sendto(answer.to_wire(max_size=65535), asker)


def _domain(name: HostName) -> str:
    return ".".join(name.text.rstrip(".").rsplit(".", 2)[-2:])


def told(question: dns.message.Message, reply: Reply) -> dns.message.Message:
    """Return what is answered to a question. Aliases on the way are of no use to who wants addresses."""
    if isinstance(reply, Failure):
        return _answer(question, dns.rcode.SERVFAIL)
    if isinstance(reply, NegativeAnswer):
        return _answer(question, dns.rcode.NXDOMAIN if reply.no_such_name else dns.rcode.NOERROR)
    return _with_addresses(question, reply)


def _with_addresses(question: dns.message.Message, found: Answer) -> dns.message.Message:
    asked = question.question[0]
    texts = sorted(map(str, found.addresses))[:MOST_ADDRESSES]
    answer = _answer(question, dns.rcode.NOERROR)
    answer.answer.append(dns.rrset.from_text_list(asked.name, int(found.ttl), asked.rdclass, asked.rdtype, texts))
    return answer


def _answer(question: dns.message.Message, rcode: dns.rcode.Rcode) -> dns.message.Message:
    answer = dns.message.make_response(question, recursion_available=True)
    answer.set_rcode(rcode)
    return answer


def _listener() -> socket.socket:
    """Return a socket on port 53 of an address of 127.0.0.0/8, which is the machine's own, that nobody uses."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    for left in reversed(range(_TRIES)):
        try:
            listener.bind((f"127.{secrets.randbelow(255)}.{secrets.randbelow(255)}.{secrets.randbelow(254) + 1}", PORT))
        except OSError as error:
            if left and error.errno == errno.EADDRINUSE:
                continue
            listener.close()
            raise
        break
    return listener
