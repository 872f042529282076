"""What the page of the redirect router shows and answers. See daemon/page."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from egress_router.config import fields
from egress_router.config.fields import Invalid
from egress_router.config.values import HostName, Protocol
from egress_router.daemon.page.level import Level
from egress_router.daemon.page.rates import Rates
from egress_router.daemon.page.view import AskForm, DestinationRow, PartRow, Reply, RouterView
from egress_router.errors import quoted
from egress_router.net.conntrack import fill
from egress_router.records import replace
from egress_router.redirect.daemon import Reconciler
from egress_router.redirect.explain import explain_redirect, sentence
from egress_router.redirect.pair.state import PairState
from egress_router.redirect.pair.values import Role
from egress_router.redirect.state import NameState, State
from egress_router.redirect.values import NamedFallback, NamedRedirect, Rule

KIND = "redirect"
#: Room for bytes behind each line's name, see ``counts``.
_BYTES = "bytes of "


def counts(live: Reconciler) -> dict[str, int]:
    """Return the connections of each destination by its text, and its bytes. Raises EgressRouterError."""
    found: dict[str, int] = {}
    traffic = live.counters()
    for text, counters in traffic.items():
        found[text] = counters.connections
    for text, counters in traffic.items():
        found[_BYTES + text] = counters.bytes
    return found


def redirect_view(live: Reconciler, rates: Rates) -> RouterView:
    """Return what is in force now. Raises EgressRouterError."""
    state, now = live.state, time.monotonic()
    config = live.config
    totals = rates.totals()
    entries, limit = fill()
    sources = ", ".join(str(source) for _, source in sorted(config.sources.items()))
    pair = state.pair
    standby = pair is not None and pair.role is Role.STANDBY and not pair.blocked and bool(pair.active_peers(now))
    return RouterView(
        kind=KIND,
        made=time.time(),
        figures=(
            (sources, "EGRESS_SOURCE"),
            (str(len(config.rules.all)), "destinations"),
            (str(entries), f"tracked connections of at most {limit}"),
            (str(state.repairs), "repairs"),
        ),
        standby=standby,
        # That it stands by for another one is no trouble; all else is.
        reasons=[reason for reason in state.reasons(now) if not (standby and reason.startswith("standby: "))],
        warnings=state.warnings(),
        destinations=[_row(rule, state, totals, rates, now) for rule in config.rules.all],
        parts=list(_parts(live)),
        reloaded=state.listed.at,
        change=state.listed.change,
        refused=state.reload_error,
    )


def _row(rule: Rule, state: State, totals: Mapping[str, int], rates: Rates, now: float) -> DestinationRow:
    text = str(rule)
    known = state.names.get(rule.name, NameState()) if isinstance(rule, NamedRedirect | NamedFallback) else None
    row = DestinationRow(
        line=rule.line,
        text=text,
        state="redirected",
        count=totals.get(text, 0),
        size=totals.get(_BYTES + text, 0),
        rates=rates.of(text),
    )
    return row if known is None else _named(row, known, now)


def _named(row: DestinationRow, known: NameState, now: float) -> DestinationRow:
    age = None if known.answered is None else now - known.answered
    addresses = tuple(map(str, known.addresses))
    if not known.addresses:
        return replace(row, level=Level.CUT_OFF, state=f"dropped: {known.problem}", age=age)
    if known.problem:
        return replace(row, level=Level.DEGRADED, state=f"old answer: {known.problem}", addresses=addresses, age=age)
    return replace(row, addresses=addresses, age=age)


def _parts(live: Reconciler) -> Iterator[PartRow]:
    state = live.state
    yield PartRow(
        f"interface {state.interface}",
        Level.FINE if state.carrier else Level.CUT_OFF,
        "has a carrier" if state.carrier else "has no carrier",
    )
    if state.pair is not None:
        yield pair_row(state.pair)
    for address, gateway in list(state.gateways.items()):
        yield PartRow(f"gateway {address}", *_reached(gateway.up, "answers", "does not answer"))
    for check, reached in list(state.checks.items()):
        yield PartRow(f"check {check}", *_reached(reached.up, "accepts connections", "does not accept connections"))
    for address, (mac, until) in list(state.conflicts.items()):
        if time.monotonic() < until:
            yield PartRow(f"source {address}", Level.CUT_OFF, f"{mac} claims it too")
    yield PartRow(
        f"rules of {live.backend.name}",
        Level.CUT_OFF if state.problem else Level.FINE,
        state.problem or "as they shall be",
    )
    why = live.why_no_offload()
    yield PartRow(
        "flow offload",
        Level.FINE,
        f"not used, {why}" if why else "in use: rates and bytes are without those of offloaded connections",
    )


def pair_row(pair: PairState) -> PartRow:
    """Return what the router is in its pair, and why. A standby is not ready, and as it should be all the same."""
    level = Level.CUT_OFF if pair.role is Role.FAULT or pair.blocked else Level.FINE
    return PartRow(f"pair {pair.config.number}", level, f"{pair.role}: {pair.why}")


def _reached(up: bool | None, good: str, bad: str) -> tuple[Level, str]:
    if up is None:
        return Level.DEGRADED, "not known yet"
    return (Level.FINE, good) if up else (Level.CUT_OFF, bad)


def ask_form(live: Reconciler) -> AskForm:
    """Return what can be asked: PORT or PORT/PROTOCOL, by the destinations in force."""
    return AskForm("8080/tcp", "", answer=lambda target, _: ask(live, target))


def ask(live: Reconciler, target: str) -> list[Reply]:
    """Return what happens to a new connection to a port of the pod, for each family and protocol that fits."""
    port_text, _, protocol = target.lower().partition("/")
    port = fields.port(port_text)
    if isinstance(port, Invalid) or (protocol and protocol not in list(Protocol)):
        return [Reply(None, f"{quoted(target)} is not PORT or PORT/PROTOCOL, such as 8080/tcp")]
    config, state = live.config, live.state
    found = []
    for family in sorted(config.sources):
        for name in [protocol] if protocol else list(Protocol):
            decision = explain_redirect(config.rules, family, Protocol(name), port)
            text = sentence(config, decision)
            if decision.name is not None:
                text += f"; {_addresses(decision.name, state)}"
            found.append(Reply(decision.rule is not None, text))
    return found


def _addresses(name: HostName, state: State) -> str:
    known = state.names.get(name, NameState())
    return f"now {', '.join(map(str, known.addresses))}" if known.addresses else f"dropped now: {known.problem}"
