"""Why a request failed, from what Squid says about it in its access log: a word for figures, and a detail."""

from __future__ import annotations

import errno
import re
from typing import NamedTuple

from egress_router.http_proxy.squid.log_line import RawLine

#: The words, named from the start in the metric so that a rate has a first value.
WORDS = ("dns", "connect", "timeout", "server", "tls", "too_large", "client", "other")
SILENT = "nothing came for EGRESS_HTTP_PROXY_IDLE_TIMEOUT"
#: Squid's name of what went wrong (its error pages) → word and detail.
_NAMES = {
    "ERR_DNS_FAIL": ("dns", ""),
    "ERR_CONNECT_FAIL": ("connect", ""),
    "ERR_CANNOT_FORWARD": ("connect", ""),
    "ERR_SOCKET_FAILURE": ("connect", "no socket could be made"),
    "ERR_SECURE_CONNECT_FAIL": ("tls", "the TLS handshake failed"),
    "ERR_PROTOCOL_UNKNOWN": ("tls", "what the client sent is no TLS"),
    "ERR_READ_TIMEOUT": ("timeout", SILENT),
    "ERR_LIFETIME_EXP": ("timeout", "open for the longest time that there is"),
    "ERR_READ_ERROR": ("server", "the connection was cut"),
    "ERR_WRITE_ERROR": ("server", "the connection was cut while sending"),
    "ERR_ZERO_SIZE_OBJECT": ("server", "closed without an answer"),
    "ERR_INVALID_RESP": ("server", "the answer is not HTTP"),
    "ERR_TOO_BIG": ("too_large", ""),
    "ERR_CLIENT_GONE": ("client", "the client left"),
}
_ERRNO = re.compile(r"errno=([0-9]+)")
_SYSTEM = {
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "timed out",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EACCES: "unreachable",
    errno.EADDRNOTAVAIL: "the source address cannot be used",
    errno.ECONNRESET: "reset",
}
#: Milliseconds after which Squid gives a connection up (connect_timeout), with some to spare for its clock.
CONNECT_TIMEOUT = 9_500
_TOO_LARGE = {"413": "the request's body", "414": "the URL", "431": "the request's header"}
#: Names of Squid that are no errors: a refusal of ours.
_NONE = frozenset({"-", "ERR_ACCESS_DENIED"})


class Failure(NamedTuple):
    """What failed: one of ``WORDS``, and more about it, perhaps ""."""

    word: str
    detail: str = ""


#: Of a tunnel, Squid does not say so.
IDLE = Failure("timeout", SILENT)


def failure(raw: RawLine, *, parent: bool = False) -> Failure | None:
    """Return why a request failed that was not refused; None when it did not fail. With a ``parent`` names are that
    proxy's affair.
    """
    name = raw.error.rpartition(":")[2]
    if raw.failed == "dns":
        return Failure("dns")
    if raw.status in _TOO_LARGE and raw.server == "-":
        return Failure("too_large", f"{_TOO_LARGE[raw.status]} is too large")
    if name in _NONE:
        return None
    word, detail = _NAMES.get(name, ("other", name))
    if parent and word in ("connect", "dns"):
        return Failure("connect", "the parent proxy cannot be reached")
    if raw.server == "-" and word in ("connect", "server"):
        # There was no address to connect to; Squid then says that it could not read.
        return Failure("dns")
    if word == "connect" and not detail:
        detail = _connect_detail(raw)
    return Failure(word, detail)


def _connect_detail(raw: RawLine) -> str:
    if matched := _ERRNO.search(raw.detail):
        number = int(matched[1])
        return _SYSTEM.get(number, errno.errorcode.get(number, matched[0]))
    # Of a GET, Squid 5.7 keeps no system error.
    return "timed out" if int(raw.duration) >= CONNECT_TIMEOUT else "refused or unreachable"
