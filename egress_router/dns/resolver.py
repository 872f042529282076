"""Ask name servers for the addresses of a host name, by resolv.conf(5) and its search list."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver
from dns.nameserver import Do53Nameserver

from egress_router.config.values import Address, Family, HostName, NameServer
from egress_router.dns.cache import Answer, CandidateReplies, Failure, NegativeAnswer, Reply
from egress_router.dns.resolv_conf import SearchPath, candidates, search_domains
from egress_router.errors import printable

# /etc/resolv.conf. See resolv.conf(5).


# Which DNS names a host name stands for: the search list of resolv.conf(5).


# Asks name servers for the addresses of a name (dnspython): UDP with EDNS, TCP for what does not fit.
#
# Imported only where there are names: importing dnspython costs 0.15 s and megabytes.

log = logging.getLogger(__name__)

RESOLV_CONF = Path("/etc/resolv.conf")
#: Advertised EDNS payload in bytes: fits a packet everywhere, so that no reply is lost as a fragment. (dnsflagday.net,
#: 2020.) Longer replies come truncated and are asked for again over TCP.
EDNS_PAYLOAD = 1232
#: Seconds for one name server to reply, and for all of them together.
SERVER_TIMEOUT = 2.0
LOOKUP_TIMEOUT = 6.0
RECORD = {Family.IPV4: dns.rdatatype.A, Family.IPV6: dns.rdatatype.AAAA}


class Resolver:
    """Looks names up with the name servers and search domains of resolv.conf, read again whenever it changed.

    ``nameservers`` replaces those of the file.
    """

    def __init__(self, nameservers: Sequence[NameServer] = (), resolv_conf: Path = RESOLV_CONF) -> None:
        self._nameservers = nameservers
        self._path = resolv_conf
        self._seen: tuple[int, int, int] | None = None
        self._resolver = dns.asyncresolver.Resolver(configure=False)
        self.search = SearchPath()
        self._read_if_changed()

    async def resolve(self, name: HostName, families: Sequence[Family]) -> list[CandidateReplies]:
        """Ask for the candidates of ``name`` in order until one has an address; return all replies.

        It ends at a candidate that no name server says anything about, as in the C library: the next would fare no
        better.
        """
        self._read_if_changed()
        tried: list[CandidateReplies] = []
        for candidate in candidates(name, self.search):
            replies = await asyncio.gather(*(self._ask(candidate, family) for family in families))
            tried.append(CandidateReplies(candidate, dict(zip(families, replies, strict=True))))
            if tried[-1].found or tried[-1].silent:
                break
        return tried

    async def _ask(self, candidate: str, family: Family) -> Reply:
        if not self._resolver.nameservers:
            return Failure(f"{self._path} names no name server")
        try:
            answer = await self._resolve(candidate, RECORD[family])
        except dns.resolver.NXDOMAIN:
            return NegativeAnswer("does not exist")
        except dns.resolver.LifetimeTimeout as error:
            return Failure(_reason(error), silent=True)
        except (dns.exception.DNSException, OSError) as error:
            return Failure(_reason(error))
        if answer.rrset is None:
            return NegativeAnswer(f"has no {family} address")
        addresses = frozenset(_address(record.to_text()) for record in answer.rrset)
        return Answer(addresses, float(answer.chaining_result.minimum_ttl))

    async def _resolve(self, candidate: str, record: dns.rdatatype.RdataType) -> dns.resolver.Answer:
        """Ask with EDNS, and once more without where every server says that it does not know it (RFC 6891, 7)."""
        resolver = self._resolver
        ask = partial(resolver.resolve, candidate, record, search=False, raise_on_no_answer=False)
        try:
            return await ask(lifetime=LOOKUP_TIMEOUT)
        except dns.resolver.NoNameservers as error:
            reasons = {str(attempt[3]) for attempt in error.kwargs.get("errors") or []}
            if resolver.edns < 0 or not reasons & {"FORMERR", "NOTIMP"}:
                raise
        # For as long as resolv.conf stays as it is.
        resolver.use_edns(-1)
        return await ask(lifetime=LOOKUP_TIMEOUT)

    def _read_if_changed(self) -> None:
        try:
            stat = self._path.stat()
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except OSError:
            seen = (0, 0, 0)
        if seen == self._seen:
            return
        self._seen = seen
        resolver = dns.asyncresolver.Resolver(configure=False)
        try:
            resolver.read_resolv_conf(self._path)
        except (dns.exception.DNSException, OSError, ValueError) as error:
            if not self._nameservers:
                log.error("%s: %s", self._path, printable(str(error)))
        if self._nameservers:
            resolver.nameservers = [Do53Nameserver(str(server.address), server.port) for server in self._nameservers]
        resolver.timeout = SERVER_TIMEOUT
        resolver.use_edns(0, 0, EDNS_PAYLOAD)
        domains = [domain.to_text() for domain in resolver.search or [resolver.domain]]
        ndots = 1 if resolver.ndots is None else min(max(resolver.ndots, 0), 15)
        self._resolver = resolver
        self.search = SearchPath(search_domains(domains), ndots)


def _address(text: str) -> Address:
    return IPv6Address(text) if ":" in text else IPv4Address(text)


def _reason(error: Exception) -> str:
    """Return a short reason: dnspython's messages repeat the question and list every attempt."""
    if isinstance(error, dns.resolver.NoNameservers | dns.resolver.LifetimeTimeout):
        attempts = error.kwargs.get("errors") or []
        reasons = dict.fromkeys(f"{_server(attempt[0])} {_attempt(attempt[3])}" for attempt in attempts)
        return printable("; ".join(reasons) or "no reply in time")
    return printable(str(error) or type(error).__name__)


def _server(name: str) -> str:
    """Shorten ``Do53:192.0.2.53@53``."""
    return name.removeprefix("Do53:").removesuffix("@53")


def _attempt(what: object) -> str:
    if isinstance(what, dns.exception.Timeout):
        return "no reply in time"
    return str(what) or type(what).__name__
