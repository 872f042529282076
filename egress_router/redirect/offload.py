"""Whether established connections go around the rules, by a flow table of the kernel, and why not."""

from __future__ import annotations

from threading import Thread
from typing import Any

from egress_router.errors import EgressRouterError, PlatformError
from egress_router.net.nft.flow_probe import why_no_flow_table

OFF = "EGRESS_FLOW_OFFLOAD=off"
NOT_WITH_IPTABLES = "flow tables are nftables', and the rules are those of iptables (EGRESS_NAT_BACKEND=nftables)"
IDLE = "nothing new is redirected"
LEAVING = "the router leaves"


class Kernel:
    """Asks the kernel once. It takes its time to undo what it was asked (10 ms and more where nothing else happens), so
    the question may run beside other work.
    """

    def __init__(self) -> None:
        self._asking: Thread | None = None
        self._why: str | None = None

    def ask(self) -> None:
        """Begin to ask, in the network namespace of this thread."""
        if self._asking is None:
            self._asking = Thread(target=self._ask, name="flow tables", daemon=True)
            self._asking.start()

    def why_not(self) -> str:
        """Return why there are no flow tables, waiting for the answer; empty where there are."""
        self.ask()
        if self._asking is not None:
            self._asking.join()
        return "the kernel could not be asked, see the log" if self._why is None else self._why

    def _ask(self) -> None:
        try:
            self._why = why_no_flow_table()
        except EgressRouterError as error:
            self._why = str(error)


def offload_json(why: str) -> dict[str, Any]:
    """Return whether established connections go around the rules, ``why`` they do not, as `status` shows it."""
    return {"flow_offload": {"used": not why, "why_not": why}}


def refuse_without_offload(why: str) -> None:
    """Raise PlatformError with the reason why there is no offload, if there is one: it was asked for."""
    if why:
        raise PlatformError(
            f"EGRESS_FLOW_OFFLOAD=on, and {why}. With `auto` the router does without; or run the pod on a node whose "
            "kernel has flow tables (modules nf_flow_table_inet, nft_flow_offload and nft_fib_inet)"
        )
