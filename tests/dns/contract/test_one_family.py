"""A name server on loopback that knows addresses of one family."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest

from egress_router.config.values import Family, HostName
from egress_router.dns import one_family
from egress_router.dns.cache import Answer, CandidateReplies, Failure, NegativeAnswer, Reply
from egress_router.dns.one_family import MOST_ADDRESSES, OneFamily
from egress_router.dns.resolver import Resolver

SIX = ip_address("2001:db8:113::25")


class Known(Resolver):
    """A resolver that knows what it is told; "slow" names wait until they are let go."""

    def __init__(self, folder: Path) -> None:
        super().__init__(resolv_conf=folder / "resolv.conf", hosts=folder / "hosts")
        self.replies: dict[str, Reply] = {}
        self.asked: Counter[str] = Counter()
        self.slow = asyncio.Event()

    async def resolve(self, name: HostName, families: Sequence[Family]) -> list[CandidateReplies]:
        self.asked[name.text] += 1
        assert list(families) == [Family.IPV6]
        if name.text.startswith("slow"):
            await self.slow.wait()
        if name.text.startswith("strange"):
            raise ZeroDivisionError("whatever a server says")
        return [CandidateReplies(name.text, {families[0]: self.replies.get(name.text, Answer(frozenset({SIX}), 30))})]


@pytest.fixture
def known(tmp_path: Path) -> Known:
    return Known(tmp_path)


@pytest.fixture(autouse=True)
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port that needs no privilege and that nobody has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        found = int(probe.getsockname()[1])
    monkeypatch.setattr(one_family, "PORT", found)
    return found


@pytest.fixture
def server(known: Known, port: int) -> Iterator[OneFamily]:
    made = OneFamily(Family.IPV6)
    made.start(known)
    yield made
    made.close()


class Asker:
    def __init__(self, asking: socket.socket) -> None:
        self._socket = asking

    def __call__(self, question: dns.message.Message | bytes, seconds: float = 5) -> dns.message.Message | None:
        """Return the next answer, whatever it answers."""
        self._socket.settimeout(seconds)
        self._socket.send(question if isinstance(question, bytes) else question.to_wire())
        try:
            return dns.message.from_wire(self._socket.recv(65535))
        except TimeoutError:
            return None


@pytest.fixture
def ask(server: OneFamily, port: int) -> Iterator[Asker]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((server.address, port))
        yield Asker(asking)


def question(name: str = "a.example.", kind: str = "AAAA") -> dns.message.Message:
    return dns.message.make_query(name, kind, use_edns=False)


def answered(reply: dns.message.Message | None) -> tuple[str, list[str]]:
    assert reply is not None
    assert reply.flags & dns.flags.QR
    return dns.rcode.to_text(reply.rcode()), [str(item) for rrset in reply.answer for item in rrset]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Answer(frozenset({SIX}), 30.7), ("NOERROR", [str(SIX)])),
        (NegativeAnswer("has no IPv6 address"), ("NOERROR", [])),
        (NegativeAnswer("does not exist", no_such_name=True), ("NXDOMAIN", [])),
        (Failure("REFUSED"), ("SERVFAIL", [])),
    ],
)
def test_what_is_known(known: Known, ask: Asker, reply: Reply, expected: tuple[str, list[str]]) -> None:
    known.replies["a.example."] = reply
    asked = question("A.example.")
    answer = ask(asked)
    assert answered(answer) == expected
    assert answer is not None
    assert asked.is_response(answer)
    assert [rrset.ttl for rrset in answer.answer] == [30] * len(answer.answer)


def test_the_other_family_is_answered_at_once_and_asked_for_nowhere(known: Known, ask: Asker) -> None:
    assert answered(ask(question(kind="A"))) == ("NOERROR", [])
    assert answered(ask(question(kind="PTR"))) == ("NOTIMP", [])
    assert not known.asked


def test_without_a_reply_there_is_no_answer(known: Known, server: OneFamily, ask: Asker) -> None:
    known.replies["a.example."] = Failure("no reply in time", silent=True)
    assert ask(question(), 0.3) is None
    known.replies.clear()
    assert answered(ask(question())) == ("NOERROR", [str(SIX)]), "asked again"


def test_a_name_that_is_being_looked_up_is_asked_for_once(known: Known, server: OneFamily, ask: Asker) -> None:
    """All who have asked meanwhile get the answer, once each."""
    first, second = question("slow.example."), question("slow.example.")
    for asked in (first, first, second, first):
        assert ask(asked, 0.1) is None
    assert server._thread is not None
    server._thread.call(known.slow.set)
    answers = [ask(b""), ask(b"")]
    assert [answer.id for answer in answers if answer] == [first.id, second.id]
    assert ask(b"", 0.2) is None
    assert known.asked["slow.example."] == 1


def test_what_is_no_question_ends_nothing(ask: Asker) -> None:
    rng = random.Random(1)
    good = question().to_wire()
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        ask(bytes(data[: rng.randrange(len(data) + 1)]), 0.002)
    ask(dns.message.make_response(question()), 0.002)
    last = question("last.example.")
    answer = ask(last)
    while answer is not None and not last.is_response(answer):
        answer = ask(b"")
    assert answered(answer) == ("NOERROR", [str(SIX)])


def test_one_strange_name_is_its_own_problem(ask: Asker, caplog: pytest.LogCaptureFixture) -> None:
    assert answered(ask(question("strange.example."))) == ("SERVFAIL", [])
    assert "failed unexpectedly" in caplog.text
    assert answered(ask(question())) == ("NOERROR", [str(SIX)])


def test_many_addresses_fit_into_one_answer(known: Known, ask: Asker) -> None:
    known.replies["a.example."] = Answer(frozenset(SIX + number for number in range(4000)), 60)
    answer = ask(question())
    assert len(answered(answer)[1]) == MOST_ADDRESSES
    assert answer is not None
    assert not answer.flags & dns.flags.TC
    assert len(answer.to_wire(max_size=65535)) < 16384


def test_names_in_flight_are_bounded(
    known: Known, server: OneFamily, ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_family, "MOST", 3)
    for number in range(6):
        assert ask(question(f"slow{number}.example."), 0.05) is None
    assert sum(known.asked.values()) == 3
    assert answered(ask(question(kind="A"))) == ("NOERROR", [])


def test_descriptors_are_bounded(known: Known, ask: Asker, server: OneFamily) -> None:
    for number in range(one_family.PARALLEL + 20):
        ask(question(f"slow{number}.example."), 0.001)
    assert ask(question("late.example."), 0.3) is None
    assert len([name for name in known.asked if name.startswith("slow")]) == one_family.PARALLEL
    assert server._thread is not None
    server._thread.call(known.slow.set)
    answers = {
        str(answer.question[0].name) for answer in (ask(b"", 1) for _ in range(one_family.PARALLEL + 21)) if answer
    }
    assert "late.example." in answers


def test_a_port_that_somebody_has_everywhere_is_an_error(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", port))
        with pytest.raises(OSError, match="in use"):
            OneFamily(Family.IPV6)


def test_a_domain_that_never_answers_leaves_room_for_others(known: Known, server: OneFamily, ask: Asker) -> None:
    for number in range(one_family.MOST_OF_A_DOMAIN + 50):
        assert ask(question(f"slow{number}.silent.example."), 0.001) is None
    assert answered(ask(question("a.example."))) == ("NOERROR", [str(SIX)])
    assert sum(known.asked.values()) == one_family.MOST_OF_A_DOMAIN + 1
    server._thread.loop.call_soon_threadsafe(known.slow.set)  # type: ignore[union-attr]
    for _ in range(one_family.MOST_OF_A_DOMAIN):
        assert answered(ask(b"no question", 5)) == ("NOERROR", [str(SIX)])
    assert answered(ask(question("fresh.silent.example."))) == ("NOERROR", [str(SIX)]), "there is room again"
