"""What Squid's cache manager says, asked with the supervisor's secret (squid.conf.j2). Pages of a fixed size only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException

from egress_router.errors import TryAgainError

#: Readiness probes wait as long as this for an answer.
TIMEOUT_SECONDS = 2.0
#: The supervisor's loop stands as long as this when a Squid that is to end does not answer.
LOOP_SECONDS = 0.5
#: DNS response codes (RFC 1035, 4.1.1) in words; the others are rare.
RCODES = {0: "noerror", 1: "formerr", 2: "servfail", 3: "nxdomain", 4: "notimp", 5: "refused"}
_RCODE = re.compile(r"^\s*(\d+)((?:\s+\d+)+) : ", re.MULTILINE)
#: A question in the queue: its number comes first.
_PENDING = re.compile(r"^0x[0-9a-f]+ ", re.MULTILINE)
_SERVER = re.compile(r"^\S+\s+(\d+)\s+(\d+)\s+\S+\s*$", re.MULTILINE)
#: Column of mgr:mem, counted from 0, with the objects in use.
_IN_USE = 14


@dataclass(frozen=True, slots=True)
class DnsTraffic:
    """Questions that one Squid has sent, replies it has got, and these by response code in words."""

    queries: int
    replies: int
    rcodes: dict[str, int]


class SquidManager:
    """The manager of the Squid that answers at an address of the pod."""

    def __init__(self, host: str, port: int, secret: str) -> None:
        self._host = host
        self._port = port
        self._secret = secret

    def page(self, name: str, timeout: float = TIMEOUT_SECONDS) -> str:
        """Return a page as text. Raises TryAgainError with the reason when Squid does not accept or answer."""
        connection = HTTPConnection(self._host, self._port, timeout=timeout)
        headers = {"X-Egress-Router": self._secret, "Connection": "close"}
        try:
            connection.request("GET", f"/squid-internal-mgr/{name}", headers=headers)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
        except (OSError, HTTPException) as error:
            why = str(error) or type(error).__name__
            raise TryAgainError(f"squid does not answer on {self._host} port {self._port}: {why}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise TryAgainError(f"squid answers on {self._host} port {self._port}, but with {answer.status}")
        return text

    def resolving(self) -> bool:
        """Return whether it waits for name servers; False when it does not answer."""
        try:
            return bool(_PENDING.search(self.page("idns", LOOP_SECONDS)))
        except TryAgainError:
            return False

    def dns(self) -> DnsTraffic:
        """Return what its resolver has done so far. Raises TryAgainError."""
        return read_dns(self.page("idns"))

    def tunnels(self) -> int:
        """Return how many tunnels (CONNECT) are open. Raises TryAgainError."""
        return read_tunnels(self.page("mem"))


def read_dns(page: str) -> DnsTraffic:
    """Read mgr:idns."""
    servers = page.partition("Nameservers:")[2].partition("Rcode Matrix:")
    found = [(int(queries), int(replies)) for queries, replies in _SERVER.findall(servers[0])]
    rcodes: dict[str, int] = dict.fromkeys((*RCODES.values(), "other"), 0)
    for code, counts in _RCODE.findall(servers[2]):
        rcodes[RCODES.get(int(code), "other")] += sum(map(int, counts.split()))
    return DnsTraffic(sum(queries for queries, _ in found), sum(replies for _, replies in found), rcodes)


def read_tunnels(page: str) -> int:
    """Read mgr:mem: Squid keeps an object for each tunnel, and has no line for them before the first one."""
    for line in page.splitlines():
        if "TunnelStateData" in line:
            return int(line.split("\t")[_IN_USE])
    return 0
