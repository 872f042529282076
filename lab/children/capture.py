"""Writes what an AF_PACKET socket hears to a pcap file, until its standard input closes.

Usage: capture.py '{"fd": N, "path": FILE}'. Each line of standard input is answered, once the wire has been quiet
for a moment, with the number of bytes in the file and the number of frames that the kernel had to drop.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time

SNAP_LENGTH = 384
SOL_PACKET = 263
PACKET_STATISTICS = 6
SO_TIMESTAMPNS = 35
#: A frame that was sent before the question is here once nothing came for so many seconds, or once a frame is here
#: that is later than the question by as many.
QUIET = 0.03
PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, SNAP_LENGTH, 1)  # nanoseconds, Ethernet


class Writer:
    """Moves frames from the socket to the file."""

    def __init__(self, fd: int, path: str) -> None:
        self.source = socket.socket(fileno=fd)
        self.source.setblocking(False)
        self.source.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.file = open(path, "wb")  # noqa: PTH123, SIM115 - pathlib would cost its import; open until the end
        self.file.write(PCAP_HEADER)
        self.buffer = bytearray(SNAP_LENGTH)
        self.dropped = 0
        self.newest = 0  # nanoseconds since the epoch, by the kernel's time stamps

    def drain(self, limit: int = 1000) -> int:
        """Write the frames that wait, at most ``limit``; return their number."""
        for count in range(limit):
            try:
                # MSG_TRUNC makes the result the length on the wire, however little of it fits.
                length, ancillary, _, _ = self.source.recvmsg_into([self.buffer], 64, socket.MSG_TRUNC)
            except BlockingIOError:
                return count
            except OSError:  # the interface went down or away: that is an event, not the end
                continue
            if ancillary:
                seconds, nanoseconds = struct.unpack_from("qq", ancillary[0][2])
            else:  # heard before time stamps were asked for
                seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
            self.newest = seconds * 1_000_000_000 + nanoseconds
            kept = min(length, SNAP_LENGTH)
            self.file.write(struct.pack("<IIII", seconds, nanoseconds, kept, length))
            self.file.write(self.buffer[:kept])
        return limit

    def flush(self) -> dict[str, int]:
        """Write all that was sent until now; return the size of the file and the number of dropped frames."""
        enough = time.time_ns() + int(QUIET * 1e9)
        while self.newest < enough:
            if self.drain() == 0 and not select.select([self.source], [], [], QUIET)[0]:
                break
        self.file.flush()
        _, drops = struct.unpack("II", self.source.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self.dropped += drops
        return {"bytes": self.file.tell(), "dropped": self.dropped}


def say(message: object) -> None:
    """Print one JSON line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Capture until standard input closes."""
    settings = json.loads(sys.argv[1])
    fd: int = settings["fd"]
    writer = Writer(settings["fd"], settings["path"])
    say({"result": None})
    while True:
        readable, _, _ = select.select([0, fd], [], [])
        if fd in readable:
            writer.drain()
        if 0 in readable:
            if not os.read(0, 4096):
                return
            say({"result": writer.flush()})


if __name__ == "__main__":
    main()
