"""The lab's DNS server: records that tests change while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.addressing import Address, parse
from lab.child import Child

if TYPE_CHECKING:
    from lab.host import Host


@dataclass(frozen=True, slots=True)
class Query:
    """One question that was asked. ``transport`` is udp or tcp, ``edns`` the payload size offered, 0 without EDNS."""

    time: float
    name: str
    type: str
    transport: str
    peer: str
    edns: int


class DnsServer:
    """An authoritative server (dnspython) on UDP and TCP port 53. It knows nothing but what ``set`` says.

    Unknown names are NXDOMAIN; a name without records of the type asked for gives an empty answer. Answers that do
    not fit into 512 bytes, or into the payload size that the query offers (EDNS), are cut and have the TC bit.
    """

    def __init__(self, host: Host, addresses: Sequence[Address], port: int = 53) -> None:
        self.host = host
        self.addresses = tuple(addresses)
        self.port = port
        settings = {"addresses": [str(address) for address in addresses], "port": port}
        self._child = Child("dns_server.py", settings, prefix=host.command([]), packages=True)

    @property
    def address(self) -> Address:
        """The server's first address."""
        return self.addresses[0]

    def set(
        self,
        name: str,
        *,
        A: Iterable[Address | str] = (),  # noqa: N803 - the record types' names
        AAAA: Iterable[Address | str] = (),  # noqa: N803
        CNAME: str | None = None,  # noqa: N803
        PTR: str | None = None,  # noqa: N803
        ttl: int = 1,
        rcode: str | None = None,
        drop: bool = False,
        silent: Iterable[str] = (),
        delay: float = 0.0,
    ) -> None:
        """Replace all that is known of a name, in force when this returns.

        ``ttl`` is in seconds; every answer comes ``delay`` seconds late. With ``rcode`` (NXDOMAIN, SERVFAIL,
        REFUSED …) every query for the name gets that error; with ``drop`` none gets an answer, with ``silent``
        those for some types (``["A"]``) get none. ``*.example.com`` covers what has no entry of its own.
        """
        entry = self._entry(A, AAAA, CNAME, PTR, ttl, rcode, drop)
        self.set_many({name: entry | {"silent": list(silent), "delay": delay}})

    @staticmethod
    def _entry(
        a: Iterable[Address | str],
        aaaa: Iterable[Address | str],
        cname: str | None,
        ptr: str | None,
        ttl: int,
        rcode: str | None,
        drop: bool,
    ) -> dict[str, Any]:
        values = {
            "A": [str(address) for address in a],
            "AAAA": [str(address) for address in aaaa],
            "CNAME": [absolute(cname)] if cname else [],
            "PTR": [absolute(ptr)] if ptr else [],
        }
        rrsets = {kind: {"ttl": ttl, "values": texts} for kind, texts in values.items() if texts}
        return {"rcode": rcode, "drop": drop, "rrsets": rrsets}

    def set_many(self, entries: dict[str, dict[str, Any] | None]) -> None:
        """Replace several entries in one step; for bulk data: see children/dns_server.py for the form."""
        self._child.ask({"op": "records", "records": entries})

    def set_ptr(self, address: Address | str, name: str, ttl: int = 1) -> None:
        """Make the reverse look-up of an address give ``name``."""
        self.set(parse(address).reverse_pointer, PTR=name, ttl=ttl)

    def remove(self, name: str) -> None:
        """Forget a name: it is NXDOMAIN from now on."""
        self.set_many({name: None})

    def limits(self, udp: int = 65535, edns: bool = True, tcp: bool = True) -> None:
        """Behave like a lesser server: longest UDP answer in bytes, FORMERR to EDNS queries, no TCP."""
        self._child.ask({"op": "limits", "udp": udp, "edns": edns, "tcp": tcp})

    def stop(self) -> None:
        """Close the ports: queries are refused (ICMP port unreachable, TCP reset). Records are kept."""
        self._child.ask({"op": "stop"})

    def start(self) -> None:
        """Open the ports again."""
        self._child.ask({"op": "start"})

    @property
    def queries(self) -> list[Query]:
        """All questions so far."""
        return [Query(**query) for query in self._child.ask({"op": "log"})]

    def close(self) -> None:
        """End the process."""
        self._child.close()


def absolute(name: str) -> str:
    """Return a name with its final dot."""
    return name if name.endswith(".") else name + "."
