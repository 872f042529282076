"""Probes for an address as a machine does that is about to take it: ARP from 0.0.0.0, solicitations from ``::``.

One input line, {"address": …, "mac": …, "seconds": how long}; a probe every 50 ms on eth0, then the end.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from ipaddress import ip_address

from egress_router.net.arp_nd import Neighbours


def main() -> None:
    print(flush=True)
    request = json.loads(sys.stdin.readline())
    neighbours = Neighbours("eth0", socket.if_nametoindex("eth0"), request["mac"])
    frame = neighbours._probe(ip_address(request["address"]))
    end = time.monotonic() + request["seconds"]
    while time.monotonic() < end:
        neighbours._socket.send(frame)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
