"""Heads of sections, ``[from 10.1.0.0/16, office]``, and names for networks, ``[network office = 192.0.2.0/24]``."""

from __future__ import annotations

import re

from egress_router.config.inputs import Line, Problems, SourceText
from egress_router.policy.networks import Bad, parse_network
from egress_router.policy.values import Block, Section

EXPECTED_HEAD = (
    "[from NETWORK, …] with networks, names given to networks, or any; [network NAME = NETWORK, …] gives a name"
)
ANYBODY = "any"
#: Each is a branch of the compiled policy at least.
MAX_SECTIONS = 500
#: Networks of all heads together.
MAX_NETWORKS = 10_000
_NAME = re.compile(r"[a-z](?:[a-z0-9_-]*[a-z0-9])?")


def is_head(text: str) -> bool:
    """Return whether a line is meant as a head: in brackets, and no address of IPv6 with or without ports."""
    return text.startswith("[") and (any(map(str.isspace, text)) or (text.endswith("]") and ":" not in text))


class Heads:
    """Reads the heads of one policy, in order. ``sections`` has those so far; lines are in the one at ``place``."""

    def __init__(self, source: SourceText, problems: Problems) -> None:
        self._source = source
        self._problems = problems
        self._names: dict[str, tuple[Line, list[Block]]] = {}
        self._used: set[str] = set()
        self._networks = 0
        self.sections = [Section()]

    @property
    def place(self) -> int:
        """The place of the section that is open."""
        return len(self.sections) - 1

    def read(self, raw: Line) -> None:
        """Take a head in; what is wrong with it is noted."""
        try:
            self._read(raw)
        except Bad as bad:
            self._problems.error(self._source.variable, raw.number, raw.text, bad.message, bad.expected)

    def warn_unused(self, used: set[int]) -> None:
        """Note the names that no head has, and the sections that no line is in."""
        for name, (raw, _) in self._names.items():
            if name not in self._used:
                self._warn(raw.number, raw.text, f'names networks "{name}", which no head has')
        for place, section in enumerate(self.sections[1:], start=1):
            if place not in used:
                self._warn(section.number, section.text, "has no line: its clients may do nothing more by it")

    def _warn(self, number: int, text: str, message: str) -> None:
        self._problems.warn(self._source.variable, number, text, message)

    def _read(self, raw: Line) -> None:
        if not raw.text.endswith("]") or "[" in raw.text[1:] or "]" in raw.text[:-1]:
            raise Bad("is no head of a section", EXPECTED_HEAD)
        words = raw.text[1:-1].replace(",", " ").split()
        kind = words[0].lower() if words else ""
        if kind == "from":
            self._open(raw, words[1:])
        elif kind == "network" and (named := re.fullmatch(r"\S+\s+([^\s=]+)\s*=\s*(.*)", raw.text[1:-1].strip())):
            self._name(raw, named[1].lower(), named[2].replace(",", " ").split())
        else:
            raise Bad("is no head of a section", EXPECTED_HEAD)

    def _open(self, raw: Line, words: list[str]) -> None:
        # Also where it is wrong: what follows stands in a section of its own, and is read as such.
        self.sections.append(Section(raw.number, (), raw.text))
        if not words:
            raise Bad("has no network", EXPECTED_HEAD)
        if self.place > MAX_SECTIONS:
            raise Bad(f"is one more than {MAX_SECTIONS} sections", "fewer; one head may have many networks")
        if ANYBODY in map(str.lower, words):
            if len(words) > 1:
                raise Bad(f'has networks beside "{ANYBODY}"', f"[from {ANYBODY}] alone, or the networks alone")
            self.sections[-1] = Section(raw.number, None, raw.text)
            return
        blocks = [block for word in words for block in self._blocks(raw, word)]
        self._networks += len(blocks)
        if self._networks > MAX_NETWORKS:
            raise Bad(f"has the network after {MAX_NETWORKS} others", f"at most {MAX_NETWORKS} in all heads together")
        self.sections[-1] = Section(raw.number, tuple(dict.fromkeys(blocks)), raw.text)

    def _name(self, raw: Line, name: str, words: list[str]) -> None:
        if not _NAME.fullmatch(name) or name in (ANYBODY, "from", "network"):
            raise Bad(f'has "{name}" for a name', "letters, digits, - and _, beginning with a letter; not any")
        if name in self._names:
            raise Bad(f'names "{name}", as line {self._names[name][0].number} does', "one line a name")
        if not words:
            raise Bad("has no network", EXPECTED_HEAD)
        self._names[name] = (raw, [])
        self._names[name][1].extend(self._block(raw, word) for word in words)

    def _blocks(self, raw: Line, word: str) -> list[Block]:
        name = word.lower()
        if not _NAME.fullmatch(name):
            return [self._block(raw, word)]
        if name not in self._names:
            raise Bad(f'has "{word}", which is no network and not named above', EXPECTED_HEAD)
        self._used.add(name)
        return self._names[name][1]

    def _block(self, raw: Line, word: str) -> Block:
        try:
            return parse_network(word, self._source, raw, self._problems)
        except Bad as bad:
            raise Bad(f'has "{word}", which {bad.message}', "networks such as 10.1.0.0/16 and fd01::/48") from None
