"""A strict reader of host names (RFC 1123, plus the underscores that service names have)."""

from __future__ import annotations

import re

from egress_router.config.fields import Wrong
from egress_router.errors import printable, quoted
from egress_router.model.names import HostName

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
#: What inet_aton(3) and browsers take for a number: a "name" that ends so is a mistyped address.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
MAX_NAME = 253


def host_name(text: str) -> HostName | Wrong:
    """Read a DNS name: lower cased, internationalised labels encoded (IDNA 2008, UTS 46), a trailing dot kept."""
    name = text.lower()
    if not name.isascii():
        import idna

        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            return Wrong(f"{quoted(text)} is not a name: {printable(str(error))}")
    bare = name.removesuffix(".")
    labels = bare.split(".")
    if len(bare) > MAX_NAME:
        return Wrong(f"the name has {len(bare)} characters, DNS allows {MAX_NAME}")
    for label in labels:
        if not _LABEL.fullmatch(label):
            return Wrong(f"{quoted(text)} is neither an address nor a name")
    if _NUMBER.fullmatch(labels[-1]):
        return Wrong(f"{quoted(text)} is not an address, and a name does not end in a number")
    if labels[-1] == "localhost":
        return Wrong(f"{quoted(text)} is this pod itself (RFC 6761)")
    return HostName(name)
