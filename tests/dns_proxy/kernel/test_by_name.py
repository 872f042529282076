"""TLS and HTTP by name: real TLS servers behind one port of the router, certificates untouched, and no connection to
what the policy denies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lab import Host, Lab
from tests.dns_proxy.kernel.dns_proxy_pod import SOURCE, DnsProxyPod
from tests.support.figures import check as check_figures
from tests.support.tls import TlsServer, client_hello, make_certificate, with_sni

pytestmark = [pytest.mark.root, pytest.mark.parametrize("shape", ["bridge"])]

ONE, TWO, SIX = "203.0.113.25", "203.0.113.26", "2001:db8:113::25"
POLICY = "one.example.com\ntwo.example.com:443\n*.wild.example.com\n!secret.example.com\n"
#: encrypted_client_hello, RFC 9849.
ECH = 0xFE0D


@pytest.fixture
def certificate(open_directory: Path) -> Path:
    names = "one.example.com two.example.com a.wild.example.com b.wild.example.com six.example.com both.example.com"
    names += " denied.example.com secret.example.com"
    return make_certificate(open_directory, [f"DNS:{name}" for name in names.split()])


class ByName(DnsProxyPod):
    """The pod, and what its clients see."""

    def __init__(self, lab: Lab, directory: Path, policy: str, families: str = "46", **env: str) -> None:
        super().__init__(lab, directory, "", families, **env)
        del self.env["EGRESS_DNS_PROXY_DESTINATION_FILE"]
        self.policy = directory / "policy"
        self.policy.write_text(policy)
        self.env["EGRESS_TLS_PROXY_DESTINATION_FILE"] = str(self.policy)
        self.certificate = directory / "cert.pem"

    def connect(self, port: int = 443, address: str | None = None, client: Host | None = None) -> socket.socket:
        address = address or self.address
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        opened = (client or self.client).socket(family, socket.SOCK_STREAM)
        opened.settimeout(15)
        opened.connect((address, port))
        return opened

    def tls(self, name: str | None, **where: Any) -> ssl.SSLSocket:
        """Return a verified TLS connection for a name."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.check_hostname = name is not None
        return context.wrap_socket(self.connect(**where), server_hostname=name)

    def said(self, name: str, **where: Any) -> list[str]:
        with self.tls(name, **where) as opened:
            return opened.recv(4096).decode().split()

    def refused(self, data: bytes) -> bool:
        """Whether the router closes a connection that begins like this, without an answer."""
        with self.connect() as opened:
            opened.sendall(data)
            try:
                return opened.recv(4096) == b""
            except ConnectionResetError:
                return True

    def wait_for_log(self, count: int) -> list[dict[str, Any]]:
        self.until(lambda: len(self.access_log()) >= count)
        return self.access_log()


@pytest.fixture
def servers(lab: Lab, certificate: Path) -> Iterator[dict[str, TlsServer]]:
    found = {address: TlsServer(lab, certificate.parent, address) for address in (ONE, TWO, SIX)}
    yield found
    for server in found.values():
        server.close()


