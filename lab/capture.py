"""What crossed an interface, and the questions that matter about it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lab.addressing import Address, is_outside, parse
from lab.child import Child
from lab.packet import Packet, read_pcap

if TYPE_CHECKING:
    from lab.host import Host

#: Bytes of kernel memory for frames that wait to be written: some 50,000 small ones.
RECEIVE_BUFFER = 64 * 1024 * 1024


class CaptureIncomplete(Exception):
    """Frames were dropped or never read, so nothing can be said about what was not seen."""


class Capture:
    """A capture of one interface. It hears everything from the moment it exists until ``stop`` returns.

    A context manager, that stops at its end; ``packets`` can be read before and after. ``path`` is a pcap file
    that goes away with the lab (``save`` copies it).
    """

    def __init__(self, host: Host, interface: str) -> None:
        self.host = host
        self.interface = interface
        self._folder = tempfile.TemporaryDirectory(prefix="egress-lab-")
        self.path = Path(self._folder.name) / f"{host.name}.pcap"
        self._local_mac = host.mac(interface)
        self._packets: list[Packet] = []
        self._parsed = 0
        self._stopped = False
        self._unread = False
        with host.worker.packet_socket(host.netns_path, interface, RECEIVE_BUFFER) as source:
            self._writer = Child(
                "capture.py", {"fd": source.fileno(), "path": str(self.path)}, pass_fds=[source.fileno()]
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _refresh(self) -> None:
        if self._unread:
            raise CaptureIncomplete(f"{self.host.name} {self.interface}: the lab went down before this was read")
        if self._stopped:
            return
        state = self._writer.ask({})
        if state["dropped"]:
            raise CaptureIncomplete(f"{self.host.name} {self.interface}: {state['dropped']} frames were dropped")
        size = state["bytes"]
        if size != self._parsed:
            with self.path.open("rb") as file:
                # A new list on each call would cost quadratic time in tests that poll; records start where we ended.
                file.seek(max(0, self._parsed - 24))
                data = file.read(size - file.tell())
            self._packets.extend(read_pcap(data))
            self._parsed = size

    def stop(self) -> None:
        """Take in all that was sent until now, and hear no more."""
        if not self._stopped:
            try:
                self._refresh()
            finally:
                self._stopped = True
                self._writer.close()

    def close(self) -> None:
        """Stop without reading, and remove the file. What was not read before cannot be asked about any more."""
        if not self._stopped:
            self._stopped = self._unread = True
            self._writer.close()
        self._folder.cleanup()

    @property
    def packets(self) -> list[Packet]:
        """All packets until now, in the order in which they were heard.

        Raises CaptureIncomplete when the kernel dropped any.
        """
        self._refresh()
        return list(self._packets)

    def clear(self) -> None:
        """Forget the packets until now (the pcap file keeps them)."""
        self._refresh()
        self._packets.clear()

    def received(self) -> list[Packet]:
        """Return the packets that came in: not sent by the interface itself."""
        return [packet for packet in self.packets if packet.src_mac != self._local_mac]

    def outgoing(self) -> list[Packet]:
        """Return the IP packets that came in on their way out of the cluster (see addressing.is_outside)."""
        return [
            packet
            for packet in self.received()
            if packet.proto != "arp" and packet.dst is not None and is_outside(packet.dst)
        ]

    def sources(self) -> set[Address]:
        """Return the source addresses that left the cluster."""
        return {packet.src for packet in self.outgoing() if packet.src is not None}

    def leaks(self, allowed: Iterable[Address | str]) -> list[Packet]:
        """Return the packets that left the cluster with a source that is not among ``allowed``.

        An empty list means something only next to a positive control: ``sources()`` holds the allowed ones.
        """
        fine = {parse(address) for address in allowed}
        return [packet for packet in self.outgoing() if packet.src not in fine]

    def owners(self, address: Address | str) -> set[str]:
        """Return every hardware address that claimed ``address`` or sent with it as source."""
        wanted = parse(address)
        return {mac for packet in self.received() if (mac := claims(packet, wanted))}

    def owner_mac(self, address: Address | str) -> str | None:
        """Return the hardware address that last claimed ``address`` or sent with it; None when there was none."""
        wanted = parse(address)
        return next((mac for packet in reversed(self.received()) if (mac := claims(packet, wanted))), None)

    def text(self) -> str:
        """Return one line per packet, much as ``tcpdump -e -n`` prints them."""
        return "".join(f"{datetime.fromtimestamp(packet.time, UTC):%H:%M:%S.%f} {packet}\n" for packet in self.packets)

    def save(self, path: str | Path) -> None:
        """Copy the pcap file, for tcpdump or Wireshark."""
        self._refresh()
        Path(path).write_bytes(self.path.read_bytes())


def claims(packet: Packet, address: Address) -> str | None:
    """Return the hardware address that a packet shows to have ``address``; None when it says nothing about it."""
    if packet.target == address and packet.target_mac:
        return packet.target_mac
    return packet.src_mac if packet.src == address else None
