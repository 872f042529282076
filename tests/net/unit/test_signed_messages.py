"""Messages that only who has the key can make, change or send again."""

from __future__ import annotations

import os
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import pytest

from egress_router.errors import ConfigurationError
from egress_router.net.signed_messages import ANY_SOURCE, OLDEST, Opened, Signatures, parse_keys

ONE, TWO = "a" * 32, "b" * 40
#: Where the messages of these tests come from and go to.
HERE, THERE = "192.0.2.1", "192.0.2.2"


def sealed(sender: Signatures, body: bytes, source: str = HERE, to: str = THERE) -> bytes:
    return sender.seal(body, source, to)


def opened(receiver: Signatures, data: bytes, source: str = HERE, own: str = THERE) -> bytes | None:
    found = receiver.open(data, source, own)
    return None if found is None else found.body


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def machine(tmp_path: Path, text: str, clock: Clock, name: str = "keys") -> Signatures:
    path = tmp_path / name
    path.write_text(text)
    return Signatures(path, now=clock)


def test_what_is_signed_is_believed_once(tmp_path: Path) -> None:
    clock = Clock()
    sender, receiver = machine(tmp_path, ONE, clock, "a"), machine(tmp_path, ONE, clock, "b")
    first, second = sealed(sender, b'{"ask": 1}'), sealed(sender, b'{"ask": 2}')
    assert opened(receiver, first) == b'{"ask": 1}'
    assert opened(receiver, first) is None, "again"
    assert opened(receiver, second) == b'{"ask": 2}'
    assert receiver.refused == 1


@pytest.mark.parametrize("place", range(0, 110, 7))
def test_no_bit_can_be_changed(tmp_path: Path, place: int) -> None:
    clock = Clock()
    sender, receiver = machine(tmp_path, ONE, clock, "a"), machine(tmp_path, ONE, clock, "b")
    data = bytearray(sealed(sender, b'{"told": 1, "ready": true}'))
    data[place] ^= 1
    assert opened(receiver, bytes(data)) is None


def test_another_key_an_old_message_and_none_at_all(tmp_path: Path) -> None:
    clock = Clock()
    sender, receiver = machine(tmp_path, TWO, clock, "a"), machine(tmp_path, ONE, clock, "b")
    assert opened(receiver, sealed(sender, b"{}")) is None
    mine = sealed(machine(tmp_path, ONE, clock, "c"), b"{}")
    clock.now += OLDEST + 1
    assert opened(receiver, mine) is None
    for junk in (b"", b"{}", b"1 ", b"1 " + b"0" * 64, b"1 " + b"\xff" * 80, b"2 x"):
        assert opened(receiver, junk) is None
    assert receiver.refused == 8