def test_names_behind_one_port(lab: Lab, open_directory: Path, servers: dict[str, TlsServer]) -> None:
    lab.dns.set("one.example.com", A=[ONE])
    lab.dns.set("two.example.com", A=[TWO])
    lab.dns.set("a.wild.example.com", AAAA=[SIX])
    for name in ("denied.example.com", "secret.example.com", "x.secret.example.com"):
        lab.dns.set(name, A=[TWO])
    with lab.capture() as capture, ByName(lab, open_directory, POLICY) as pod:
        assert pod.router.run(["curl", "-sk", "-m", "5", f"https://{TWO}/"], check=False).returncode in (0, 1, 52, 56)
        before = servers[TWO].count
        assert before >= 1, "the control: the router can reach what the policy denies"
        assert pod.said("one.example.com") == [SOURCE[4], "one.example.com"]
        assert pod.said("two.example.com") == [SOURCE[4], "two.example.com"]
        assert pod.said("a.wild.example.com") == [SOURCE[6], "a.wild.example.com"]
        assert pod.said("one.example.com", address=str(pod.router.addresses[6])) == [SOURCE[4], "one.example.com"]
        for name in ("denied.example.com", "secret.example.com", "x.secret.example.com", "ONE.example.com.evil"):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                pod.tls(name)
        assert servers[TWO].count == before + 1
        log = pod.wait_for_log(8)
    assert capture.leaks(allowed=set(SOURCE.values())) == []
    assert [(entry["kind"], entry["host"], entry["decision"], entry["line"]) for entry in log] == [
        ("tls", "one.example.com", "allow", 1),
        ("tls", "two.example.com", "allow", 2),
        ("tls", "a.wild.example.com", "allow", 3),
        ("tls", "one.example.com", "allow", 1),
        ("tls", "denied.example.com", "deny", None),
        ("tls", "secret.example.com", "deny", 4),
        ("tls", "x.secret.example.com", "deny", None),
        ("tls", "one.example.com.evil", "deny", None),
    ]
    assert {
        "client": str(pod.client.addresses[4]),
        "rule": "one.example.com",
        "address": ONE,
        "state": "--",
    }.items() <= log[0].items()
    asked = {query.name.rstrip(".").lower() for query in lab.dns.queries}
    assert "one.example.com" in asked
    assert not asked & {"denied.example.com", "secret.example.com", "x.secret.example.com"}


def test_what_names_nobody_is_refused(lab: Lab, open_directory: Path, servers: dict[str, TlsServer]) -> None:
    lab.dns.set("one.example.com", A=[ONE])
    with ByName(lab, open_directory, "*\n") as pod:
        assert pod.said("one.example.com") == [SOURCE[4], "one.example.com"]
        before = {address: server.count for address, server in servers.items()}
        hellos = [client_hello(None), with_sni(b"")]
        names = [ONE.encode(), b"0xcb.0.113.25", b"3405803801", SIX.encode(), b"[2001:db8:113::25]", b"one example.com"]
        names += [b"one.example.com\n", b'one.example.com","x":"', b"\xffone.example.com", b"one..example.com"]
        names += [
            b"a" * 64 + b".example.com",
            b"x" * 300,
            b"*.example.com",
            b"one.example.com:443",
            b"-.example.com",
            b".",
        ]
        hellos += [with_sni(name) for name in names]
        for hello in hellos:
            assert pod.refused(hello), hello
        assert pod.refused(b"GET / HTTP/1.1\r\nHost: one.example.com\r\n\r\n")
        assert pod.refused(b"SSH-2.0-x\r\n" + bytes(2000))
        assert {address: server.count for address, server in servers.items()} == before
        log = pod.wait_for_log(len(hellos) + 3)
        assert {entry["decision"] for entry in log[1:]} == {"invalid"}
        assert "no name in the TLS ClientHello (SNI)" in {entry["reason"] for entry in log[1:]}
        # The server still serves, and who says nothing leaves no line.
        pod.connect().close()
        assert pod.said("one.example.com") == [SOURCE[4], "one.example.com"]
        assert len(pod.wait_for_log(len(log) + 1)) == len(log) + 1


def test_odd_hellos_of_good_clients(lab: Lab, open_directory: Path, servers: dict[str, TlsServer]) -> None:
    """In many segments, with an encrypted ClientHello inside (the outer name counts), in other spellings."""
    lab.dns.set("one.example.com", A=[ONE])
    with ByName(lab, open_directory, "one.example.com\n") as pod:
        for hello in (client_hello("one.example.com", (ECH, b"\x00" + bytes(200))), with_sni(b"One.Example.COM")):
            with pod.connect() as opened:
                for at in range(0, len(hello), 100):
                    opened.sendall(hello[at : at + 100])
                    time.sleep(0.01)
                # A ServerHello, or an alert: the server's own words in any case.
                assert opened.recv(5)[:1] in (b"\x16", b"\x15")
        assert servers[ONE].count == 2
        log = pod.wait_for_log(2)
    assert [(entry["host"], entry["line"], entry["address"]) for entry in log] == [("one.example.com", 1, ONE)] * 2


