"""EGRESS_HTTP_PROXY_PARENT: the proxy that all requests go on to, often from a Secret's file."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from egress_router.config import fields
from egress_router.config.fields import Invalid
from egress_router.config.inputs import Inputs, Problems

VARIABLE = "EGRESS_HTTP_PROXY_PARENT"
EXPECTED = "http://[USER:PASSWORD@]HOST:PORT, such as http://proxy.example.com:3128"


@dataclass(frozen=True, slots=True)
class Parent:
    """Where requests go on to, and as whom. The password is in no representation."""

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def login(self) -> str:
        """User and password as squid.conf has them: every other character as ``%XX``; "" without a user."""
        return f"{quote(self.user, safe='')}:{quote(self.password, safe='')}" if self.user else ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user + '@' if self.user else ''}{host}:{self.port}"


def parse_parent(inputs: Inputs, problems: Problems) -> Parent | None:
    """Return the parent; None without one, or with a problem. What is wrong is said without the text: it may hold a
    password.
    """
    before = len(problems.errors)
    source = inputs.list_text(VARIABLE, problems)
    if source is None or not source.text.strip():
        if source is not None and source.variable != VARIABLE and len(problems.errors) == before:
            problems.error(source.variable, None, "", "is empty", EXPECTED)
        return None
    value = _read(source.text.strip())
    if isinstance(value, Invalid):
        problems.error(source.variable, None, "", value, EXPECTED)
        return None
    return value


def _read(text: str) -> Parent | Invalid:
    if len(text.split()) != 1 or not text.isascii() or not text.isprintable():
        return Invalid("is not one URL in ASCII")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return Invalid("has no port from 1 to 65535, or no host")
    if parts.scheme.lower() != "http":
        return Invalid("does not begin with http:// (the connection to the parent is not encrypted)")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return Invalid("has something behind the port; % stands for a special character in a password as %25, / as %2F")
    if not port:
        return Invalid("has no port from 1 to 65535")
    host = _host(parts.hostname or "")
    if isinstance(host, Invalid):
        return Invalid("has neither a name nor an address as its host")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.password and not user:
        return Invalid("has a password without a user")
    return Parent(host, port, user, password)


def _host(text: str) -> str | Invalid:
    address = fields.address(text)
    if not isinstance(address, Invalid):
        return str(address)
    name = fields.host_name(text)
    return name if isinstance(name, Invalid) else name.text
