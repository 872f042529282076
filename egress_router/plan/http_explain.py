"""`explain` for the HTTP proxy: what decides about a URL or ``host:port``, in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from egress_router.model.http_policy import (
    Address,
    Block,
    Decision,
    HttpPolicy,
    HttpSettings,
    PolicyLine,
)
from egress_router.plan.http_evaluate import evaluate, literal_address

#: Squid answers it itself, on any host.
MANAGER_PATH = "/squid-internal-mgr/"
_DEFAULT_PORTS = {"http": 80, "https": 443}
EXPECTED = "a URL such as http://free.fr/, or host:port such as free.fr:443"


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked about: ``connect`` for a tunnel, as https:// and host:port make clients ask for; ``manager`` for a
    path that Squid takes for its cache manager.
    """

    host: str
    port: int
    connect: bool
    manager: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """``line`` decided, or None; ``text`` says it in a sentence. ``depends``: the answer of DNS may turn it."""

    allowed: bool
    line: PolicyLine | None
    text: str
    depends: bool = False


def parse_target(text: str) -> Target:
    """Return what a URL or ``host:port`` asks for. ValueError says what would be right."""
    if "://" in text:
        try:
            parts = urlsplit(text)
            port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
        except ValueError as error:
            raise ValueError(f'"{text}": {error}; expected {EXPECTED}') from None
        if not parts.hostname or not port:
            raise ValueError(f'"{text}" is not {EXPECTED}')
        tunnel = parts.scheme == "https"
        return Target(parts.hostname, port, tunnel, manager=not tunnel and parts.path.startswith(MANAGER_PATH))
    matched = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\s/]+)):([1-9][0-9]{0,4})", text)
    if not matched or int(matched[3]) > 65535:
        raise ValueError(f'"{text}" is not {EXPECTED}')
    return Target(matched[1] or matched[2], int(matched[3]), connect=True)


def explain_http(
    policy: HttpPolicy,
    asked: Target,
    addresses: Sequence[Address] = (),
    settings: HttpSettings | None = None,
    own: Sequence[Address] = (),
) -> Explanation:
    """Say what the proxy does with a request. ``addresses``: what the name resolves to, when that is known.

    Without them the answer for a name is that by name, and ``depends`` says whether address lines or closed
    addresses may decide otherwise.
    """
    settings = settings or HttpSettings()
    if asked.manager:
        return Explanation(False, None, f"denied: {MANAGER_PATH} is Squid's cache manager, on any host")
    if asked.connect and asked.port not in settings.connect_ports:
        return Explanation(False, None, f"denied: {asked.port} is not one of EGRESS_HTTP_PROXY_CONNECT_PORTS")
    verdict = evaluate(policy, asked.host, asked.port, addresses, own)
    word = "allowed" if verdict.allowed else "denied"
    about = f" ({verdict.address})" if verdict.address and literal_address(asked.host) is None else ""
    if verdict.line:
        text = f'{word} by line {verdict.line.number} "{verdict.line.text}"{about}'
    else:
        text = f"{word}: {verdict.why}"
    if addresses or literal_address(asked.host) is not None:
        return Explanation(verdict.allowed, verdict.line, text)
    earlier = _address_lines(policy, asked.port, verdict.line, Decision.DENY if verdict.allowed else Decision.ALLOW)
    numbers = ", ".join(str(line.number) for line in earlier[:10]) + (" …" if len(earlier) > 10 else "")
    if verdict.allowed:
        lines = f" or that line {numbers} denies" if earlier else ""
        return Explanation(True, verdict.line, f"{text}, unless it resolves to an address that is closed{lines}", True)
    if earlier:
        text += f", unless every address it resolves to is allowed (line {numbers})"
    return Explanation(False, verdict.line, text, bool(earlier))


def _address_lines(policy: HttpPolicy, port: int, before: PolicyLine | None, decision: Decision) -> list[PolicyLine]:
    return [
        line
        for line in policy.lines
        if isinstance(line.target, Block)
        and line.decision is decision
        and port in line.ports
        and (before is None or line.number < before.number)
    ]
