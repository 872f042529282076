"""Tracked connections, as far as translation goes."""

from __future__ import annotations

from dataclasses import dataclass

from egress_router.model.addresses import Address
from egress_router.model.router import Protocol


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection (or UDP flow) of a client to ``port`` of the pod's ``address``.

    ``reply_address`` and ``reply_port`` are where it was sent, ``reply_to`` is the address that answers go to.
    ``translated``: its destination was changed. ``answered``: a packet has come back. ``live``: it can still carry data
    (a TCP connection between its first SYN and its last FIN; never a UDP flow, which has no end).
    ``timeout`` is how many seconds from now it is forgotten if no packet of it comes. ``mark`` is its connection mark:
    HostName.mark where a rule with a name has sent it. ``key`` is the kernel's name for it, as bytes.
    """

    protocol: Protocol
    address: Address
    port: int
    reply_address: Address
    reply_port: int
    reply_to: Address
    translated: bool
    answered: bool
    live: bool
    timeout: int
    key: bytes
    mark: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """A connection by who started it: ``answers_from`` is where it really went, ``answers_to`` the source that it left
    with, ``mark`` its connection mark, ``key`` the kernel's name for it, as bytes.
    """

    source: Address
    answers_from: Address
    answers_to: Address
    mark: int
    key: bytes


@dataclass(frozen=True, slots=True)
class Departure:
    """A connection (or UDP flow) that leaves with another source address than its ``client`` has; the other fields are
    those of Connection.
    """

    protocol: Protocol
    client: str
    live: bool
    timeout: int
    key: bytes
