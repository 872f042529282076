"""Which Linux capabilities this process has. See capabilities(7)."""

from __future__ import annotations

from collections.abc import Iterable

from egress_router.config.files import read_kernel_text
from egress_router.errors import CapabilityError
from egress_router.net.netns import may_look_at
from egress_router.net.oserror import translating

#: linux/capability.h
NUMBERS = {"NET_ADMIN": 12, "NET_RAW": 13, "SYS_PTRACE": 19, "SYS_ADMIN": 21}


def effective() -> frozenset[str]:
    """Return those of NUMBERS that are in the effective set."""
    with translating("read the capabilities of this process"):
        text = read_kernel_text("/proc/self/status")
    for line in text.splitlines():
        if line.startswith("CapEff:"):
            bits = int(line.split()[1], 16)
            return frozenset(name for name, number in NUMBERS.items() if bits >> number & 1)
    return frozenset()


def require(names: Iterable[str], purpose: str) -> None:
    """Raise CapabilityError naming every capability of ``names`` that is missing and the manifest field to set."""
    missing = sorted(set(names) - effective())
    if missing:
        creating = any(name.startswith("SYS_") for name in missing)
        hint = " (an interface that was made for the pod needs neither SYS_ADMIN nor SYS_PTRACE)" if creating else ""
        raise CapabilityError(
            f"{purpose} needs {' and '.join(missing)}; grant with "
            f"securityContext.capabilities.add: [{', '.join(missing)}], or privileged: true{hint}"
        )


def to_enter(netns: str) -> tuple[str, ...]:
    """Return what opening sockets in the network namespace at ``netns`` needs.

    setns(2) takes SYS_ADMIN; looking at another process's ``/proc/PID/ns`` takes SYS_PTRACE, unless that process has
    no capability that we lack (ptrace(2)).
    """
    return ("SYS_ADMIN",) if may_look_at(netns) else ("SYS_ADMIN", "SYS_PTRACE")
