"""An authoritative DNS server whose records change while it runs.

Usage: dns_server.py '{"addresses": [IP…], "port": 53}'. Ends when standard input closes; a line of it is a request:
{"op": "records", "records": {NAME: {"rcode": …, "drop": …, "silent": [TYPE…], "delay": SECONDS, "rrsets": RRSETS}}}
with RRSETS {TYPE: {"ttl": N, "values": [TEXT…]}},
{"op": "limits", "udp": BYTES, "edns": BOOL, "tcp": BOOL}, {"op": "log"}, {"op": "stop"}, {"op": "start"}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

NEGATIVE_TTL = 1
MAX_CNAMES = 10


class Zone:
    """What is known, and what was asked."""

    def __init__(self) -> None:
        self.records: dict[dns.name.Name, dict[str, Any]] = {}
        self.log: list[dict[str, Any]] = []
        self.udp_limit = 65535
        self.edns = True
        self.tcp = True

    def find(self, name: dns.name.Name) -> dict[str, Any] | None:
        """Return the entry of a name, or of the wildcard that covers it (RFC 4592, without its corner cases)."""
        if name in self.records:
            return self.records[name]
        parent = name
        while parent != dns.name.root:
            parent = parent.parent()
            wildcard = dns.name.Name(("*", *parent.labels))
            if wildcard in self.records:
                return self.records[wildcard]
        return None

    def answer(self, query: dns.message.Message, transport: str, peer: str) -> tuple[bytes | None, float]:
        """Return the answer's bytes, cut for UDP with the TC bit set, None for no answer; and the seconds it takes."""
        question = query.question[0]
        name, kind = question.name, dns.rdatatype.to_text(question.rdtype)
        self.log.append(
            {
                "time": time.time(),
                "name": name.to_text(omit_final_dot=True).lower(),
                "type": kind,
                "transport": transport,
                "peer": peer,
                "edns": query.payload if query.edns >= 0 else 0,
            }
        )
        if query.edns >= 0 and not self.edns:
            refusal = dns.message.make_response(dns.message.from_wire(query.to_wire()))
            refusal.use_edns(False)
            refusal.set_rcode(dns.rcode.FORMERR)
            return refusal.to_wire(), 0.0
        reply = dns.message.make_response(query, our_payload=4096)
        reply.flags |= dns.flags.AA
        entry = self.fill(reply, name, kind)
        delay = entry.get("delay", 0.0) if entry else 0.0
        if entry is not None and (entry.get("drop") or kind in entry.get("silent", ())):
            return None, delay
        if transport == "tcp":
            return reply.to_wire(max_size=65535), delay
        room = max(512, query.payload) if query.edns >= 0 else 512
        return reply.to_wire(max_size=min(room, self.udp_limit), prefer_truncation=True), delay

    def fill(self, reply: dns.message.Message, name: dns.name.Name, kind: str) -> dict[str, Any] | None:
        """Put answer, error or SOA into the reply, following CNAMEs; return the last entry used."""
        entry = None
        for _ in range(MAX_CNAMES):
            entry = self.find(name)
            if entry is None:
                reply.set_rcode(dns.rcode.NXDOMAIN)
                break
            if entry.get("rcode"):
                reply.set_rcode(dns.rcode.from_text(entry["rcode"]))
                break
            rrsets = entry["rrsets"]
            used = kind if kind in rrsets else "CNAME"
            if used not in rrsets or not rrsets[used]["values"]:
                break
            rrset = dns.rrset.from_text_list(name, rrsets[used]["ttl"], "IN", used, rrsets[used]["values"])
            reply.answer.append(rrset)
            if used == kind:
                return entry
            name = rrset[0].target
        if reply.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            reply.authority.append(
                dns.rrset.from_text(
                    dns.name.root, NEGATIVE_TTL, "IN", "SOA", f"ns.invalid. lab.invalid. 1 60 60 60 {NEGATIVE_TTL}"
                )
            )
        return entry


class Server:
    """The sockets."""

    def __init__(self, zone: Zone, addresses: list[str], port: int) -> None:
        self.zone, self.addresses, self.port = zone, addresses, port
        self.open: list[Any] = []
        self.connections: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen, on TCP first: who sees UDP answer may rely on both."""
        if self.open:
            return
        loop = asyncio.get_running_loop()
        for address in self.addresses:
            if self.zone.tcp:
                self.open.append(await asyncio.start_server(self.serve_tcp, address, self.port))
            transport, _ = await loop.create_datagram_endpoint(lambda: Udp(self.zone), (address, self.port))
            self.open.append(transport)

    async def stop(self) -> None:
        """Close everything: queries are refused by the kernel."""
        for opened in self.open:
            opened.close()
        for writer in self.connections:
            writer.transport.abort()
        self.open.clear()
        await asyncio.sleep(0)

    async def serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer queries of one connection until its end (RFC 7766)."""
        self.connections.add(writer)
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2))
                query = dns.message.from_wire(await reader.readexactly(size))
                answer, delay = self.zone.answer(query, "tcp", writer.get_extra_info("peername")[0])
                await asyncio.sleep(delay)
                if answer is not None:
                    writer.write(len(answer).to_bytes(2) + answer)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, dns.exception.DNSException):
            pass
        finally:
            self.connections.discard(writer)
            writer.close()


class Udp(asyncio.DatagramProtocol):
    """Datagrams of one address."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone

    def connection_made(self, transport: Any) -> None:
        """Keep the way back."""
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one query; what is not DNS gets no answer."""
        try:
            answer, delay = self.zone.answer(dns.message.from_wire(data), "udp", addr[0])
        except dns.exception.DNSException:
            return
        if answer is not None:
            asyncio.get_running_loop().call_later(delay, self.transport.sendto, answer, addr)


async def obey(server: Server, request: dict[str, Any]) -> object:
    """Do what one line of standard input says."""
    zone = server.zone
    match request["op"]:
        case "records":
            for name, entry in request["records"].items():
                key = dns.name.from_text(name)
                if entry is None:
                    zone.records.pop(key, None)
                else:
                    zone.records[key] = entry
        case "limits":
            zone.udp_limit, zone.edns = request["udp"], request["edns"]
            if zone.tcp != request["tcp"]:
                zone.tcp = request["tcp"]
                await server.stop()
                await server.start()
        case "log":
            return zone.log
        case "start":
            await server.start()
        case "stop":
            await server.stop()
    return None


async def main() -> None:
    """Serve until standard input closes."""
    settings = json.loads(sys.argv[1])
    server = Server(Zone(), settings["addresses"], settings["port"])
    await server.start()
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=1 << 26)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    print('{"result": null}', flush=True)
    while line := await lines.readline():
        try:
            reply: dict[str, object] = {"result": await obey(server, json.loads(line))}
        except (dns.exception.DNSException, OSError) as error:
            reply = {"error": str(error)}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
