"""TLS for tests: a certificate, a server of the outside world, and ClientHellos of any kind."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from lab import Host, Lab


def make_certificate(directory: Path, names: Iterable[str]) -> Path:
    """Make cert.pem, which is its own authority, for ``names`` (``DNS:...``, ``IP:...``), and key.pem beside it; return
    the path of the certificate.
    """
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=lab", "-addext", "subjectAltName=" + ",".join(names)]
    command += ["-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return directory / "cert.pem"


class TlsServer:
    """A TLS server of the outside world. ``count`` is how many connections it accepted."""

    def __init__(self, lab: Lab, directory: Path, address: str, port: int = 443, host: Host | None = None) -> None:
        # The host of the world that has the address.
        host = host or lab.http(address, port=9).host
        self.log = directory / f"tls-{address.replace(':', '-')}-{port}"
        script = Path(__file__).with_name("tls_server.py")
        words = [address, str(port), str(directory / "cert.pem"), str(directory / "key.pem"), str(self.log)]
        self.process = host.popen([sys.executable, str(script), *words])
        end = time.monotonic() + 10
        while not self.log.exists() or "listening" not in self.log.read_text():
            assert time.monotonic() < end
            time.sleep(0.02)

    @property
    def count(self) -> int:
        return len(self.log.read_text().splitlines()) - 1

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def client_hello(name: str | None, extension: tuple[int, bytes] | None = None) -> bytes:
    """Return a ClientHello of OpenSSL for a name, with one extension more."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    record = out.read()
    if extension is None:
        return record
    body = record[9:]
    at = 34
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2], "big")
    at += 1 + body[at]
    kind, data = extension
    extensions = kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data + body[at + 2 :]
    body = body[:at] + len(extensions).to_bytes(2, "big") + extensions
    handshake = b"\x01" + len(body).to_bytes(3, "big") + body
    return record[:3] + len(handshake).to_bytes(2, "big") + handshake


def with_sni(name: bytes) -> bytes:
    """Return a ClientHello whose SNI is any bytes."""
    entry = b"\x00" + len(name).to_bytes(2, "big") + name
    return client_hello(None, (0, len(entry).to_bytes(2, "big") + entry))
