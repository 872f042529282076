"""Squid's helper for EGRESS_HTTP_PROXY_CONNECT_SNI=check: is the name in the TLS ClientHello the host of the CONNECT?

A line each way (external_acl_type of squid.conf): ``ID HOST SNI -``, where SNI is ``-`` for none and the end what the
acl adds, nothing; ``ID OK`` or ``ID ERR``. Host and SNI are percent-encoded (``%#``), which changes no name: a SNI is
any bytes, and one with a newline in it would be a line of its own here. To an address a client says no name. It is run
by its path, without our package.
"""

from __future__ import annotations

import os
import re
import sys

#: The last part of a host that inet_aton(3) may take for an address: no top-level domain is a number.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def agrees(host: str, sni: str) -> bool:
    """Return whether the name in a ClientHello ("-": none) is what a client may say to a host."""
    host, sni = host.lower().rstrip("."), sni.lower().rstrip(".")
    if ":" in host or _NUMBER.fullmatch(host.rpartition(".")[2]):
        return sni == "-"
    return host == sni


def main() -> None:
    """Answer until Squid is gone."""
    for line in sys.stdin.buffer:
        number, *words = line.decode("ascii", "replace").rstrip("\n").split(" ")
        answer = "OK" if len(words) >= 2 and words[2:] in ([], ["-"]) and agrees(*words[:2]) else "ERR"
        # In one write: Squid 5.7 takes an answer that comes in pieces for no answer.
        os.write(sys.stdout.fileno(), f"{number} {answer}\n".encode())


if __name__ == "__main__":
    main()
