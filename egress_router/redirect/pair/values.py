"""A pair of routers, as values."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from egress_router.config.values import Address
from egress_router.records import dataclass, field
from egress_router.redirect.network_state import ADVERT_SOURCES

if TYPE_CHECKING:
    from pathlib import Path

#: Where VRRP's adverts go (RFC 9568, 5.1.1.2), with a TTL of 255 that no router lets pass.
GROUP = IPv4Address("224.0.0.18")
#: IPv4's number of VRRP (IANA, protocol numbers).
PROTOCOL_NUMBER = 112
#: Seconds that the kernel keeps the address, and IPv6's routes, of a router that renews them no more. The kernel counts
#: whole seconds, and takes away up to a quarter of one early.
LEASE_SECONDS = 1
#: Seconds between two adverts: a take-over within 0.6 s of the last one, which a busy machine does not cause.
DEFAULT_INTERVAL = 0.15
#: Added to the priority of a router that hears its gateways: any that does comes before all that do not.
WITH_GATEWAY = 150


#: The keepalived of a pair that elects over the cluster's network speaks by this interface, whose other end is ours.
RELAY_INTERFACE, RELAY_END = "egress-pair", "egress-relay"
#: UDP, between the pods. Not VXLAN's own (4789), which CNIs have for themselves, and do not let pods send to.
DEFAULT_PORT = 9913


class ElectionNetwork(StrEnum):
    """Where the routers of a pair hear each other: where their address is, or between their pods."""

    EGRESS = "egress"
    CLUSTER = "cluster"


class Role(StrEnum):
    """What a router of a pair does: has the address, waits for it, or cannot take it."""

    ACTIVE = "active"
    STANDBY = "standby"
    FAULT = "fault"


def _default_directory() -> Path:
    # Imported here: few routers have a twin, and every pod would wait for pathlib.
    from egress_router.config.run_dir import DEFAULT_RUN_DIR

    return DEFAULT_RUN_DIR


@dataclass(frozen=True, slots=True)
class PairConfig:
    """One of several routers with one EGRESS_SOURCE. ``number`` is VRRP's virtual router (VRID), ``priority`` 1 to 100,
    ``interval`` the seconds between two adverts, ``address`` the source that they bear (None: one made of the MAC).
    keepalived's files stand in ``directory``. ``peers`` are names and addresses, in the cluster's network, of those
    that it compares itself with, and that it elects with by UDP ``port`` where ``network`` is the cluster's.
    """

    number: int
    priority: int = 50
    interval: float = DEFAULT_INTERVAL
    address: IPv4Address | None = None
    directory: Path = field(default_factory=_default_directory)
    peers: tuple[str, ...] = ()
    network: ElectionNetwork = ElectionNetwork.EGRESS
    port: int = DEFAULT_PORT

    @property
    def by_cluster(self) -> bool:
        """Whether adverts go between the pods."""
        return self.network is ElectionNetwork.CLUSTER

    @property
    def sources(self) -> IPv4Network:
        """What adverts may have as their source."""
        return ADVERT_SOURCES if self.address is None else IPv4Network(self.address)

    @property
    def patience(self) -> float:
        """Seconds without an advert after which somebody else takes over, at most (RFC 9568, 6.1)."""
        return 4 * self.interval

    @property
    def pace(self) -> float:
        """Seconds between two renewals of the lease, and between two questions to a gateway."""
        return min(max(self.interval * 2 / 3, 0.05), 0.2)


def advert_source(pair: PairConfig, mac: str) -> IPv4Address:
    """Return the source of the adverts that an interface with that MAC sends. No interface has it: it stands in
    adverts alone, and of two routers with one priority the higher one stays (RFC 9568, 6.4.3).
    """
    if pair.address is not None:
        return pair.address
    import hashlib

    digest = hashlib.sha256(mac.encode()).digest()
    # Neither the first nor the last one: strict eyes take those for a network's own and for a broadcast.
    return ADVERT_SOURCES[1 + int.from_bytes(digest) % (ADVERT_SOURCES.num_addresses - 2)]


def identity(pair: PairConfig, sources: Iterable[Address]) -> IPv4Address:
    """Return the virtual address in the adverts of a pair: a loopback address that stands for number and EGRESS_SOURCE.

    VRRP wants one, and keepalived gives it to the interface. It must not be EGRESS_SOURCE, which nothing but the lease
    puts there. Routers with another EGRESS_SOURCE and the same number are no peers, and are told by it.
    """
    import hashlib

    text = " ".join([str(pair.number), *sorted(map(str, sources))])
    digest = hashlib.sha256(text.encode()).digest()
    return IPv4Address(bytes([127, 1 + digest[0] % 254, digest[1], digest[2]]))
