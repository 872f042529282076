"""A TLS server that says who asked for what: started in a host of the lab as a process of its own.

    tls_server.py ADDRESS PORT CERTIFICATE KEY LOG

Every connection is a line of LOG when it is accepted, so a connection that never speaks is seen, too. The answer is the
peer's address and the name in the ClientHello.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from pathlib import Path


def main(address: str, port: str, certificate: str, key: str, log: str) -> None:
    """Serve until killed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asked = threading.local()

    def name(_socket: ssl.SSLObject, server_name: str | None, _context: ssl.SSLContext) -> None:
        asked.name = server_name

    context.sni_callback = name

    def serve(connection: socket.socket, peer: str) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as secured:
                secured.sendall(f"{peer} {asked.name}\n".encode())
                while data := secured.recv(4096):
                    secured.sendall(data)
        except (OSError, ssl.SSLError):
            connection.close()

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        socket.create_server((address, int(port)), family=family) as listener,
        Path(log).open("a", buffering=1) as lines,
    ):
        lines.write("listening\n")
        while True:
            connection, peer = listener.accept()
            lines.write(f"{peer[0]}\n")
            threading.Thread(target=serve, args=(connection, peer[0]), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
