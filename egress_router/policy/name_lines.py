"""Lines of the policy by host name, to find in a few steps which of them a name has to do with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from egress_router.policy.values import (
    Name,
    PolicyLine,
)


def suffixes(name: str) -> Iterator[str]:
    """Yield the name itself and every domain above it, the root ("") last."""
    yield name
    while name:
        name = name.partition(".")[2]
        yield name


@dataclass(slots=True)
class NameLines:
    """Lines by name. ``*`` stands at the root with all names under it."""

    exact: dict[str, list[PolicyLine]] = field(default_factory=dict)
    under: dict[str, list[PolicyLine]] = field(default_factory=dict)

    def add(self, line: PolicyLine) -> None:
        """Add a line about a name or about everything."""
        if isinstance(line.target, Name) and not line.target.subdomains:
            self.exact.setdefault(line.target.name, []).append(line)
        else:
            name = line.target.name if isinstance(line.target, Name) else ""
            self.under.setdefault(name, []).append(line)

    def covering(self, name: str, subdomains: bool) -> Iterator[PolicyLine]:
        """Yield the lines that match the name (with ``subdomains``: and everything under it)."""
        if not subdomains:
            yield from self.exact.get(name, ())
        for suffix in suffixes(name):
            yield from self.under.get(suffix, ())

    def first(self, host: str, port: int) -> PolicyLine | None:
        """Return the first line that matches a host name at a port."""
        matching = (line for line in self.covering(host, subdomains=False) if port in line.ports)
        return min(matching, key=lambda line: line.number, default=None)