def test_keys_change_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Added everywhere, then first everywhere, then the old one is gone: at each step all understand each other."""
    clock = Clock()
    told: list[str] = []
    monkeypatch.setattr("egress_router.net.signed_messages._READ_EVERY", 0.0)
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text(f"{ONE}\nunsigned\n")
    one, other = (Signatures(path, told.append, clock) for path in paths)
    for text in (f"{ONE}\n", f"{ONE}\n{TWO}\n", f"# new\n{TWO}\n{ONE}\n", f"{TWO}\n"):
        for path in paths:
            replacement = path.with_suffix(".new")
            replacement.write_text(text)
            replacement.replace(path)
            for sender, receiver in ((one, other), (other, one)):
                assert opened(receiver, sealed(sender, text.encode())) == text.encode()
    assert not told
    paths[0].write_text("short\n")
    assert opened(other, sealed(one, b"x")) == b"x"
    assert "the keys that were there stay in use" in told[0]
    assert "short" not in told[0].replace("too short", "")


def test_unsigned_is_accepted_where_a_line_says_so(tmp_path: Path) -> None:
    clock = Clock()
    assert opened(machine(tmp_path, f"{ONE}\nunsigned\n", clock), b'{"ask": 1}') == b'{"ask": 1}'
    assert opened(machine(tmp_path, ONE, clock), b'{"ask": 1}') is None


def test_a_file_without_good_keys(tmp_path: Path) -> None:
    for text, words in (("", "has no key"), ("unsigned", "has no key"), ("x" * 31, "31 bytes is too short")):
        with pytest.raises(ConfigurationError, match=words):
            parse_keys(text, "keys")
    with pytest.raises(ConfigurationError, match="No such file"):
        Signatures(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_text(f"{ONE}\n" * 2000)
    (tmp_path / "binary").write_bytes(b"\xff" * 40)
    for name, words in (("pipe", "named pipe"), ("long", "more than"), ("binary", "not text"), (".", "directory")):
        with pytest.raises(ConfigurationError, match=words):
            Signatures(tmp_path / name)


def test_the_word_of_one_is_not_that_of_another(tmp_path: Path) -> None:
    """Nor for another: who can read and send packets, and has no key, makes no living node of a dead one."""
    clock = Clock()
    node, asker, other = (machine(tmp_path, ONE, clock, name) for name in "abc")
    question = asker.open(sealed(node, b"question"), HERE, THERE)
    assert question == Opened(b"question", node.sender), "positive control"
    assert opened(other, sealed(node, b"question"), own="192.0.2.3") is None, "for another address"
    assert opened(other, sealed(node, b"question"), source="192.0.2.3") is None, "from another address"
    assert opened(other, sealed(node, b"question", ANY_SOURCE), source="192.0.2.3"), "a controller's, from any"
    answer = partial(sealed, node, b"answer")
    assert opened(asker, answer(to=asker.sender)), "positive control"
    assert opened(asker, answer(to=other.sender)) is None, "an answer to another question"
    again = machine(tmp_path, ONE, clock, "b")
    assert opened(again, answer(to=asker.sender)) is None, "an answer to the process before this one"
    assert opened(asker, sealed(node, b"x", "2001:DB8:0::1"), source="2001:db8::1"), "one address, two spellings"


def test_a_clock_that_is_set_back(tmp_path: Path) -> None:
    """A node that boots with a clock an hour ahead is understood as soon as the clock is right."""
    clock, own = Clock(), Clock()
    sender, receiver = machine(tmp_path, ONE, own, "a"), machine(tmp_path, ONE, clock, "b")
    own.now += 3600
    assert opened(receiver, sealed(sender, b"x")) is None
    own.now -= 3600
    assert opened(receiver, sealed(sender, b"x")) == b"x"
    own.now -= 60
    assert opened(receiver, sealed(sender, b"y")) == b"y"
    own.now += 60 + 1
    data = sealed(sender, b"z")
    assert opened(receiver, data) == b"z"
    assert opened(receiver, data) is None, "again"


def test_the_first_key_comes_without_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step everybody understands everybody, those with the step before as well, asked and answered."""
    monkeypatch.setattr("egress_router.net.signed_messages._READ_EVERY", 0.0)
    clock = Clock()
    steps = [None, f"unsigned\n{ONE}\n", f"{ONE}\nunsigned\n", f"{ONE}\n"]
    for before, after in pairwise(steps):
        for asks, answers in product((before, after), repeat=2):
            one = None if asks is None else machine(tmp_path, asks, clock, "a")
            other = None if answers is None else machine(tmp_path, answers, clock, "b")
            question = b"{}" if one is None else sealed(one, b"{}")
            asked = Opened(question) if other is None else other.open(question, HERE, THERE)
            assert asked is not None, (asks, answers)
            assert asked.body == b"{}", (asks, answers)
            answer = b"[]" if other is None else other.seal(b"[]", THERE, asked.sender)
            heard = answer if one is None else opened(one, answer, THERE, HERE)
            assert heard == b"[]", (asks, answers)
