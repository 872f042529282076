"""Look host names up as the pod's C library would: /etc/hosts first, then the name servers of resolv.conf(5).

dnspython asks: UDP with EDNS, TCP for what does not fit. Imported only where there are names: importing dnspython costs
0.15 s and megabytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver
from dns.nameserver import Do53Nameserver

from egress_router.config.files import read_regular, stamp_of
from egress_router.config.values import Address, Family, HostName, NameServer, family_of
from egress_router.dns.cache import Answer, CandidateReplies, Failure, NegativeAnswer, Reply
from egress_router.dns.resolv_conf import (
    LOCALHOST,
    ResolvConf,
    SearchPath,
    candidates,
    parse_hosts,
    parse_resolv_conf,
)
from egress_router.errors import printable
from egress_router.records import dataclass

log = logging.getLogger(__name__)

RESOLV_CONF = Path("/etc/resolv.conf")
HOSTS = Path("/etc/hosts")
#: Advertised EDNS payload in bytes: fits a packet everywhere, so that no reply is lost as a fragment. (dnsflagday.net,
#: 2020.) Longer replies come truncated and are asked for again over TCP.
EDNS_PAYLOAD = 1232
#: Seconds for one name server to reply, and for all of them together.
SERVER_TIMEOUT = 2.0
LOOKUP_TIMEOUT = 6.0
#: Where resolv.conf sets one of ``timeout`` and ``attempts``: the C library's attempts, and the longest look-up.
DEFAULT_ATTEMPTS = 2
LONGEST_LOOKUP = 30.0
#: Seconds until /etc/hosts is looked into again.
HOSTS_TTL = 5.0
#: Bytes of a file that are read.
MAX_FILE = 1 << 20
RECORD = {Family.IPV4: dns.rdatatype.A, Family.IPV6: dns.rdatatype.AAAA}


@dataclass(frozen=True, slots=True)
class _Files:
    """What the two files say, and by what it is known that they changed."""

    conf: ResolvConf
    hosts: Mapping[str, tuple[Address, ...]]
    seen: tuple[object, object]


class Resolver:
    """Looks names up in /etc/hosts and with the name servers of resolv.conf; both are read again whenever they change.

    ``nameservers`` replaces those of the file.
    """

    def __init__(
        self, nameservers: Sequence[NameServer] = (), resolv_conf: Path = RESOLV_CONF, hosts: Path = HOSTS
    ) -> None:
        self._nameservers = nameservers
        self._path = resolv_conf
        self._hosts_path = hosts
        self._files = _Files(ResolvConf(), {}, (None, None))
        self._resolver = dns.asyncresolver.Resolver(configure=False)
        self._lifetime = LOOKUP_TIMEOUT
        self._read_if_changed()

    @property
    def search(self) -> SearchPath:
        """What is done with single labels."""
        return self._files.conf.search

    async def resolve(self, name: HostName, families: Sequence[Family]) -> list[CandidateReplies]:
        """Ask for the candidates of ``name`` in order until one has an address; return all replies.

        It ends at a candidate that no name server says anything about, as in the C library: the next would fare no
        better. A name of /etc/hosts is not asked for.
        """
        self._read_if_changed()
        if known := self._files.hosts.get(name.text.removesuffix(".")):
            return [_of_hosts(name, known, families)]
        tried: list[CandidateReplies] = []
        for candidate in candidates(name, self.search):
            replies = await asyncio.gather(*(self._ask(candidate, family) for family in families))
            tried.append(CandidateReplies(candidate, dict(zip(families, replies, strict=True))))
            if tried[-1].found or tried[-1].silent:
                break
        return tried

    async def _ask(self, candidate: str, family: Family) -> Reply:
        if family is Family.IPV6 and self._files.conf.ipv4_only:
            return NegativeAnswer("is not asked for IPv6 addresses (options no-aaaa)")
        try:
            answer = await self._resolve(candidate, RECORD[family])
        except dns.resolver.NXDOMAIN:
            return NegativeAnswer("does not exist", no_such_name=True)
        except dns.resolver.LifetimeTimeout as error:
            return Failure(_reason(error), silent=True)
        except (dns.exception.DNSException, OSError, ValueError) as error:
            return Failure(_reason(error))
        if answer.rrset is None:
            return NegativeAnswer(f"has no {family} address")
        addresses = frozenset(_address(record.to_text()) for record in answer.rrset)
        return Answer(addresses, float(answer.chaining_result.minimum_ttl))

    async def _resolve(self, candidate: str, record: dns.rdatatype.RdataType) -> dns.resolver.Answer:
        """Ask with EDNS, and once more without where every server says that it does not know it (RFC 6891, 7)."""
        resolver = self._resolver
        ask = partial(
            resolver.resolve, candidate, record, search=False, raise_on_no_answer=False, tcp=self._files.conf.tcp
        )
        try:
            return await ask(lifetime=self._lifetime)
        except dns.resolver.NoNameservers as error:
            reasons = {str(attempt[3]) for attempt in error.kwargs.get("errors") or []}
            if resolver.edns < 0 or not reasons & {"FORMERR", "NOTIMP"}:
                raise
        # For as long as resolv.conf stays as it is.
        resolver.use_edns(-1)
        return await ask(lifetime=self._lifetime)

    def _read_if_changed(self) -> None:
        seen = (_identity(self._path), _identity(self._hosts_path))
        if seen == self._files.seen:
            return
        conf = parse_resolv_conf(self._read(self._path))
        self._files = _Files(conf, parse_hosts(self._read(self._hosts_path)), seen)
        for sentence in () if self._nameservers else conf.ignored:
            log.warning("%s: %s", self._path, printable(sentence))
        servers = list(self._nameservers) or [NameServer(address) for address in conf.servers]
        if not servers:
            log.warning("%s names no name server; %s is asked, as the C library does", self._path, LOCALHOST)
            servers = [NameServer(LOCALHOST)]
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [Do53Nameserver(str(server.address), server.port) for server in servers]
        resolver.rotate = conf.rotate
        resolver.timeout = SERVER_TIMEOUT if conf.timeout is None else float(conf.timeout)
        resolver.use_edns(0, 0, EDNS_PAYLOAD)
        self._lifetime = LOOKUP_TIMEOUT
        if conf.timeout is not None or conf.attempts is not None:
            attempts = DEFAULT_ATTEMPTS if conf.attempts is None else conf.attempts
            self._lifetime = min(resolver.timeout * attempts * len(servers), LONGEST_LOOKUP)
        self._resolver = resolver

    def _read(self, path: Path) -> str:
        try:
            return read_regular(path, MAX_FILE).decode("utf-8", "replace")
        except OSError as error:
            log.warning("%s cannot be read: %s", path, error.strerror)
            return ""


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        return stamp_of(path)
    except OSError:
        return None


def _of_hosts(name: HostName, known: Sequence[Address], families: Sequence[Family]) -> CandidateReplies:
    replies: dict[Family, Reply] = {}
    for family in families:
        found = frozenset(address for address in known if family_of(address) is family)
        replies[family] = Answer(found, HOSTS_TTL) if found else NegativeAnswer(f"has no {family} address in {HOSTS}")
    return CandidateReplies(f"{name.text.removesuffix('.')}. of {HOSTS}", replies)


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
