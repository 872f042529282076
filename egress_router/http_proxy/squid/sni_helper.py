"""Squid's helper for EGRESS_HTTP_PROXY_CONNECT_SNI=check: is the name in the TLS ClientHello the host of the CONNECT?

A line each way (external_acl_type of squid.conf): ``ID HOST SNI``, ``-`` for no SNI; ``ID OK`` or ``ID ERR``. To an
address a client says no name. It is run by its path, without our package.
"""

from __future__ import annotations

import os
import sys


def agrees(host: str, sni: str) -> bool:
    """Return whether the name in a ClientHello ("-": none) is what a client may say to a host."""
    host, sni = host.lower().rstrip("."), sni.lower().rstrip(".")
    if ":" in host or host.rpartition(".")[2].isdigit() or host.startswith("0x"):
        return sni == "-"
    return host == sni


def main() -> None:
    """Answer until Squid is gone."""
    for line in sys.stdin:
        number, *words = line.split()
        answer = "OK" if len(words) >= 2 and agrees(words[0], words[1]) else "ERR"
        # In one write: Squid 5.7 takes an answer that comes in pieces for no answer.
        os.write(sys.stdout.fileno(), f"{number} {answer}\n".encode())


if __name__ == "__main__":
    main()