def test_addresses_that_names_may_not_lead_to(lab: Lab, open_directory: Path, servers: dict[str, TlsServer]) -> None:
    pod = ByName(lab, open_directory, f"!{TWO}\n*.example.com\n")
    own = str(pod.router.addresses[4])
    lab.dns.set("one.example.com", A=[ONE])
    closed = {
        "loop": ["127.0.0.1"],
        "own": [own],
        "source": [SOURCE[4]],
        "metadata": ["169.254.169.254"],
        "cluster": [str(pod.client.addresses[4])],
        "dns": [str(lab.dns.address)],
        "mixed": [ONE, "127.0.0.1"],
        "denied": [ONE, TWO],
    }
    for name, addresses in closed.items():
        lab.dns.set(f"{name}.example.com", A=addresses)
    lab.dns.set("nat64.example.com", AAAA=["64:ff9b::7f00:1"])
    with pod:
        assert pod.said("one.example.com")[0] == SOURCE[4]
        before = servers[ONE].count, servers[TWO].count
        for name in [*closed, "nat64", "nowhere"]:
            assert pod.refused(client_hello(f"{name}.example.com")), name
        assert (servers[ONE].count, servers[TWO].count) == before
        log = {entry["host"].partition(".")[0]: entry for entry in pod.wait_for_log(len(closed) + 3)}
    for name in ("loop", "own", "source", "metadata", "cluster", "mixed", "nat64"):
        assert log[name]["reason"] == "a closed address", log[name]
    assert log["denied"]["line"] == 1
    assert (log["nowhere"]["decision"], log["nowhere"]["error"]) == ("allow", "dns")
    assert "does not exist" in log["nowhere"]["detail"]


def test_only_families_with_a_source(lab: Lab, open_directory: Path, servers: dict[str, TlsServer]) -> None:
    lab.dns.set("both.example.com", A=[ONE], AAAA=[SIX])
    lab.dns.set("six.example.com", AAAA=[SIX])
    with lab.capture() as capture, ByName(lab, open_directory, "*\n", families="4") as pod:
        for _ in range(4):
            assert pod.said("both.example.com")[0] == SOURCE[4]
        assert pod.refused(client_hello("six.example.com"))
        assert not [query for query in lab.dns.queries if query.type == "AAAA" and "example.com" in query.name]
    assert capture.leaks(allowed={SOURCE[4]}) == []
    assert servers[SIX].count == 0


def test_an_address_that_refuses_costs_nobody_a_connection(
    lab: Lab, open_directory: Path, servers: dict[str, TlsServer]
) -> None:
    lab.http("203.0.113.27", port=80)
    lab.dns.set("both.example.com", A=[ONE, "203.0.113.27"])
    lab.dns.set("one.example.com", A=["203.0.113.27"])
    with ByName(lab, open_directory, "*\n", families="4") as pod:
        for _ in range(6):
            assert pod.said("both.example.com")[0] == SOURCE[4]
        assert pod.refused(client_hello("one.example.com"))
        entry = pod.wait_for_log(7)[-1]
    assert (entry["decision"], entry["error"], entry["address"]) == ("allow", "connect", "203.0.113.27")


def test_clients_have_their_sections(lab: Lab, open_directory: Path, servers: dict[str, TlsServer]) -> None:
    lab.dns.set("one.example.com", A=[ONE])
    other = lab.pod("other")
    pod = ByName(lab, open_directory, "")
    pod.policy.write_text(f"[from {pod.client.addresses[4]}]\n*.example.com\n")
    with pod:
        assert pod.said("one.example.com")[0] == SOURCE[4]
        with pytest.raises((ssl.SSLError, ConnectionError)):
            pod.tls("one.example.com", client=other)
        log = pod.wait_for_log(2)
    assert [(entry["client"], entry["line"]) for entry in log] == [
        (str(pod.client.addresses[4]), 2),
        (str(other.addresses[4]), None),
    ]


