"""The EGRESS_TLS_PROXY_* variables as values."""

from __future__ import annotations

from dataclasses import dataclass

from egress_router.config.inputs import Inputs, Problems
from egress_router.policy.parse import parse_policy
from egress_router.policy.port_lists import parse_ports
from egress_router.policy.values import Block, Policy

VARIABLE = "EGRESS_TLS_PROXY_DESTINATION"
PORTS = "EGRESS_TLS_PROXY_PORTS"
HTTP_PORTS = "EGRESS_TLS_PROXY_HTTP_PORTS"
VARIABLES = (VARIABLE, f"{VARIABLE}_FILE", PORTS, HTTP_PORTS)
#: Each is a listener.
MAX_PORTS = 64


@dataclass(frozen=True, slots=True)
class ByName:
    """Clients of ``tls_ports`` are connected to the name in their ClientHello, those of ``http_ports`` to the Host of
    each request, at the same port, where ``policy`` allows it.
    """

    policy: Policy
    tls_ports: tuple[int, ...] = (443,)
    http_ports: tuple[int, ...] = (80,)

    @property
    def ports(self) -> tuple[int, ...]:
        """All ports that are listened on."""
        return (*self.tls_ports, *self.http_ports)


def parse_by_name(inputs: Inputs, problems: Problems) -> ByName | None:
    """Return what the variables say; None when they are not set, or when a problem was noted."""
    if VARIABLE not in inputs.env and not any(inputs.value(name) for name in VARIABLES):
        return None
    before = len(problems.errors)
    policy = parse_policy(inputs, problems, required=True, variable=VARIABLE)
    tls = _ports(inputs, problems, PORTS, (443,))
    http = _ports(inputs, problems, HTTP_PORTS, (80,))
    for port in sorted({*tls} & {*http}):
        problems.error(HTTP_PORTS, None, str(port), f"is one of {PORTS}, too", "a port is for TLS or for HTTP")
    if not tls and not http and len(problems.errors) == before:
        problems.error(HTTP_PORTS, None, "off", f"leaves no port: {PORTS} is off, too", "a port, such as 443")
    if policy is None or len(problems.errors) > before:
        return None
    found = ByName(policy, tls, http)
    _warn_unheard(found, problems)
    return found


def _ports(inputs: Inputs, problems: Problems, variable: str, default: tuple[int, ...]) -> tuple[int, ...]:
    text = inputs.value(variable)
    if text is None:
        return default
    if text.lower() == "off":
        return ()
    try:
        ranges = parse_ports(text).ranges
        if sum(last - first + 1 for first, last in ranges) > MAX_PORTS:
            raise ValueError(f"has more than {MAX_PORTS} ports")
    except ValueError as error:
        problems.error(variable, None, text, str(error), "ports such as 443 or 443,8443, or off")
        return default
    return tuple(port for first, last in ranges for port in range(first, last + 1))


def _warn_unheard(by_name: ByName, problems: Problems) -> None:
    for line in by_name.policy.lines:
        if not any(port in line.ports for port in by_name.ports):
            listened = ", ".join(map(str, sorted(by_name.ports)))
            message = f"is about ports that nothing listens on ({listened})"
            problems.warn(by_name.policy.variable, line.number, line.text, message, f"{PORTS} or {HTTP_PORTS}")
        elif isinstance(line.target, Block) and line.target.single and line.decision.value == "allow":
            message = "opens an address; clients ask for names here, so it counts for names that resolve to it alone"
            problems.warn(by_name.policy.variable, line.number, line.text, message)
