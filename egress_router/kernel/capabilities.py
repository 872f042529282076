"""Which Linux capabilities this process has. See capabilities(7)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from egress_router.errors import CapabilityError

#: linux/capability.h
NUMBERS = {"NET_ADMIN": 12, "NET_RAW": 13, "SYS_PTRACE": 19, "SYS_ADMIN": 21}


def effective() -> frozenset[str]:
    """Return those of NUMBERS that are in the effective set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            bits = int(line.split()[1], 16)
            return frozenset(name for name, number in NUMBERS.items() if bits >> number & 1)
    return frozenset()


def require(names: Iterable[str], purpose: str) -> None:
    """Raise CapabilityError naming every capability of ``names`` that is missing and the manifest field to set."""
    missing = sorted(set(names) - effective())
    if missing:
        raise CapabilityError(
            f"{purpose} needs {' and '.join(missing)}; grant with "
            f"securityContext.capabilities.add: [{', '.join(missing)}], or privileged: true"
        )
