"""What agents tell each other, signed: a datagram that nobody without the key can make, change or send again.

HMAC-SHA256 (RFC 2104, FIPS 180-4). A datagram is ``1 SIGNATURE BODY``; the signature, in hexadecimal digits, is that of
the body, which names its sender's process and is numbered by it.
"""

from __future__ import annotations

import hmac
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from egress_router.errors import ConfigurationError, Problem

#: A line of a file of keys after which messages without a signature are taken as well.
UNSIGNED = "unsigned"
#: A key has so many bytes at least: as many as a signature by SHA-256 is worth.
SHORTEST_KEY = 32
_VERSION = b"1 "
_DIGITS = 64
#: Senders whose last number is remembered; the longest silent one is forgotten.
_MOST_SENDERS = 4096
#: A message may be so old, by the clocks of both machines; seconds.
OLDEST = 300.0
#: The file is looked at again after so long; seconds.
_READ_EVERY = 2.0


@dataclass(frozen=True, slots=True)
class Keys:
    """The first key signs, each is accepted. ``unsigned``: so is what has no signature."""

    keys: tuple[bytes, ...]
    unsigned: bool = False


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
    return Keys(tuple(key for _, key in keys), len(keys) < len(words))


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
        self._keys = self._load()

    def _load(self) -> Keys:
        try:
            text = self.path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not text"
            raise ConfigurationError([Problem(str(self.path), None, "", f"cannot be read: {reason}")]) from error
        return parse_keys(text, str(self.path))

    def _refresh(self) -> None:
        """Read the file again if it is another one by now."""
        at = time.monotonic()
        if at - self._read[0] < _READ_EVERY:
            return
        try:
            found = self.path.stat()
            identity: object = (found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError:
            identity = None
        changed = identity != self._read[1]
        self._read = (at, identity)
        if changed:
            try:
                self._keys = self._load()
            except ConfigurationError as error:
                self.log(f"the keys that were there stay in use: {error}")

    def seal(self, body: bytes) -> bytes:
        """Return a message with its signature."""
        self._refresh()
        self._number = max(self._number + 1, int(self.now() * 1e6))
        data = f"{self.sender} {self._number} ".encode() + body
        return _VERSION + hmac.new(self._keys.keys[0], data, "sha256").hexdigest().encode() + b" " + data

    def open(self, data: bytes) -> bytes | None:
        """Return the message without its signature; None when it is not to be believed: it is not signed with a key of
        ours, was heard before, or is too old.
        """
        self._refresh()
        body = self._checked(data)
        if body is None:
            self.refused += 1
        return body

    def _checked(self, data: bytes) -> bytes | None:
        if not data.startswith(_VERSION):
            return data if self._keys.unsigned else None
        start = len(_VERSION) + _DIGITS
        signature, rest = data[len(_VERSION) : start], data[start + 1 :]
        signed = (hmac.new(key, rest, "sha256").hexdigest().encode() for key in self._keys.keys)
        if not any(hmac.compare_digest(signature, one) for one in signed):
            return None
        sender, _, rest = rest.partition(b" ")
        text, _, body = rest.partition(b" ")
        number = int(text)
        if abs(self.now() - number / 1e6) > OLDEST or number <= self._last.get(sender.decode(), 0):
            return None
        self._last[sender.decode()] = number
        self._last.move_to_end(sender.decode())
        while len(self._last) > _MOST_SENDERS:
            self._last.popitem(last=False)
        return body