def test_a_reload_and_open_connections(lab: Lab, open_directory: Path, servers: dict[str, TlsServer]) -> None:
    lab.dns.set("one.example.com", A=[ONE])
    lab.dns.set("two.example.com", A=[TWO])
    with ByName(lab, open_directory, "one.example.com\n") as pod:
        with pod.tls("one.example.com") as opened:
            assert opened.recv(4096)
            pod.policy.write_text("two.example.com\n")
            pod.until(lambda: "haproxy generation 2 is in force" in pod.messages())
            opened.sendall(b"still here")
            assert opened.recv(4096) == b"still here"
            assert pod.said("two.example.com")[0] == SOURCE[4]
            assert pod.refused(client_hello("one.example.com"))
        pod.policy.write_text("10.0.0.0/33\n")
        pod.until(lambda: "reload refused" in pod.messages())
        assert pod.said("two.example.com")[0] == SOURCE[4]
        metrics = pod.router.run(["curl", "-s", "http://127.0.0.1:9909/metrics"]).stdout
        check_figures("dns-proxy-by-name", metrics)
        assert 'egress_router_by_name_requests_total{decision="deny"} 1.0' in metrics
        assert 'egress_router_destination_requests_total{destination="two.example.com"}' in metrics
        assert '"tls_ports"' in pod.router.run(["curl", "-s", "http://127.0.0.1:9909/status"]).stdout


def test_http_by_host(lab: Lab, open_directory: Path) -> None:
    servers = {address: lab.http(address, port=80) for address in (ONE, TWO)}
    lab.dns.set("one.example.com", A=[ONE])
    lab.dns.set("two.example.com", A=[TWO])
    lab.dns.set("secret.example.com", A=[TWO])
    with lab.capture() as capture, ByName(lab, open_directory, "one.example.com\ntwo.example.com\n") as pod:

        def status(request: str) -> int:
            with pod.connect(80) as opened:
                opened.sendall(request.replace("\n", "\r\n").encode())
                return int((opened.recv(65536).split() or [b"", b"0"])[1])

        assert status("GET / HTTP/1.1\nHost: one.example.com\n\n") == 200
        assert status("GET / HTTP/1.1\nHost: ONE.example.com.:80\n\n") == 200
        before = {address: len(server.requests) for address, server in servers.items()}
        assert status("GET / HTTP/1.1\nHost: secret.example.com\n\n") == 403
        assert status("GET / HTTP/1.1\nHost: one.example.com, two.example.com\n\n") == 400
        assert status("GET / HTTP/1.1\nHost: one.example.com:8080\n\n") == 400
        assert status(f"GET / HTTP/1.1\nHost: {ONE}\n\n") == 400
        assert status("GET / HTTP/1.1\nHost:\n\n") == 400
        assert status("GET / HTTP/1.0\n\n") == 400
        assert status("GET http://secret.example.com/ HTTP/1.1\nHost: one.example.com\n\n") in (400, 403)
        assert status("GET / HTTP/1.1\nHost: one.example.com\nHost: secret.example.com\n\n") == 400
        assert status("CONNECT two.example.com:443 HTTP/1.1\nHost: two.example.com:443\n\n") in (400, 405)
        assert {address: len(server.requests) for address, server in servers.items()} == before
        # One connection of a client, requests for several names: each is judged, and goes where its own name is.
        with pod.connect(80) as opened:
            for name, expected in [("one", ONE), ("two", TWO), ("one", ONE), ("two", TWO)]:
                opened.sendall(f"GET / HTTP/1.1\r\nHost: {name}.example.com\r\n\r\n".encode())
                assert expected.encode() in opened.recv(65536)
            opened.sendall(b"GET / HTTP/1.1\r\nHost: secret.example.com\r\n\r\n")
            assert b" 403 " in opened.recv(65536)
        pod.until(lambda: [entry.get("host") for entry in pod.access_log()].count("two.example.com") == 2)
        log = pod.access_log()
    assert capture.leaks(allowed=set(SOURCE.values())) == []
    allowed = [entry for entry in log if entry["decision"] == "allow"]
    assert {(entry["host"], entry["line"], entry["address"]) for entry in allowed} == {
        ("one.example.com", 1, ONE),
        ("two.example.com", 2, TWO),
    }
    assert {"kind": "http", "method": "GET", "status": 403, "decision": "deny", "line": None}.items() <= next(
        entry for entry in log if entry["host"] == "secret.example.com"
    ).items()


