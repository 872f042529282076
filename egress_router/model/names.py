"""Host names, and the servers that are asked for them."""

from __future__ import annotations

import binascii
from dataclasses import dataclass

from egress_router.model.addresses import Address


@dataclass(frozen=True, slots=True)
class HostName:
    """A DNS name in lower case ASCII (IDNA applied). A trailing dot makes it absolute: no search domain is tried."""

    text: str

    @property
    def absolute(self) -> bool:
        """Whether it ends in a dot."""
        return self.text.endswith(".")

    @property
    def dots(self) -> int:
        """How many dots it has, the number that ``ndots`` of resolv.conf(5) is compared with."""
        return self.text.count(".")

    @property
    def mark(self) -> int:
        """What connections to it are marked with (32 bits, never 0): addresses come and go, the name stays."""
        return binascii.crc32(self.text.encode()) or 1

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class NameServer:
    """A DNS server."""

    address: Address
    port: int = 53

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return host if self.port == 53 else f"{host}:{self.port}"
