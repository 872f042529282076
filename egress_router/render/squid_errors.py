"""The pages that clients get instead of an answer.

Squid's own are three kilobytes, name the administrator, and are looked for on disk for every refused request that has
an Accept-Language header, as those of browsers have. With a directory of its own, set by ``error_directory``, a page
is read once at the start. ``%c`` is the name of the error, ``%z`` what DNS said and ``%E`` the system's error, escaped.
"""

from __future__ import annotations

_PAGE = "<!DOCTYPE html>\n<title>egress-router</title>\n<p>{}\n"
_SPECIAL = {
    "ERR_ACCESS_DENIED": "The policy of this proxy does not allow this request.",
    "ERR_DNS_FAIL": "The name of the server cannot be resolved: %z",
    # Squid's word for a name without an address, too, when the policy had it looked up before.
    "ERR_READ_ERROR": "No answer came: the name of the server does not resolve, or it cut the connection. %E",
}
_OTHERS = "The request failed: %c %E"
#: Squid 5.7 complains at its start about each of these that it does not find, and takes its own instead.
_NAMES = """
ERR_CACHE_ACCESS_DENIED ERR_CACHE_MGR_ACCESS_DENIED ERR_CANNOT_FORWARD ERR_CONFLICT_HOST ERR_CONNECT_FAIL
ERR_DIR_LISTING ERR_DNS_FAIL ERR_ESI ERR_FORWARDING_DENIED ERR_FTP_DISABLED ERR_FTP_FAILURE ERR_FTP_FORBIDDEN
ERR_FTP_NOT_FOUND ERR_FTP_PUT_CREATED ERR_FTP_PUT_ERROR ERR_FTP_PUT_MODIFIED ERR_FTP_UNAVAILABLE
ERR_GATEWAY_FAILURE ERR_ICAP_FAILURE ERR_INVALID_REQ ERR_INVALID_RESP ERR_INVALID_URL ERR_LIFETIME_EXP
ERR_NO_RELAY ERR_ONLY_IF_CACHED_MISS ERR_PRECONDITION_FAILED ERR_PROTOCOL_UNKNOWN ERR_READ_ERROR
ERR_READ_TIMEOUT ERR_SECURE_CONNECT_FAIL ERR_SHUTTING_DOWN ERR_SOCKET_FAILURE ERR_TOO_BIG
ERR_UNSUP_HTTPVERSION ERR_UNSUP_REQ ERR_URN_RESOLVE ERR_WRITE_ERROR ERR_ZERO_SIZE_OBJECT
"""


def error_pages(directory: str) -> dict[str, str]:
    """Return the pages by name, in a directory."""
    return {f"{directory}/{name}": _PAGE.format(_SPECIAL.get(name, _OTHERS)) for name in (*_SPECIAL, *_NAMES.split())}
