"""EGRESS_HTTP_PROXY_CONNECT_SNI=check, with a Squid that has OpenSSL: what a tunnel's ClientHello asks for is what was
allowed, or there is no connection to a server.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from egress_router.errors import PlatformError
from egress_router.http_proxy.squid.files import require_openssl
from lab import Lab
from tests.http_proxy.kernel.http_pod import Client, Proxy
from tests.support.tls import TlsServer, client_hello, make_certificate, with_sni

pytestmark = [pytest.mark.root, pytest.mark.parametrize("shape", ["bridge"])]

SERVER = "203.0.113.25"


@pytest.fixture(scope="module")
def squid_openssl() -> Iterator[Path]:
    """The directory of a squid with OpenSSL: this machine's, or that of Debian's package, unpacked beside it."""
    installed = shutil.which("squid") or "/usr/sbin/squid"
    try:
        require_openssl(installed)
    except PlatformError:
        pass
    else:
        yield Path(installed).parent
        return
    # Not pytest's own: it takes the permission for others away from it.
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        command = ["apt-get", "download", "squid-openssl"]
        fetched = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        if fetched.returncode:
            leave = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            leave(f"no squid-openssl to be had: {fetched.stderr[-200:]}")
        for package in directory.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, directory / "root"], check=True)
        found = directory / "root/usr/sbin"
        # Debian 13 has it beside the one with GnuTLS.
        (program,) = found.iterdir()
        require_openssl(str(program))
        yield found


@pytest.fixture
def server(lab: Lab, tmp_path: Path) -> Iterator[TlsServer]:
    make_certificate(tmp_path, ["DNS:one.example.com", f"IP:{SERVER}"])
    found = TlsServer(lab, tmp_path, SERVER)
    yield found
    found.close()


def start(proxy: Proxy, directory: Path, policy: str | None = None, more: dict[str, str] | None = None) -> None:
    env = {"EGRESS_HTTP_PROXY_CONNECT_SNI": "check", "PATH": f"{directory}:{os.environ['PATH']}", **(more or {})}
    proxy.start(policy, env)


def ended(tunnel: socket.socket, data: bytes) -> bool:
    tunnel.sendall(data)
    try:
        return tunnel.recv(4096) == b""
    except ConnectionResetError:
        return True


def test_the_name_in_the_tunnel(
    lab: Lab, proxy: Proxy, client: Client, server: TlsServer, squid_openssl: Path, tmp_path: Path
) -> None:
    lab.dns.set("one.example.com", A=[SERVER])
    lab.dns.set("two.example.com", A=[SERVER])
    start(proxy, squid_openssl, f"*.example.com\n{SERVER}\n")
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    for target, name in (
        ("one.example.com", "one.example.com"),
        ("ONE.example.com", "one.example.com"),
        (SERVER, None),
    ):
        status, tunnel = client.tunnel(f"{target}:443")
        assert status == 200
        with context.wrap_socket(tunnel, server_hostname=name or SERVER) as secured:
            assert secured.recv(100).decode().split()[1] == str(name)
    before = server.count
    assert before == 3
    refused = [client_hello("two.example.com"), client_hello(None), client_hello("evil.example.org")]
    refused += [with_sni(SERVER.encode()), b"SSH-2.0-OpenSSH_9.2\r\n", b"GET / HTTP/1.1\r\n\r\n"]
    for hello in refused:
        status, tunnel = client.tunnel("one.example.com:443")
        with tunnel:
            assert status == 200
            assert ended(tunnel, hello), hello
    status, tunnel = client.tunnel(f"{SERVER}:443")
    with tunnel:
        assert ended(tunnel, client_hello("one.example.com"))
    # Squid wants to say 403 inside of TLS, with a certificate that nobody trusts.
    status, tunnel = client.tunnel("one.example.org:443")
    with pytest.raises(ssl.SSLCertVerificationError):
        context.wrap_socket(tunnel, server_hostname="one.example.org")
    assert status == 200
    assert server.count == before, "no connection for what was refused"
    log = proxy.wait_for_log(11)
    assert len(log) == 11, "one line a tunnel"
    assert [entry["decision"] for entry in log[:3]] == ["allow"] * 3
    assert [entry["line"] for entry in log[:3]] == [1, 1, 2]
    assert {entry["server"] for entry in log[:3]} == {SERVER}
    other = "the name in the TLS ClientHello (SNI) is not the host of the CONNECT"
    assert [entry.get("reason") for entry in log[3:7]] == [other] * 4
    assert [entry.get("error") for entry in log[7:9]] == ["tls"] * 2
    assert log[9].get("reason") == other
    assert {"host": "one.example.org", "decision": "deny", "line": None}.items() <= log[10].items()


def test_a_reload_leaves_tunnels_alone(
    lab: Lab, proxy: Proxy, client: Client, server: TlsServer, squid_openssl: Path, tmp_path: Path
) -> None:
    lab.dns.set("one.example.com", A=[SERVER])
    lab.http(SERVER, port=80)
    proxy.write_policy("*.example.com\n")
    start(proxy, squid_openssl)
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with context.wrap_socket(client.tunnel("one.example.com:443")[1], server_hostname="one.example.com") as secured:
        assert secured.recv(100)
        proxy.write_policy("one.example.com\n")
        proxy.wait_for("generation 2 is in force")
        time.sleep(4)
        secured.sendall(b"still here")
        assert secured.recv(100) == b"still here"
        assert client.status("http://one.example.com/") == 200
        status, tunnel = client.tunnel("one.example.com:443")
        with tunnel:
            assert (status, ended(tunnel, client_hello("two.example.com"))) == (200, True)


@pytest.mark.parametrize("unbuffered", ["1", ""])
def test_no_tunnel_with_another_name_of_many(
    lab: Lab, proxy: Proxy, client: Client, server: TlsServer, squid_openssl: Path, unbuffered: str
) -> None:
    """Also where Python writes each word at once (PYTHONUNBUFFERED), which Squid misreads."""
    lab.dns.set("one.example.com", A=[SERVER])
    start(proxy, squid_openssl, "*.example.com\n", {"PYTHONUNBUFFERED": unbuffered})
    for number in range(100):
        status, tunnel = client.tunnel("one.example.com:443")
        with tunnel:
            hello = client_hello(f"another{number}.example.com")
            assert (status, ended(tunnel, hello), server.count) == (200, True, 0), number


def test_a_name_of_any_bytes_is_no_line_of_the_helper(
    lab: Lab, proxy: Proxy, client: Client, server: TlsServer, squid_openssl: Path
) -> None:
    """Answers to lines that a client wrote would be answers about tunnels of others, and end Squid."""
    names = ["one.example.com", "0xab.example.com"]
    for name in names:
        lab.dns.set(name, A=[SERVER])
    start(proxy, squid_openssl, "*.example.com\n")
    before = proxy.squid_pids()
    odd = [f"one.example.com{mark}0 a a" for mark in ("\n", "\n0 OK\n", "\r", "\t", "\v", " ", "\xa0", "\u2028", "%0A")]
    odd += ["two.example.com\n0 a a\n1 a a\n2 a a", "\n" * 2000, "one.example.com two.example.com", "one%2eexample.com"]
    refused = [text.encode() for text in odd] + [b"\xff", b"one.example.com\xff", b"a" * 9000, b"-", b""]
    for sni in refused:
        status, tunnel = client.tunnel("one.example.com:443")
        with tunnel:
            assert (status, ended(tunnel, with_sni(sni)), server.count) == (200, True, 0), sni
    for count, host in enumerate(names, start=1):
        status, tunnel = client.tunnel(f"{host}:443")
        with tunnel:
            assert (status, ended(tunnel, client_hello(host)), server.count) == (200, False, count)
    assert proxy.squid_pids() == before
    assert "unexpected reply" not in proxy.err.read_text()


def test_a_squid_without_openssl_says_so(lab: Lab, proxy: Proxy) -> None:
    fake = proxy.work / "squid"
    fake.write_text("#!/bin/sh\necho \"configure options: '--with-gnutls'\"\n")
    fake.chmod(0o755)
    env = {"EGRESS_HTTP_PROXY_CONNECT_SNI": "check", "PATH": f"{proxy.work}:{os.environ['PATH']}"}
    proxy.start("*", env, wait=False)
    assert proxy.process
    assert proxy.process.wait(30) == 69
    assert "squid-openssl" in proxy.err.read_text()
