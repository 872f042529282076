"""EGRESS_HTTP_PROXY_PARENT: the proxy that all requests go on to, often from a Secret's file."""

from __future__ import annotations

import base64
import unicodedata
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from egress_router.config import fields
from egress_router.config.fields import Invalid
from egress_router.config.inputs import Inputs, Problems

VARIABLE = "EGRESS_HTTP_PROXY_PARENT"
EXPECTED = "http://[USER:PASSWORD@]HOST:PORT, such as http://proxy.example.com:3128"
#: Of user and password, in bytes: Squid takes 2 KiB in quotes, in Base64.
MOST_BYTES = 1500
#: What a percent escape may stand for is any byte, and comes out as it went in.
_ERRORS = "surrogateescape"


@dataclass(frozen=True, slots=True)
class Parent:
    """Where requests go on to, and as whom. That is in no representation: with some proxies the user is the secret."""

    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def credentials(self) -> str:
        """User and password as ``Proxy-Authorization: Basic`` has them (RFC 7617); "" without a user."""
        return base64.b64encode(_bytes(f"{self.user}:{self.password}")).decode() if self.user else ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _bytes(text: str) -> bytes:
    return text.encode(errors=_ERRORS)


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
    except ValueError:
        return Invalid("has brackets that are not those of an IPv6 address; in a user or password they are %5B and %5D")
    if "@" not in parts.netloc and "@" in text:
        return Invalid("has a / ? or # in front of the @: in a user or password they are %2F, %3F and %23")
    try:
        port = parts.port
    except ValueError:
        return Invalid("has no port from 1 to 65535, or no host")
    if parts.scheme.lower() != "http":
        return Invalid("does not begin with http:// (the connection to the parent is not encrypted)")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return Invalid("has something behind the port")
    if not port:
        return Invalid("has no port from 1 to 65535")
    host = _host(parts.hostname or "")
    if isinstance(host, Invalid):
        return Invalid("has neither a name nor an address as its host")
    user, password = (unquote(part or "", errors=_ERRORS) for part in (parts.username, parts.password))
    return _credentials(user, password) or Parent(host, port, user, password)


def _credentials(user: str, password: str) -> Invalid | None:
    """Return what keeps a user and a password from being sent (RFC 7617, 2)."""
    if password and not user:
        return Invalid("has a password without a user")
    if ":" in user:
        return Invalid("has a user with a colon (%3A), where the password would begin")
    if any(unicodedata.category(one) == "Cc" for one in user + password):
        return Invalid("has a control character in its user or password, such as %0A")
    if len(_bytes(user + password)) > MOST_BYTES:
        return Invalid(f"has more than {MOST_BYTES} bytes of user and password")
    return None


def _host(text: str) -> str | Invalid:
    address = fields.address(text)
    if not isinstance(address, Invalid):
        return str(address)
    name = fields.host_name(text)
    return name if isinstance(name, Invalid) else name.text