def test_a_line_opens_an_address_of_the_cluster(lab: Lab, open_directory: Path, certificate: Path) -> None:
    """And EGRESS_SOURCE does not leave by the cluster interface for it."""
    inside = lab.pod("inside")
    address = str(inside.addresses[4])
    server = TlsServer(lab, certificate.parent, address, host=inside)
    lab.dns.set("one.example.com", A=[address])
    lab.dns.set("two.example.com", A=[str(lab.dns.address)])
    with ByName(lab, open_directory, f"{address}\n*.example.com\n") as pod:
        assert pod.said("one.example.com") == [str(pod.router.addresses[4]), "one.example.com"]
        assert pod.refused(client_hello("two.example.com"))
        log = pod.wait_for_log(2)
    server.close()
    assert [(entry["decision"], entry["line"]) for entry in log] == [("allow", 1), ("deny", None)]


def test_a_killed_haproxy_and_many_clients_at_once(
    lab: Lab, open_directory: Path, servers: dict[str, TlsServer]
) -> None:
    lab.dns.set("one.example.com", A=[ONE])
    with ByName(lab, open_directory, "*.example.com\n") as pod:
        assert pod.said("one.example.com")[0] == SOURCE[4]
        (haproxy,) = pod.haproxy_pids()
        os.kill(haproxy, signal.SIGKILL)
        pod.until(lambda: pod.haproxy_pids() not in ([], [haproxy]))

        def served() -> bool:
            try:
                return bool(pod.said("one.example.com"))
            except OSError:
                return False

        pod.until(served)
        with ThreadPoolExecutor(40) as clients:
            assert set(clients.map(lambda _: pod.said("one.example.com")[1], range(300))) == {"one.example.com"}
        # Names by the hundred that nobody knows, and clients that say nothing, are in nobody's way.
        silent = [pod.connect() for _ in range(100)]
        with ThreadPoolExecutor(40) as clients:
            unknown = [client_hello(f"n{number}.example.com") for number in range(200)]
            assert all(clients.map(pod.refused, unknown))
            assert pod.said("one.example.com")[0] == SOURCE[4]
        for one in silent:
            one.close()
        assert not [line for line in pod.messages().splitlines() if "Traceback" in line]


def test_http2_in_cleartext(lab: Lab, open_directory: Path) -> None:
    lab.http(ONE, port=80)
    lab.dns.set("one.example.com", A=[ONE])
    with ByName(lab, open_directory, "one.example.com\n") as pod:
        for name, status in (("one.example.com", "200"), ("two.example.com", "403"), (ONE, "400")):
            url = ["--connect-to", f"::{pod.address}:80", f"http://{name}/"]
            command = ["curl", "-s", "-m", "10", "--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_code}"]
            assert pod.client.run([*command, *url]).stdout == status


