"""Messages that only who has the key can make, change or send again."""

from __future__ import annotations

from pathlib import Path

import pytest

from egress_router.errors import ConfigurationError
from egress_router.net.signed_messages import OLDEST, Signatures, parse_keys

ONE, TWO = "a" * 32, "b" * 40


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
    first, second = sender.seal(b'{"ask": 1}'), sender.seal(b'{"ask": 2}')
    assert receiver.open(first) == b'{"ask": 1}'
    assert receiver.open(first) is None, "again"
    assert receiver.open(second) == b'{"ask": 2}'
    assert receiver.refused == 1


@pytest.mark.parametrize("place", range(0, 110, 7))
def test_no_bit_can_be_changed(tmp_path: Path, place: int) -> None:
    clock = Clock()
    sender, receiver = machine(tmp_path, ONE, clock, "a"), machine(tmp_path, ONE, clock, "b")
    sealed = bytearray(sender.seal(b'{"told": 1, "ready": true}'))
    sealed[place] ^= 1
    assert receiver.open(bytes(sealed)) is None


def test_another_key_an_old_message_and_none_at_all(tmp_path: Path) -> None:
    clock = Clock()
    sender, receiver = machine(tmp_path, TWO, clock, "a"), machine(tmp_path, ONE, clock, "b")
    assert receiver.open(sender.seal(b"{}")) is None
    mine = machine(tmp_path, ONE, clock, "c").seal(b"{}")
    clock.now += OLDEST + 1
    assert receiver.open(mine) is None
    for junk in (b"", b"{}", b"1 ", b"1 " + b"0" * 64, b"1 " + b"\xff" * 80, b"2 x"):
        assert receiver.open(junk) is None
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
                assert receiver.open(sender.seal(text.encode())) == text.encode()
    assert not told
    paths[0].write_text("short\n")
    assert other.open(one.seal(b"x")) == b"x"
    assert "the keys that were there stay in use" in told[0]
    assert "short" not in told[0].replace("too short", "")


def test_unsigned_is_accepted_where_a_line_says_so(tmp_path: Path) -> None:
    clock = Clock()
    assert machine(tmp_path, f"{ONE}\nunsigned\n", clock).open(b'{"ask": 1}') == b'{"ask": 1}'
    assert machine(tmp_path, ONE, clock).open(b'{"ask": 1}') is None


def test_a_file_without_good_keys(tmp_path: Path) -> None:
    for text, words in (("", "has no key"), ("unsigned", "has no key"), ("x" * 31, "31 bytes is too short")):
        with pytest.raises(ConfigurationError, match=words):
            parse_keys(text, "keys")
    with pytest.raises(ConfigurationError, match="No such file"):
        Signatures(tmp_path / "absent")
