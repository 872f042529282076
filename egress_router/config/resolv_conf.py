"""/etc/resolv.conf. See resolv.conf(5)."""

from __future__ import annotations

from egress_router.config import fields
from egress_router.config.fields import Wrong
from egress_router.model.addresses import Address


def nameservers(text: str) -> tuple[Address, ...]:
    """Return the addresses of the ``nameserver`` lines in order. Those that are none are passed over, as libc does, and
    so are those that no route leads to (loopback, ``0.0.0.0``, multicast).
    """
    found: list[Address] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            value = fields.address(words[1].partition("%")[0])
            if not isinstance(value, Wrong) and not fields.not_a_host(value) and value not in found:
                found.append(value)
    return tuple(found)
