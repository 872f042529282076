"""Networks and addresses as text."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from egress_router.config.inputs import Line, Problems, SourceText
from egress_router.policy.values import Block, to_number

EXPECTED = "a name, *.name, an address, a network such as 192.0.2.0/24 or [2001:db8::/32], or * as the last line"


class Bad(ValueError):
    """Carries what is wrong and what would be right."""

    def __init__(self, message: str, expected: str = EXPECTED) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected


def parse_network(text: str, source: SourceText, raw: Line, problems: Problems, *, ipv6: bool = False) -> Block:
    """Return the block of an address or network; of IPv6 with ``ipv6`` and where there is a colon. Bad says what is
    wrong; bits behind the length are a warning.
    """
    bits = 128 if ipv6 or ":" in text else 32
    kind, family = ("an IPv6", IPv6Address) if bits == 128 else ("an IPv4", IPv4Address)
    base, slash, length_text = text.partition("/")
    try:
        if "%" in base:
            raise AddressValueError
        address = family(base)
    except AddressValueError:
        raise Bad(f"is not {kind} address or network") from None
    length = bits
    if slash:
        if not re.fullmatch(r"0|[1-9][0-9]{0,2}", length_text) or int(length_text) > bits:
            raise Bad(f"has a prefix length that is not 0 to {bits}")
        length = int(length_text)
    spare = (1 << (bits - length)) - 1
    number = to_number(address)
    if number & spare:
        network = f"{family(int(address) & ~spare)}/{length}"
        message = f"has bits set behind its length; {network} is used"
        problems.warn(source.variable, raw.number, raw.text, message, network)
    first = number & ~spare
    return Block(first, first | spare)