def test_only_websocket_is_a_tunnel(lab: Lab, open_directory: Path) -> None:
    """Behind an Upgrade to anything else, h2c above all, no request is judged: the server never sees it asked for."""
    lab.dns.set("one.example.com", A=[ONE])
    seen: list[bytes] = []

    def switch(opened: socket.socket) -> None:
        """Switch to whatever is asked for, also where nothing is, and send back what comes."""
        with opened, contextlib.suppress(OSError):
            seen.append(opened.recv(65536).lower())
            opened.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
            )
            while data := opened.recv(65536):
                opened.sendall(data)

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=switch, args=(listener.accept()[0],), daemon=True).start()

    listener = lab.http(ONE, port=9).host.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((ONE, 80))
    listener.listen()
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    with listener, ByName(lab, open_directory, "one.example.com\n") as pod:

        def answer(headers: str) -> bytes:
            """Return how the answer begins, and what comes of a request behind it."""
            with pod.connect(80) as opened:
                lines = ["GET / HTTP/1.1", "Host: one.example.com", *headers.split(";")]
                # The key of RFC 6455's example.
                lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]
                opened.sendall("\r\n".join(lines).encode())
                begin = opened.recv(65536)[:12]
                with contextlib.suppress(OSError):
                    opened.sendall(b"behind it\r\n\r\n")
                    begin += opened.recv(65536).strip()
                return begin

        assert answer("Connection: Upgrade;Upgrade: WebSocket") == b"HTTP/1.1 101behind it"
        assert b"upgrade: websocket" in seen[0]
        for headers in (
            "Connection: Upgrade, HTTP2-Settings;Upgrade: h2c;HTTP2-Settings: AAMAAABkAAQAAP__",
            "Connection: Upgrade;Upgrade: anything",
            "Connection: Upgrade;Upgrade: websocket, h2c",
            "Connection: Upgrade;Upgrade: websocket;Upgrade: h2c",
            "Connection: Upgrade;Upgrade: h2c;Upgrade: websocket",
            "Connection: Upgrade;Upgrade: websocket/13",
            "Connection: Upgrade",
        ):
            before = len(seen)
            tunnel = answer(headers).endswith(b"behind it")
            pod.until(lambda before=before: len(seen) > before)  # type: ignore[misc]
            # HAProxy 3.0 itself takes h2c out of what a client asks for; where that leaves WebSocket, it is one.
            asked = [line for line in seen[-1].split(b"\r\n") if line.startswith(b"upgrade:")]
            if asked and "h2c" in headers and "websocket" in headers:
                assert asked == [b"upgrade: websocket"], headers
            else:
                assert not asked, headers
                assert not tunnel, headers
                assert b"upgrade" not in seen[-1], headers
            assert b"http2-settings" not in seen[-1], headers


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame of HTTP/2 (RFC 9113, 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def request(stream: int, method: str, host: str) -> bytes:
    """Return a HEADERS frame, the last one of a GET, with literal fields (RFC 7541, 6.2.2)."""
    fields = {":method": method, ":scheme": "http", ":path": "/", ":authority": host}
    literal = [
        bytes([0, len(name)]) + name.encode() + bytes([len(text)]) + text.encode() for name, text in fields.items()
    ]
    return frame(1, 5 if method == "GET" else 4, stream, b"".join(literal))


def test_a_client_that_stays_is_judged_by_the_policy_in_force(lab: Lab, open_directory: Path) -> None:
    """HTTP/2 whose client passes over GOAWAY: the former HAProxy serves it for as long as it likes."""
    servers = {address: lab.http(address, port=80) for address in (ONE, TWO)}
    lab.dns.set("one.example.com", A=[ONE])
    lab.dns.set("two.example.com", A=[TWO])
    with ByName(lab, open_directory, "one.example.com\n") as pod, pod.connect(80) as opened:
        opened.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
        # A body that does not end keeps the connection.
        opened.sendall(request(1, "POST", "one.example.com") + request(3, "GET", "one.example.com"))
        pod.until(lambda: len(servers[ONE].requests) == 2)
        pod.policy.write_text("10.0.0.0/33\n")
        pod.until(lambda: "reload refused" in pod.messages())
        opened.sendall(request(5, "GET", "one.example.com"))
        pod.until(lambda: len(servers[ONE].requests) == 3)
        pod.policy.write_text("two.example.com\n")
        pod.until(lambda: "haproxy generation 3 is in force" in pod.messages())
        opened.sendall(request(7, "GET", "one.example.com") + request(9, "GET", "two.example.com"))
        pod.until(lambda: len(servers[TWO].requests) == 1)
        pod.until(
            lambda: ("one.example.com", "deny") in [(entry["host"], entry["decision"]) for entry in pod.access_log()]
        )
        assert len(servers[ONE].requests) == 3
