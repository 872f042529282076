"""Sets of names, addresses and ports as Squid's ACLs, short ones in squid.conf and long ones in files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from egress_router.model.http_policy import NOWHERE, from_number
from egress_router.model.http_regions import Span

#: Names of ACLs that Squid takes are shorter than 64 characters.
LONGEST_NAME = 50
#: Longer sets, in characters, get a file; Squid reads lines of up to 2,047.
LONGEST_LINE = 1000


class SquidSets:
    """Collects ``acl`` lines and files. ``families``: those that the pod has; Squid refuses addresses of others."""

    def __init__(self, directory: PurePosixPath, families: Sequence[int]) -> None:
        self._directory = directory
        self._families = families
        self._known: dict[tuple[str, str], str] = {}
        self._texts: dict[Span, str] = {}
        self._notes: set[str] = set()
        self.files: dict[str, str] = {}
        self.lines: list[str] = []

    def define(self, name: str, kind: str, entries: Sequence[str]) -> str:
        """Define a set once, in a file when it is long, and return the name it goes by."""
        body = "\n".join(entries) + "\n"
        if (kind, body) in self._known:
            return self._known[kind, body]
        if len(name) > LONGEST_NAME:
            name = f"set_{len(self._known)}"
        self._known[kind, body] = name
        if len(body) < LONGEST_LINE:
            self.lines.append(f"acl {name} {kind} {' '.join(entries)}")
        else:
            self.files[name] = body
            self.lines.append(f'acl {name} {kind} "{self._directory / name}"')
        return name

    def note(self, name: str, text: str) -> str:
        """Define an ACL that always matches and leaves a note for the access log; return its name."""
        if name not in self._notes:
            self._notes.add(name)
            self.lines.append(f"acl {name} annotate_transaction {text}")
        return name

    def ranges(self, ranges: Iterable[Span]) -> list[str]:
        """Return Squid's notation of ranges that hold one family each, without the addresses that lead nowhere."""
        return self.written(_without(ranges, sorted(NOWHERE)))

    def written(self, ranges: Iterable[Span]) -> list[str]:
        """Return Squid's notation of ranges that hold one family each."""
        return [text for span in ranges if (text := self._text(span))]

    def _text(self, span: Span) -> str:
        # Most ranges are in a dozen sets.
        if span not in self._texts:
            ends = [from_number(end) for end in dict.fromkeys(span)]
            self._texts[span] = "-".join(map(str, ends)) if ends[0].version in self._families else ""
        return self._texts[span]


def _without(ranges: Iterable[Span], holes: Sequence[int]) -> Iterator[Span]:
    for first, last in ranges:
        at = first
        for hole in holes:
            if at <= hole <= last:
                if at < hole:
                    yield at, hole - 1
                at = hole + 1
        if at <= last:
            yield at, last
