"""`explain` for the HTTP proxy: what decides about a URL or ``host:port``, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from egress_router.http_proxy.settings import HttpSettings
from egress_router.http_proxy.targets import MANAGER_PATH, Target
from egress_router.policy.evaluate import evaluate, literal_address
from egress_router.policy.values import (
    Address,
    Block,
    Decision,
    Network,
    Policy,
    PolicyLine,
)


@dataclass(frozen=True, slots=True)
class Explanation:
    """``line`` decided, or None; ``text`` says it in a sentence. ``depends``: the answer of DNS may turn it."""

    allowed: bool
    line: PolicyLine | None
    text: str
    depends: bool = False


def explain_http(
    policy: Policy,
    asked: Target,
    addresses: Sequence[Address] = (),
    settings: HttpSettings | None = None,
    own: Sequence[Address] = (),
    cluster: Sequence[Network] = (),
) -> Explanation:
    """Say what the proxy does with a request. ``addresses``: what the name resolves to, when that is known.

    Without them the answer for a name is that by name, and ``depends`` says whether address lines or closed
    addresses may decide otherwise.
    """
    settings = settings or HttpSettings()
    if asked.invalid:
        return Explanation(False, None, f"denied: {asked.invalid}, which Squid answers with 400")
    if asked.manager:
        return Explanation(False, None, f"denied: {MANAGER_PATH} is Squid's cache manager, on any host")
    if asked.connect and asked.port not in settings.connect_ports:
        return Explanation(False, None, f"denied: {asked.port} is not one of EGRESS_HTTP_PROXY_CONNECT_PORTS")
    verdict = evaluate(policy, asked.host, asked.port, () if settings.parent else addresses, own, cluster)
    word = "allowed" if verdict.allowed else "denied"
    about = f" ({verdict.address})" if verdict.address and literal_address(asked.host) is None else ""
    if verdict.line:
        text = f'{word} by line {verdict.line.number} "{verdict.line.text}"{about}'
    else:
        text = f"{word}: {verdict.why}"
    if settings.parent:
        text += f"{', and goes on to ' + str(settings.parent) if verdict.allowed else ''}"
    if addresses or settings.parent or literal_address(asked.host) is not None:
        return Explanation(verdict.allowed, verdict.line, text)
    earlier = _address_lines(policy, asked.port, verdict.line, Decision.DENY if verdict.allowed else Decision.ALLOW)
    numbers = ", ".join(str(line.number) for line in earlier[:10]) + (" …" if len(earlier) > 10 else "")
    if verdict.allowed:
        lines = f" or that line {numbers} denies" if earlier else ""
        return Explanation(True, verdict.line, f"{text}, unless it resolves to an address that is closed{lines}", True)
    if earlier:
        text += f", unless every address it resolves to is allowed (line {numbers})"
    return Explanation(False, verdict.line, text, bool(earlier))


def _address_lines(policy: Policy, port: int, before: PolicyLine | None, decision: Decision) -> list[PolicyLine]:
    return [
        line
        for line in policy.lines
        if isinstance(line.target, Block)
        and line.decision is decision
        and port in line.ports
        and (before is None or line.number < before.number)
    ]
