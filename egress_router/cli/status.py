"""``egress-router status``."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

import click

from egress_router.cli.once import Verb
from egress_router.cli.output import print_json, table
from egress_router.cli.sources import read_pods_in_force, source_options
from egress_router.daemon import running
from egress_router.errors import UsageError
from egress_router.redirect.offload import offload_json
from egress_router.redirect.status import Status, read_status

DRIFT = 1
WATCH_SECONDS = 2.0


@click.command(
    "status",
    cls=Verb,
    epilog="""
    \b
    Examples:
      egress-router status
      egress-router status -o json
    """,
)
@source_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--watch", is_flag=True, help="Show it again every two seconds, until interrupted.")
def command(env_file: str | None, manifests: tuple[str, ...], output: str, watch: bool) -> int:
    """Compare the desired state with the kernel's, and show the traffic of each destination line.

    Exit code 1 when they differ, or when the router has refused its list. Needs NET_ADMIN to read the rules, and
    NET_RAW too for those of iptables. In the container of a proxy it shows what the proxy says of itself.
    """
    (source, pod), *others = read_pods_in_force(env_file, manifests, tell=False)
    if others:
        names = ", ".join([source.name, *(other.name for other, _ in others)])
        raise UsageError(f"status compares one pod with the network it runs in, and the manifest has several: {names}")
    if pod.router is None and source.here and (live := running.status(running.port_of(os.environ))) is not None:
        return proxy_status(live, output)
    if pod.router is None:
        raise UsageError(f"{source.name} has no variables of the router (EGRESS_GATEWAY …)")
    while True:
        status = read_status(pod.router)
        if watch:
            click.clear()
        if output == "json":
            print_json(as_json(status))
        else:
            click.echo(as_text(status))
        if not watch:
            return DRIFT if status.drift or (status.live or {}).get("reload_error") else 0
        time.sleep(WATCH_SECONDS)


def proxy_status(live: dict[str, Any], output: str) -> int:
    """Show what a proxy says of itself; its network is the init container's, whose variables are not here."""
    if output == "json":
        print_json(live)
    else:
        lines = ["ok: ready" if live["ready"] else "not ready: " + "; ".join(live["reasons"])]
        if live.get("refused"):
            lines.append(f"the list is refused, and the one before it is in force: {live.get('last_error', '')}")
        numbers = ("generation", "reloads", "reload_failures", "restarts", "draining")
        lines.append(", ".join(f"{name.replace('_', ' ')}: {live[name]}" for name in numbers if name in live))
        click.echo("\n".join(lines))
    return 0 if live["ready"] and not live.get("refused") else DRIFT


def as_json(status: Status) -> dict[str, Any]:
    """Return the status as plain values."""
    return {
        "state": "drift" if status.drift else "ok",
        "drift": list(status.drift),
        "egress_interface": status.egress,
        "backend": status.backend,
        **offload_json(status.why_no_offload),
        "live": status.live,
        "sources": [str(source) for source in status.sources],
        "destinations": [
            {
                "line": row.line,
                "rule": row.rule,
                "connections": row.counters.connections,
                "packets": row.counters.packets,
                "bytes": row.counters.bytes,
            }
            for row in status.rows
        ],
    }


def as_text(status: Status) -> str:
    """Return the status for a person: problems first, then the destinations."""
    sources = ", ".join(map(str, status.sources))
    pair = (status.live or {}).get("pair")
    doing = "leaving" if pair is None or pair["holding"] else "ready to leave"
    lines = [f"{doing} by {status.egress} with {sources} ({status.backend})"]
    if status.drift:
        lines = ["drift: the kernel is not as desired (- desired, + actual)", *(f"  {i}" for i in status.drift), *lines]
    else:
        lines[0] = "ok: " + lines[0]
    if status.live is not None:
        lines = [*live_problems(status.live), *lines, *live_lines(status.live)]
    if status.rows:
        lines.append(_offload_line(status.why_no_offload))
        rows = [("LINE", "DESTINATION", "CONNECTIONS", "PACKETS", "BYTES")]
        for row in status.rows:
            counters = row.counters
            numbers = (str(counters.connections), str(counters.packets), str(counters.bytes))
            rows.append((str(row.line), row.rule, *numbers))
        lines += ["", table(rows)]
    return "\n".join(lines)


def _offload_line(why_not: str) -> str:
    if why_not:
        return f"flow offload: not used, {why_not}"
    return "flow offload: in use; packets and bytes below are without those of offloaded connections"


def live_problems(live: dict[str, Any]) -> list[str]:
    """Return what is wrong with a router that stays, a line each."""
    found = [f"not ready: {reason}" for reason in live["reasons"]]
    if live["reload_error"]:
        found.append(f"the last reload failed, the destinations before it are in force: {live['reload_error']}")
    return found


def live_lines(live: dict[str, Any]) -> list[str]:
    """Return what a router that stays says of itself."""
    found = [f"gateway {address}: {'answers' if up else 'does not answer'}" for address, up in live["gateways"].items()]
    found += [f"check {to}: {'accepts' if up else 'does not accept'} connections" for to, up in live["checks"].items()]
    found += _pair_lines(live.get("pair"))
    found += [_name_line(name, item) for name, item in live.get("names", {}).items()]
    last = live["last_reload"]
    when = "none yet" if last is None else datetime.fromtimestamp(last, UTC).isoformat(sep=" ", timespec="seconds")
    found.append(f"last reload: {when} ({live['reloads']} ok, {live['reload_failures']} failed)")
    found.append(f"repairs: {live['repairs']}, claims of our address by others: {live['conflicts']}")
    return found


def _pair_lines(pair: dict[str, Any] | None) -> list[str]:
    if pair is None:
        return []
    since = datetime.fromtimestamp(pair["since"], UTC).isoformat(sep=" ", timespec="milliseconds")
    found = [f"pair {pair['number']}: {pair['role']} since {since} ({pair['why']}), {pair['changes']} changes"]
    for mac, peer in pair["peers"].items():
        age = peer["heard_seconds_ago"]
        heard = "has said that it stops" if age is None else f"was heard {age:.1f} s ago"
        stranger = "" if peer["same_source"] else ", has another EGRESS_SOURCE"
        found.append(f"peer {mac} ({peer['address']}, priority {peer['priority']}{stranger}) {heard}")
    for address, twin in pair["twins"].items():
        apart = f", its {' and '.join(twin['differs'])} are others" if twin["differs"] else ""
        found.append(f"peer {address}: " + (twin["problem"] or f"{twin['role']}{apart}"))
    if pair["both_active"]:
        found.append(f"adverts of another active router while active: {pair['both_active']}")
    if pair.get("splits"):
        found.append(f"had by another in the egress network, not heard in the cluster's: {pair['splits']} times")
    return found


def _name_line(name: str, item: dict[str, Any]) -> str:
    addresses = ", ".join(item["addresses"]) or "no address"
    age = "never answered" if item["answer_age"] is None else f"answered {item['answer_age']:.0f} s ago"
    return f"name {name}: {addresses} ({age}{'; ' + item['problem'] if item['problem'] else ''})"
