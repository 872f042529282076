"""Rules of one iptables table as values, printed as iptables-save(8) prints them, and how they differ in the words of
iptables(8).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from egress_router.records import dataclass


@dataclass(frozen=True, slots=True)
class IptMatch:
    """A match extension (``-m``) with its options in order; a value that starts with ``!`` inverts."""

    name: str
    options: tuple[tuple[str, str], ...]

    def words(self) -> list[str]:
        """Return the match as command-line words."""
        words = ["-m", self.name]
        for key, value in self.options:
            inverted = value.startswith("!")
            words += ["!"] * inverted + [f"--{key}", *value.removeprefix("!").split()]
        return words


@dataclass(frozen=True, slots=True)
class IptRule:
    """A rule. ``target`` is a verdict, a chain or a target extension with ``options``; ``goto`` jumps without return.

    ``source`` may start with ``!``. ``line`` is the configuration line whose traffic the rule's counters show, 0 for
    all of it; what an ACCEPT has counted was not redirected.
    """

    target: str
    options: tuple[tuple[str, str], ...] = ()
    protocol: str | None = None
    source: str | None = None
    destination: str | None = None
    in_interface: str | None = None
    out_interface: str | None = None
    matches: tuple[IptMatch, ...] = ()
    goto: bool = False
    line: int | None = None

    def __str__(self) -> str:
        words: list[str] = []
        named = (
            ("-s", self.source),
            ("-d", self.destination),
            ("-i", self.in_interface),
            ("-o", self.out_interface),
            ("-p", self.protocol),
        )
        for flag, value in named:
            if value is not None:
                words += ["!"] * value.startswith("!") + [flag, value.removeprefix("!")]
        for match in self.matches:
            words += match.words()
        words += ["-g" if self.goto else "-j", self.target]
        for key, value in self.options:
            words += [f"--{key}", *([value] if value else [])]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class IptTable:
    """Our part of a table: own chains, and the rules that stand first in the built-in ones.

    What chains of ``unknown`` should hold is not known; they are not compared.
    """

    name: str
    chains: dict[str, tuple[IptRule, ...]]
    hooks: tuple[tuple[str, IptRule], ...]
    unknown: frozenset[str] = frozenset()


def chain_lines(
    table: str, chain: str, rules: Sequence[IptRule], want: Sequence[Hashable], have: Sequence[Hashable]
) -> list[str]:
    """Return the differences of a chain. ``want`` is what stands for ``rules``, ``have`` what stands there."""
    if list(have) == list(want):
        return []
    there, known = set(have), set(want)
    missing = [rule for rule, data in zip(rules, want, strict=True) if data not in there]
    found = [f"- -t {table} -A {chain} {rule}" for rule in missing]
    count = sum(data not in known for data in have)
    if count:
        found.append(f"+ -t {table} {chain}: {count} rules that are not ours")
    if not missing and not count:
        found.append(f"- -t {table} {chain}: the order of its rules")
    return found


def hook_lines(table: IptTable) -> list[str]:
    """Return what to say of a table whose built-in chains do not jump to ours as they should."""
    return [f"- -t {table.name} -I {chain} {rule}" for chain, rule in table.hooks] or [
        f"+ -t {table.name}: a built-in chain jumps to a chain of ours"
    ]
