"""What agents tell each other, signed: a datagram that nobody without the key can make, change or send again, to
somebody else or as somebody else.

HMAC-SHA256 (RFC 2104, FIPS 180-4). A datagram is ``1 SIGNATURE SENDER NUMBER SOURCE TO BODY``; the signature, in
hexadecimal digits, is that of all behind it. SENDER names a process, which numbers what it sends; SOURCE is the address
that it sends from, ``-`` where it has none of its own; TO is whom it is for: an address, or the SENDER of what is
answered.
"""

from __future__ import annotations

import errno
import hmac
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from egress_router.config.files import read_regular, stamp_of
from egress_router.errors import ConfigurationError, Problem

#: A line of a file of keys: messages without a signature are taken as well; as the first one, nothing is signed.
UNSIGNED = "unsigned"
#: A key has so many bytes at least: as many as a signature by SHA-256 is worth.
SHORTEST_KEY = 32
#: A file of keys is not longer; bytes.
_MOST_BYTES = 1 << 16
_VERSION = b"1 "
_DIGITS = 64
#: SENDER, NUMBER, SOURCE and TO.
_FIELDS = 4
#: Senders whose last number is remembered; the longest silent one is forgotten.
_MOST_SENDERS = 4096
#: A message may be so old, by the clocks of both machines; seconds.
OLDEST = 300.0
#: The source of those that send from any address.
ANY_SOURCE = "-"
#: Numbers that are so far ahead of the clock were given before it was set back; seconds.
_AHEAD = 5.0
#: The file is looked at again after so long; seconds.
_READ_EVERY = 2.0


@dataclass(frozen=True, slots=True)
class Keys:
    """The first key signs, each is accepted. ``unsigned``: so is what has no signature. ``signs``: whether anything is
    signed but the answers to what is.
    """

    keys: tuple[bytes, ...]
    unsigned: bool = False
    signs: bool = True


@dataclass(frozen=True, slots=True)
class Opened:
    """A message that is believed; ``sender`` is the process that signed it, empty when nobody did."""

    body: bytes
    sender: str = ""


def parse_keys(text: str, name: str) -> Keys:
    """Return the keys of a file: one on each line, blank lines and those with # in front left out. Raises
    ConfigurationError; no message shows a key.
    """
    lines = [line.strip() for line in text.splitlines()]
    words = [(number, line) for number, line in enumerate(lines, start=1) if line and not line.startswith("#")]
    keys = [(number, line.encode()) for number, line in words if line != UNSIGNED]
    problems = [
        Problem(name, number, "", f"a key of {len(key)} bytes is too short", f"{SHORTEST_KEY} or more")
        for number, key in keys
        if len(key) < SHORTEST_KEY
    ]
    if not keys:
        problems.append(Problem(name, None, "", "has no key", "one on each line; `openssl rand -hex 32` makes one"))
    if problems:
        raise ConfigurationError(problems)
    return Keys(tuple(key for _, key in keys), len(keys) < len(words), words[0][1] != UNSIGNED)


@dataclass(slots=True)
class Signatures:
    """Signs and checks with the keys of a file, which is read again when it changes: a file that cannot be read, or has
    a mistake, leaves the keys that were there. ``refused`` counts messages that were not believed.
    """

    path: Path
    log: Callable[[str], None] = lambda _: None
    now: Callable[[], float] = time.time
    refused: int = 0
    #: Names this process to others.
    sender: str = field(default_factory=lambda: os.urandom(8).hex())
    _keys: Keys = field(init=False)
    _read: tuple[float, object] = (float("-inf"), None)
    _last: OrderedDict[str, int] = field(default_factory=OrderedDict)
    _number: int = 0

    def __post_init__(self) -> None:
        """Read the file. Raises ConfigurationError."""
        # The stamp comes first: what changes between the two is read again.
        self._read = (float("-inf"), self._stamp())
        self._keys = self._load()

    def _load(self) -> Keys:
        try:
            data = read_regular(self.path, _MOST_BYTES + 1)
            if len(data) > _MOST_BYTES:
                raise OSError(errno.EFBIG, f"it has more than {_MOST_BYTES} bytes")
            text = data.decode()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigurationError([Problem(str(self.path), None, "", f"cannot be read: {reason}")]) from error
        return parse_keys(text, str(self.path))

    def _stamp(self) -> object:
        try:
            return stamp_of(self.path)
        except OSError:
            return None

    def _refresh(self) -> None:
        """Read the file again if it is another one by now."""
        at = time.monotonic()
        if at - self._read[0] < _READ_EVERY:
            return
        stamp = self._stamp()
        changed = stamp != self._read[1]
        self._read = (at, stamp)
        if changed:
            try:
                self._keys = self._load()
            except ConfigurationError as error:
                self.log(f"the keys that were there stay in use: {error}")

    def seal(self, body: bytes, source: str, to: str) -> bytes:
        """Return a message with its signature: from the address ``source`` (ANY_SOURCE: from any), to an address, or in
        answer to the sender ``to`` (empty: of what has no signature).
        """
        self._refresh()
        if not to or (not self._keys.signs and _is_address(to)):
            return body
        now = int(self.now() * 1e6)
        if self._number - now > _AHEAD * 1e6:
            # The clock was set back. To others such a number is of another time, and a lower one was heard before: so
            # this is another sender from now on.
            self.sender, self._number = os.urandom(8).hex(), 0
        self._number = max(self._number + 1, now)
        data = f"{self.sender} {self._number} {_canonical(source)} {_canonical(to)} ".encode() + body
        return _VERSION + hmac.new(self._keys.keys[0], data, "sha256").hexdigest().encode() + b" " + data

    def open(self, data: bytes, source: str, own: str) -> Opened | None:
        """Return the message that came from the address ``source`` to the address ``own``; None when it is not to be
        believed: it is not signed with a key of ours, is another's word or for somebody else, was heard before, or is
        too old.
        """
        self._refresh()
        opened = self._checked(data, _canonical(source), (_canonical(own), self.sender))
        if opened is None:
            self.refused += 1
        return opened

    def _checked(self, data: bytes, source: str, own: tuple[str, ...]) -> Opened | None:
        if not data.startswith(_VERSION):
            return Opened(data) if self._keys.unsigned else None
        start = len(_VERSION) + _DIGITS
        signature, rest = data[len(_VERSION) : start], data[start + 1 :]
        signed = (hmac.new(key, rest, "sha256").hexdigest().encode() for key in self._keys.keys)
        if not any(hmac.compare_digest(signature, one) for one in signed):
            return None
        parts = rest.split(b" ", _FIELDS)
        try:
            sender, text, said_source, to = (part.decode("ascii") for part in parts[:_FIELDS])
            number, body = int(text), parts[_FIELDS]
        except (ValueError, IndexError):
            # Who has the key has another version of this program.
            return None
        if said_source not in (source, ANY_SOURCE) or to not in own:
            return None
        if abs(self.now() - number / 1e6) > OLDEST or number <= self._last.get(sender, 0):
            return None
        self._last[sender] = number
        self._last.move_to_end(sender)
        while len(self._last) > _MOST_SENDERS:
            self._last.popitem(last=False)
        return Opened(body, sender)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _canonical(text: str) -> str:
    """Return an address in the one way that everybody writes it, without a zone; anything else as it is."""
    try:
        return str(ip_address(text.partition("%")[0]))
    except ValueError:
        return text
