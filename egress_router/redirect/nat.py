"""What a NAT backend does; iptables and nftables obey the same contract tests."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

from egress_router.config.values import Family, HostName
from egress_router.net.iptables.platform import available_families
from egress_router.redirect.values import Backend, Counters, FlowOffload, Translation


class NatBackend(Protocol):
    """Puts a Translation into the kernel and tells what is there."""

    name: str

    def apply(self, desired: Translation) -> bool:
        """Make the kernel do ``desired``, one transaction per table and family; return whether anything changed.

        Nothing is written when all is in place. What belongs to others is never touched. Everything is read back and
        compared afterwards. Raises PlatformError, and StateMismatch when what was read back is something else.
        """
        ...

    def repair(self, desired: Translation) -> list[str]:
        """Do as ``apply``, and return as ``drift`` does what was different before."""
        ...

    def update_targets(self, desired: Translation, names: Collection[HostName]) -> None:
        """Put the present answers for ``names`` in place by one transaction per family, where nothing else has changed
        since ``apply``. Only the rules that answers change are written and looked at. Raises PlatformError, and
        StateMismatch: then ``apply`` may help.
        """
        ...

    def drift(self, desired: Translation) -> list[str]:
        """Return a unified diff, desired against actual; empty when they are the same. Where the answers for names are
        not known, any will do. Raises PlatformError.
        """
        ...

    def counters(self, desired: Translation) -> dict[int, Counters]:
        """Return the traffic of each configuration line. Raises PlatformError."""
        ...

    def remove(self) -> None:
        """Take away everything of ours. Raises PlatformError."""
        ...

    def cannot_offload(self) -> str:
        """Return why established connections cannot go around the rules here, whatever is desired; empty where they
        can. Waits for the kernel's answer.
        """
        ...

    def why_no_offload(self, desired: Translation) -> str:
        """Return why established connections do not go around the rules of ``desired``; empty where they do."""
        ...


def choose_backend(wanted: Backend, families: Iterable[Family], offload: FlowOffload = FlowOffload.OFF) -> NatBackend:
    """Return the backend; ``auto`` takes iptables where the kernel offers legacy iptables for all ``families``, those
    of EGRESS_SOURCE, and nothing but nftables will do for ``offload``. Unless that is off, the kernel is
    being asked about flow tables afterwards.
    """
    free = wanted is Backend.AUTO and offload is not FlowOffload.ON
    if wanted is Backend.IPTABLES or (free and set(families) <= set(available_families())):
        from egress_router.redirect.iptables_backend import IptablesBackend

        return IptablesBackend()
    from egress_router.redirect.nft_backend import Nftables

    backend = Nftables()
    if offload is not FlowOffload.OFF:
        backend.kernel.ask()
    return backend
