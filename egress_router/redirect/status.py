"""How far the kernel is from the desired state, and what went through."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from egress_router.config.values import Address, HostName, Interface
from egress_router.daemon import running
from egress_router.net import capabilities
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.redirect.desired import desired_here
from egress_router.redirect.nat import choose_backend
from egress_router.redirect.setup import drift_lines
from egress_router.redirect.values import Counters, FlowOffload, RouterConfig


@dataclass(frozen=True, slots=True)
class Row:
    """A destination line and its traffic."""

    line: int
    rule: str
    counters: Counters


@dataclass(frozen=True, slots=True)
class Status:
    """What ``egress-router status`` shows; an empty ``drift`` is what should be.

    ``why_no_offload``: why established connections go by the rules; empty where a flow table takes them around, and
    packets and bytes of rows are without theirs. ``live`` is what the router that stays says of itself (State.as_json);
    None where none runs or it does not answer.
    """

    egress: str
    backend: str
    sources: tuple[Interface, ...]
    drift: tuple[str, ...]
    rows: tuple[Row, ...]
    why_no_offload: str = ""
    live: dict[str, Any] | None = None


def read_status(config: RouterConfig) -> Status:
    """Read the status of the pod that this process is in. Raises EgressRouterError."""
    backend = choose_backend(config.backend, config.sources, config.flow_offload)
    # Legacy iptables is read through a raw socket.
    capabilities.require(
        ("NET_ADMIN", "NET_RAW") if backend.name == "iptables" else ("NET_ADMIN",), "reading the rules"
    )
    live = running.status(config.health_port)
    told = (live or {}).get("flow_offload", {})
    if told.get("used") is False:
        # What it has found out, or while it leaves, is another thing than what the kernel says now.
        config = replace(config, flow_offload=FlowOffload.OFF)
    desired = desired_here(replace(config, holds=_holds(config, live)), _answers(config, live))
    with Rtnetlink() as kernel:
        drift = drift_lines(kernel, desired, backend)
    why = told.get("why_not") or backend.why_no_offload(desired.translation)
    counters = backend.counters(desired.translation)
    rows = tuple(
        Row(rule.line, str(rule), counters.get(rule.line, Counters())) for rule in desired.translation.rules.all
    )
    sources = tuple(config.sources[family] for family in sorted(config.sources))
    return Status(desired.network.egress, backend.name, sources, tuple(drift), rows, why, live)


def _holds(config: RouterConfig, live: dict[str, Any] | None) -> bool:
    """Whether the router that stays says that it has its addresses; one of a pair that says nothing has none."""
    if config.pair is None:
        return True
    pair = (live or {}).get("pair")
    return bool(pair and pair["holding"])


def _answers(config: RouterConfig, live: dict[str, Any] | None) -> dict[HostName, tuple[Address, ...]] | None:
    """Return the addresses of names that the router which stays uses; None when nobody tells."""
    if live is None or not config.rules.names:
        return None
    known = live.get("names", {})
    return {name: tuple(map(ip_address, known.get(str(name), {}).get("addresses", ()))) for name in config.rules.names}
