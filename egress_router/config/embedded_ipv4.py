"""IPv4 addresses inside IPv6 addresses, and addresses that nothing may be connected to.

One place for all products: a translator or tunnel on the way turns such an IPv6 address back into the IPv4 address it
carries, so what is refused for an IPv4 address is refused for every spelling of it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

from egress_router.config.values import Address

MAPPED = IPv6Network("::ffff:0:0/96")
COMPATIBLE = IPv6Network("::/96")
TRANSLATED = IPv6Network("::ffff:0:0:0/96")
NAT64 = IPv6Network("64:ff9b::/96")
NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
SIX_TO_FOUR = IPv6Network("2002::/16")
TEREDO = IPv6Network("2001::/32")

#: Forms with the IPv4 address at a fixed place right behind a fixed prefix, so that an IPv4 network is one IPv6 network
#: in each of them: RFC 4291 (2.5.5.1), RFC 2765, RFC 6052, RFC 8215 with the prefix 64:ff9b:1::/96, RFC 3056.
PREFIXES = (COMPATIBLE, TRANSLATED, NAT64, IPv6Network("64:ff9b:1::/96"), SIX_TO_FOUR)
#: Length of the interface identifiers ``0:5efe`` and ``200:5efe`` of ISATAP (RFC 5214, 6.1), and where they stand.
_ISATAP = (0x00005EFE, 0x02005EFE)
#: Where an IPv4 address may stand behind a NAT64 prefix of 48, 56, 64 or 96 bits (RFC 6052, 2.2). Bits 64 to 71 are 0.
_NAT64_LENGTHS = (48, 56, 64, 96)

#: Where no server of anybody is: this host and network, loopback, link-local with the clouds' metadata services.
CLOSED_IPV4: tuple[tuple[str, IPv4Network], ...] = (
    ("this network", IPv4Network("0.0.0.0/8")),
    ("loopback", IPv4Network("127.0.0.0/8")),
    ("link-local", IPv4Network("169.254.0.0/16")),
)
CLOSED_IPV6: tuple[tuple[str, IPv6Network], ...] = (
    ("loopback", IPv6Network("::1/128")),
    ("link-local", IPv6Network("fe80::/10")),
    ("cloud metadata", IPv6Network("fd00:ec2::254/128")),
)


def embedded_ipv4(address: Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that an IPv6 address may stand for; () when it carries none, as for every IPv4 address.

    Several, where the length of a local NAT64 prefix is not known, and for Teredo, which names a server and a client.
    """
    if isinstance(address, IPv4Address) or int(address) in (0, 1):
        return ()
    number = int(address)
    found: list[int] = []
    if address in MAPPED or any(address in prefix for prefix in PREFIXES[:3]):
        found.append(number & 0xFFFFFFFF)
    elif address in NAT64_LOCAL:
        found += [behind_prefix(number, length) for length in _NAT64_LENGTHS]
    elif address in SIX_TO_FOUR:
        found.append(number >> 80 & 0xFFFFFFFF)
    elif address in TEREDO:
        # The client's address has all bits inverted (RFC 4380, 4).
        found += [number & 0xFFFFFFFF ^ 0xFFFFFFFF, number >> 64 & 0xFFFFFFFF]
    if number >> 32 & 0xFFFFFFFF in _ISATAP:
        found.append(number & 0xFFFFFFFF)
    return tuple(IPv4Address(one) for one in dict.fromkeys(found))


def spellings(first: int, last: int) -> list[tuple[int, int]]:
    """Return the ranges of IPv6 addresses, as numbers, that stand for the IPv4 addresses ``first`` to ``last`` in the
    forms of ``PREFIXES``.
    """
    found = []
    for prefix in PREFIXES:
        base, free = int(prefix.network_address), 128 - prefix.prefixlen - 32
        found.append((base | first << free, base | last << free | (1 << free) - 1))
    return found


def is_isatap(address: Address) -> bool:
    """Return whether an address has the interface identifier of ISATAP, behind whatever prefix."""
    return address.version == 6 and int(address) >> 32 & 0xFFFFFFFF in _ISATAP


def behind_prefix(number: int, length: int) -> int:
    """Return the IPv4 address behind a NAT64 prefix of so many bits (RFC 6052, 2.2), as a number."""
    if length == 96:
        return number & 0xFFFFFFFF
    # Without bits 64 to 71, which no part of the address may stand in.
    squeezed = (number >> 64 << 56) | (number & (1 << 56) - 1)
    return squeezed >> (120 - length - 32) & 0xFFFFFFFF


def not_a_server(address: Address) -> str | None:
    """Say why an address can be nobody's server, whatever spelling it has; None when it may be one's.

    ``fields.not_a_host`` covers unspecified, multicast, loopback and broadcast addresses for configuration; this adds
    what must not be reached by an answer of DNS, and looks into IPv6 addresses.
    """
    kind = _kind(address)
    if kind:
        return kind
    for inner in embedded_ipv4(address):
        if what := _kind(inner):
            return f"{what} ({inner} inside)"
    return None


def _kind(address: Address) -> str | None:
    if address.is_unspecified:
        return "the unspecified address"
    if address.is_multicast:
        return "a multicast address"
    if str(address) == "255.255.255.255":
        return "the broadcast address"
    closed = CLOSED_IPV4 if isinstance(address, IPv4Address) else CLOSED_IPV6
    what = next((what for what, network in closed if address in network), None)
    return f"a {what} address" if what else None
