"""What a URL or HOST:PORT asks for, as Squid takes it apart: AnyP::Uri::parse of Squid 5 and 6, in the cases of odd
spellings too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

from egress_router.errors import quoted

#: Squid answers it itself, on any host.
MANAGER_PATH = "/squid-internal-mgr/"
EXPECTED = "a URL such as http://free.fr/, or host:port such as free.fr:443"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: What atoi(3) takes from the beginning of a text.
_ATOI = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)")
#: RFC 9110, 5.6.2: the characters that Squid takes for a name in CONNECT.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_STRICT_PORT = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked about: ``connect`` for a tunnel, as https:// and host:port make clients ask for; ``manager`` for a
    path that Squid takes for its cache manager. ``invalid`` says why Squid answers 400 instead of judging it.
    """

    host: str
    port: int
    connect: bool
    manager: bool = False
    invalid: str = ""


def parse_target(text: str) -> Target:
    """Return what a URL or ``host:port`` asks for. ValueError says what would be right, for a text that is neither."""
    matched = _SCHEME.match(text)
    if matched is None:
        return _connect(text)
    scheme, rest = matched[1].lower(), text[matched.end() :]
    if scheme not in _DEFAULT_PORTS or not rest:
        raise ValueError(f"{quoted(text)} is not {EXPECTED}")
    authority = re.match(r"[^/?#\s]*", rest)
    host_and_port = authority[0].rpartition("@")[2] if authority else ""
    path = rest[authority.end() :] if authority else ""
    if scheme == "https":
        # Clients take it apart themselves, and ask for a tunnel.
        host, port_text = _split(host_and_port)
        return _connect(f"{f'[{host}]' if ':' in host else host}:{port_text or _DEFAULT_PORTS[scheme]}")
    host, port_text = _split(host_and_port)
    port = _DEFAULT_PORTS[scheme] if port_text is None else _atoi(port_text)
    host = _name(host)
    invalid = _invalid(host, port) or ("white space in the URL" if re.search(r"\s", rest) else "")
    return Target(host, port, connect=False, manager=path.startswith(MANAGER_PATH), invalid=invalid)


def _split(authority: str) -> tuple[str, str | None]:
    """Return host and the text of a port, None without one. More than one colon without brackets is no port."""
    if authority.startswith("["):
        host, _, rest = authority[1:].partition("]")
        _, colon, port = rest.partition(":")
        return host, port if colon else None
    if authority.count(":") == 1:
        host, _, port = authority.partition(":")
        return host, port
    return authority, None


def _connect(text: str) -> Target:
    """Read HOST:PORT as Squid reads the target of a CONNECT."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        try:
            IPv6Address(host)
        except AddressValueError:
            bracket = ""
        name = host if bracket else ""
    else:
        matched = _TOKEN.match(text)
        # International names come in ASCII: ``parse.asked_host``.
        name = matched[0] if matched and text.isascii() else text.partition(":")[0]
        rest = text[len(name) :]
    if not name or re.search(r"[\s/]", text) or not rest.startswith(":"):
        raise ValueError(f"{quoted(text)} is not {EXPECTED}")
    if not _STRICT_PORT.fullmatch(rest[1:]):
        raise ValueError(f"{quoted(text)} has no port from 1 to 65535; expected {EXPECTED}")
    port = int(rest[1:6]) if len(rest) <= 6 else 65536
    if port > 65535:
        raise ValueError(f"{quoted(text)} has no port from 1 to 65535; expected {EXPECTED}")
    host = _name(name)
    return Target(host, port, connect=True, invalid=_invalid(host, port))


def _name(host: str) -> str:
    return host.lower().rstrip(".")


def _atoi(text: str) -> int:
    """Return what atoi(3) makes of a text where a long has 64 bits."""
    matched = _ATOI.match(text)
    # Digits beyond those of any 64-bit number change nothing.
    number = int(matched[1][:25]) if matched else 0
    number = min(max(number, -(1 << 63)), (1 << 63) - 1) & 0xFFFFFFFF
    return number - (1 << 32) if number >> 31 else number


def _invalid(host: str, port: int) -> str:
    if not host:
        return "no host"
    if host.startswith(".") or ".." in host:
        return f"{quoted(host)} has an empty label"
    return "" if 0 < port <= 65535 else "no port from 1 to 65535"
