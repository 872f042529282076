"""Prints the installed packages that nothing in a container of ours needs: images/trim purges them.

What is kept follows from dpkg's own records, so that no list here has to know how a release of Debian names its
libraries: the essential packages, Python, the packages given as arguments, and all that these depend on. What a
container never needs goes in any case, even if it is essential on a machine or a kept package depends on it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: Package management, Perl (and what is written in it), time zones, file systems, users and their passwords.
NEVER = frozenset(
    [
        *("adduser", "login", "login.defs", "passwd"),
        *("apt", "debconf", "init-system-helpers", "perl-base"),
        *("e2fsprogs", "logsave", "mount", "tzdata"),
    ]
)
#: What the images are for; all else that is wanted is essential or an argument.
ALWAYS = ("python3",)
FORMAT = r"${Package}\t${Essential}\t${Pre-Depends}, ${Depends}\t${Provides}\n"


@dataclass(frozen=True)
class Package:
    """A package of dpkg's status: each dependency is the names of which one is enough."""

    essential: bool
    dependencies: tuple[tuple[str, ...], ...]
    provides: tuple[str, ...]


def parse(shown: str) -> dict[str, Package]:
    """Return the packages in the output of ``dpkg-query -W -f FORMAT``, by name."""
    packages = {}
    for row in shown.splitlines():
        name, essential, dependencies, provides = row.split("\t")
        packages[name] = Package(
            essential == "yes",
            tuple(_names(one) for one in dependencies.split(",") if one.strip()),
            _names(provides, ","),
        )
    return packages


def _names(text: str, separator: str = "|") -> tuple[str, ...]:
    """Return the names in a list of alternatives or of provided packages, without versions and architectures."""
    found = (re.match(r"\s*([a-z0-9][a-z0-9+.-]*)", one) for one in text.split(separator))
    return tuple(one[1] for one in found if one)


def unneeded(packages: Mapping[str, Package], wanted: Iterable[str]) -> list[str]:
    """Return the names of what may go. Raises KeyError for a wanted package that is not installed."""
    providers: dict[str, list[str]] = {}
    for name, package in packages.items():
        for provided in (name, *package.provides):
            providers.setdefault(provided, []).append(name)
    kept: set[str] = set()
    queue = [name for name, package in packages.items() if package.essential and name not in NEVER] + list(wanted)
    while queue:
        name = queue.pop()
        if name in kept:
            continue
        kept.add(name)
        for alternatives in packages[name].dependencies:
            # All that are installed: which of them a program takes is not for us to know.
            found = (one for alternative in alternatives for one in providers.get(alternative, ()))
            queue += [one for one in found if one not in NEVER]
    return sorted(set(packages) - kept)


if __name__ == "__main__":
    shown = subprocess.run(["dpkg-query", "-W", "-f", FORMAT], stdout=subprocess.PIPE, text=True, check=True).stdout
    print("\n".join(unneeded(parse(shown), [*ALWAYS, *sys.argv[1:]])))
