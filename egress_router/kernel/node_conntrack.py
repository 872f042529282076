"""Cut connections, so that clients start new ones at once. See conntrack(8)."""

from __future__ import annotations

from egress_router.errors import ToolFailed
from egress_router.kernel.tool import run_tool
from egress_router.model.node import MARK_MASK, MARK_SHIFT


def cut_slot(slot: int) -> int:
    """Delete the connections that leave by a slot; return how many."""
    mark = f"{slot << MARK_SHIFT:#x}/{MARK_MASK:#x}"
    return sum(_delete(["--mark", mark, "-f", family]) for family in ("ipv4", "ipv6"))


def cut_egress_ip(ip: str) -> int:
    """Delete the connections that are translated to an egress IP; return how many."""
    return _delete(["-f", _family(ip), "--reply-dst", ip])


def _family(ip: str) -> str:
    return "ipv6" if ":" in ip else "ipv4"


def _delete(arguments: list[str]) -> int:
    try:
        return len(run_tool(["conntrack", "-D", *arguments]).splitlines())
    except ToolFailed as error:
        # conntrack ends with 1 when nothing matched.
        if "0 flow entries" in error.stderr:
            return 0
        raise
