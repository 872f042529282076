"""The HTTP proxy container: start, drain, death, reload, log, source address; as a restricted pod runs it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import Lab
from lab.servers import HttpServer
from tests.http_proxy.kernel.http_pod import PORT, Client, Proxy

# What Squid decides and does not depend on how pods are connected.
pytestmark = [pytest.mark.root, pytest.mark.parametrize("shape", ["bridge"])]

GOOD, OTHER = "203.0.113.25", "203.0.113.26"
LOAD = str(Path("bench/children/http_load.py").resolve())
KEPT_LOAD = str(Path("bench/children/http_keepalive.py").resolve())


@pytest.fixture
def server(lab: Lab) -> HttpServer:
    return lab.http(GOOD, port=80)


def test_restricted_pod_with_a_read_only_root(lab: Lab, proxy: Proxy, client: Client, server: HttpServer) -> None:
    """Any UID, group 0, no capability, and a root file system that is read-only but for the run directory."""
    root = proxy.work / "root"
    root.mkdir()
    command = (
        f"set -e; mount --make-rprivate /; mount --rbind / {root}; mount -o remount,bind,ro {root};"
        f"mount -t tmpfs -o mode=0777 none {root}{proxy.run_directory};"
        f'exec chroot {root} env --chdir={proxy.image}/code "$@"'
    )
    proxy.start("*", prefix=["unshare", "--mount", "sh", "-c", command, "sh"])
    pid = proxy.supervisor_pid()
    status = Path(f"/proc/{pid}/status").read_text()
    assert "Uid:\t1000730000" in status
    assert "CapEff:\t0000000000000000" in status
    with pytest.raises(OSError, match="Read-only file system"):
        # Not in /tmp, which may be a mount of its own.
        Path(f"/proc/{pid}/root/usr/witness").write_text("even root cannot write there")
    assert client.status(f"http://{GOOD}/") == 200
    assert proxy.stop() == 0


def test_gives_root_up(proxy: Proxy, client: Client, server: HttpServer) -> None:
    proxy.start("*", become=[])
    assert client.status(f"http://{GOOD}/") == 200
    assert len(proxy.wait_for_log(1)) == 1
    for pid in (proxy.supervisor_pid(), *proxy.squid_pids()):
        status = Path(f"/proc/{pid}/status").read_text()
        assert "Uid:\t1001\t1001\t1001\t1001\n" in status
        assert "CapEff:\t0000000000000000" in status
    assert proxy.stop() == 0
    proxy.start("*", become=["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--clear-groups"], wait=False)
    assert proxy.process
    assert proxy.process.wait(20) == 69
    assert "runAsUser" in proxy.err.read_text()


def test_a_pod_without_ipv6(lab: Lab, proxy: Proxy, client: Client, server: HttpServer) -> None:
    for interface in ("all", "lo"):
        proxy.pod.sysctl(f"net.ipv6.conf.{interface}.disable_ipv6", 1)
    lab.dns.set("both.example", A=[GOOD], AAAA=["2001:db8:113::25"])
    proxy.start("!10.0.0.0/8\n2001:db8::/32\n203.0.113.0/24\n!both.example:81\n*.example")
    assert client.status("http://both.example/") == 200
    assert client.status("http://127.0.0.1/") == 403
    assert client.status(f"http://{GOOD}/") == 200
    assert client.status("http://198.51.100.99/") == 403


def test_few_descriptors_are_told_once(proxy: Proxy, client: Client, server: HttpServer) -> None:
    proxy.start("*", prefix=["prlimit", "--nofile=428:428"])
    seen = proxy.err.read_text()
    assert "enough for 100 clients, not for EGRESS_HTTP_PROXY_MAX_CLIENTS=4096" in seen
    assert "ERROR" not in seen
    assert client.status(f"http://{GOOD}/") == 200


def test_headers_tell_nothing(proxy: Proxy, client: Client, server: HttpServer) -> None:
    proxy.start("*")
    status, reply = client.get(f"http://{GOOD}/headers", "X-Forwarded-For: 198.51.100.9\r\n")
    assert status == 200
    seen = {name.lower() for name in json.loads(reply.split(b"\r\n\r\n", 1)[1])}
    assert "host" in seen
    assert not seen & {"via", "x-forwarded-for", "forwarded"}
    refused = client.get("http://127.0.0.1/", "Accept-Language: de\r\n")[1]
    assert b"The policy of this proxy does not allow" in refused
    unresolved = client.get("http://no.such.example/")[1]
    assert b"The name of the server cannot be resolved" in unresolved
    assert "ERROR" not in proxy.err.read_text(), "Squid found all pages"
    for answer in (reply, refused, unresolved):
        text = answer.lower()
        assert b"via:" not in text
        assert b"5.7" not in text
        assert b"x-cache" not in text
        assert b"x-squid-error" not in text


def test_access_log(lab: Lab, proxy: Proxy, client: Client, server: HttpServer) -> None:
    lab.dns.set("a.example", A=[GOOD])
    lab.dns.set("b.example", A=[OTHER])
    lab.dns.set("c.example", A=["203.0.113.27"])
    proxy.start(f"# comment\n!x.a.example\n*.a.example\n!{OTHER} # never\n203.0.113.0/24")
    urls = [
        "http://a.example/p?q=1",
        "http://x.a.example/",
        "http://b.example/",
        f"http://{GOOD}/",
        "http://127.0.0.1/",
    ]
    for url in [*urls, "http://203.0.114.1/"]:
        client.status(url)
    client.tunnel("c.example:80")[1].close()
    entries = proxy.wait_for_log(7)
    assert [(e["host"], e["status"], e["decision"], e["line"]) for e in entries] == [
        ("a.example", 200, "allow", 3),
        ("x.a.example", 403, "deny", 2),
        ("b.example", 403, "deny", 4),
        (GOOD, 200, "allow", 5),
        ("127.0.0.1", 403, "deny", None),
        ("203.0.114.1", 403, "deny", None),
        ("c.example", 503, "allow", 5),
    ]
    first = entries[0]
    assert first["client"] == str(client.pod.addresses[4])
    assert (first["method"], first["port"], first["rule"], first["server"]) == ("GET", 80, "*.a.example", GOOD)
    assert first["bytes"] > 0
    assert first["duration_ms"] >= 0
    assert abs(time.time() - time.mktime(time.strptime(first["time"][:19], "%Y-%m-%dT%H:%M:%S"))) < 86400
    assert entries[4]["reason"] == "a closed address"


def test_access_log_of_thousands_of_address_lines(lab: Lab, proxy: Proxy, client: Client, server: HttpServer) -> None:
    denied = [f"!10.{number // 256}.{number % 256}.0/24" for number in range(3000)]
    denied += [f"![2001:db8:{number:x}::/48]:80" for number in range(200)]
    allowed = [f"11.{number // 256}.{number % 256}.0/24" for number in range(3000)]
    lab.dns.set("forbidden.example", A=["10.7.9.1"])
    lab.dns.set("twice.example", A=["10.7.9.1", "10.7.9.2"])
    lab.dns.set("closed.example", A=["127.0.0.1", "10.7.9.1"])
    lab.dns.set("several.example", A=["10.7.9.1", "10.0.1.1", "10.7.10.1", "11.0.0.1"])
    lab.dns.set("both.example", A=["10.7.9.1", GOOD], AAAA=["2001:db8:7::1", "2001:db8:6::1"])
    lab.dns.set("six.example", A=[GOOD], AAAA=["2001:db8:7::1", "2001:db8:6::1"])
    lab.dns.set("fine.example", A=[GOOD])
    proxy.write_policy("\n".join([*denied, *allowed, f"{GOOD}/32", "203.0.112.0/22"]))
    proxy.start()
    line = 7 * 256 + 9 + 1
    expected: list[tuple[str, str, int | None, str | None]] = [
        ("forbidden.example", "deny", line, None),
        ("twice.example", "deny", line, None),
        ("closed.example", "deny", None, "a closed address"),
        ("several.example", "deny", 2, None),
        ("both.example", "deny", line, None),
        ("six.example", "deny", 3000 + 7, None),
        ("fine.example", "allow", 6201, None),
        ("10.7.9.3", "deny", line, None),
        (GOOD, "allow", 6201, None),
    ]
    for host, *_ in expected:
        client.status(f"http://{host}/")
    entries = proxy.wait_for_log(len(expected))
    assert [(e["host"], e["decision"], e["line"], e.get("reason")) for e in entries] == expected


def test_the_log_cannot_be_injected(proxy: Proxy, client: Client, server: HttpServer) -> None:
    proxy.start("*")
    fake = '", "decision": "allow", "x": "'
    requests = [
        f"GET http://h{fake}.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET http://a%0d%0a%7b%22fake%22:1%7d.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
        'G"E{T}\\ http://203.0.113.25/ HTTP/1.1\r\nHost: x\r\n\r\n',
        "GET http://203.0.113.25/\x0b{fake} HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET http://\u202ex.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        f"{'A' * 5000} http://203.0.113.25/ HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET http://{'b' * 5000}.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    for request in requests:
        with client.connect() as connection:
            connection.sendall(request.encode())
            connection.settimeout(1)
            with contextlib.suppress(TimeoutError):
                connection.recv(65536)
    assert client.status(f"http://{GOOD}/last") == 200
    deadline = time.monotonic() + 10
    while not any(entry["host"] == GOOD and entry["status"] == 200 for entry in proxy.log()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    text = proxy.out.read_text()
    assert text.isascii()
    entries = [json.loads(line) for line in text.splitlines()]
    keys = {"time", "client", "method", "host", "port", "status", "bytes", "duration_ms", "decision", "line"}
    for entry in entries:
        assert keys <= set(entry) <= keys | {"rule", "reason", "server", "error", "detail"}
    assert len(entries) <= len(requests) + 1


def test_the_access_log_can_be_switched_off(proxy: Proxy, client: Client, server: HttpServer) -> None:
    proxy.start("*", {"EGRESS_HTTP_PROXY_ACCESS_LOG": "off"})
    assert client.status(f"http://{GOOD}/") == 200
    assert proxy.stop() == 0
    assert proxy.out.read_text() == ""


def test_drain(lab: Lab, proxy: Proxy, client: Client, server: HttpServer) -> None:
    lab.echo(OTHER, tcp=[443])
    proxy.start("*")
    code, tunnel = client.tunnel(f"{OTHER}:443")
    assert code == 200
    url = f"http://{GOOD}/bytes/3000000?seconds=2"
    download = client.pod.popen(
        ["curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", "-x", f"http://{proxy.address}:{PORT}", url],
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(0.5)
    os.kill(proxy.supervisor_pid(), signal.SIGTERM)
    proxy.wait_for("draining")
    deadline = time.monotonic() + 5
    while True:
        try:
            client.connect().close()
        except ConnectionRefusedError:
            break
        assert time.monotonic() < deadline, "new connections must be refused"
        time.sleep(0.02)
    tunnel.sendall(b"during the drain\n")
    assert b"during the drain" in tunnel.recv(4096)
    assert download.communicate(timeout=20)[0] == "3000000"
    assert proxy.process
    assert proxy.process.poll() is None, "the tunnel is still open"
    tunnel.close()
    assert proxy.process.wait(10) == 0
    assert "time is over" not in proxy.err.read_text()


def test_the_grace_ends(lab: Lab, proxy: Proxy, client: Client) -> None:
    lab.echo(OTHER, tcp=[443])
    proxy.start("*", {"EGRESS_SHUTDOWN_GRACE": "1"})
    code, tunnel = client.tunnel(f"{OTHER}:443")
    assert code == 200
    assert proxy.stop(10) == 0
    assert "time is over" in proxy.err.read_text()
    tunnel.settimeout(5)
    with contextlib.suppress(ConnectionResetError):
        assert tunnel.recv(100) == b""


def test_death_of_squid_and_of_the_supervisor(proxy: Proxy, client: Client, server: HttpServer) -> None:
    proxy.start("*")
    before = set(proxy.shm.iterdir())
    assert before, "Squid keeps segments, so a killed one leaves some"
    (squid,) = proxy.squid_pids()
    os.kill(squid, signal.SIGKILL)
    seen = proxy.wait_for("generation 2 is in force")
    assert "squid was killed by SIGKILL" in seen
    assert client.status(f"http://{GOOD}/") == 200
    assert not before & set(proxy.shm.iterdir())
    assert proxy.process
    proxy.process.kill()
    proxy.process.wait()
    left = set(proxy.shm.iterdir())
    assert left, "the control: the segments of the killed Squid are there"
    proxy.start("*")
    assert client.status(f"http://{GOOD}/") == 200
    assert not left & set(proxy.shm.iterdir())
    assert proxy.stop() == 0
    assert not set(proxy.shm.iterdir())


def test_a_squid_that_dies_during_a_reload(proxy: Proxy, client: Client, server: HttpServer) -> None:
    """Its successor takes over, and the reload after that reaches every new connection at once."""
    filler = "\n".join(f"!10.{number // 250}.{number % 250}.0/25" for number in range(5_000))
    proxy.write_policy(f"{GOOD}\n")
    proxy.start()
    (first,) = proxy.squid_pids()
    proxy.write_policy(f"{filler}\n{GOOD}\n")
    deadline = time.monotonic() + 20
    while len(proxy.squid_pids()) < 2:
        assert time.monotonic() < deadline
    os.kill(first, signal.SIGKILL)
    proxy.wait_for("its successor is starting")
    proxy.wait_for("generation 2 is in force")
    assert client.status(f"http://{GOOD}/") == 200
    time.sleep(1.0)
    proxy.write_policy(f"!{GOOD}\n*\n")
    proxy.wait_for("generation 3 is in force")
    assert [client.status(f"http://{GOOD}/") for _ in range(30)] == [403] * 30
    status = json.loads((proxy.run_directory / "status.json").read_text())
    assert [status[name] for name in ("generation", "reloads", "restarts", "ready")] == [3, 2, 1, True]


def test_reasons_to_exit(lab: Lab, proxy: Proxy) -> None:
    (proxy.run_directory / "status.json").write_text('{"ready": true}')
    proxy.start("10.0.0.0/33\n*\nfoo bar", {"EGRESS_HTTP_PROXY_PORT": "x"}, wait=False)
    assert proxy.process
    assert proxy.process.wait(20) == 78
    seen = proxy.err.read_text()
    assert not (proxy.run_directory / "status.json").exists(), "what a former container left is not true any more"
    for part in ("4 problems", "line 1", "line 2", "line 3", "EGRESS_HTTP_PROXY_PORT"):
        assert part in seen
    proxy.start("  # nothing\n", wait=False)
    assert proxy.process.wait(20) == 78
    proxy.start(None, {"EGRESS_HTTP_PROXY_DESTINATION_FILE": ""}, wait=False)
    assert proxy.process.wait(20) == 78
    assert "EGRESS_HTTP_PROXY_DESTINATION: is not set" in proxy.err.read_text()
    lab.echo(proxy.address, tcp=[PORT], host=proxy.pod)
    proxy.start("*", wait=False)
    assert proxy.process.wait(20) == 69
    assert "port 8080 cannot be listened on" in proxy.err.read_text()
    proxy.start("*", {"EGRESS_RUN_DIR": "/proc/nowhere"}, wait=False)
    assert proxy.process.wait(20) == 69
    assert "EGRESS_RUN_DIR" in proxy.err.read_text()


def test_a_directory_that_became_unwritable_stops_nothing(proxy: Proxy, client: Client, server: HttpServer) -> None:
    proxy.write_policy(f"{GOOD}\n")
    proxy.start()
    proxy.run_directory.chmod(0o555)
    proxy.write_policy(f"{OTHER}\n")
    seen = proxy.wait_for("reload refused")
    assert "EGRESS_RUN_DIR" in seen
    assert client.status(f"http://{GOOD}/") == 200
    proxy.run_directory.chmod(0o777)
    assert proxy.process
    proxy.process.send_signal(signal.SIGHUP)
    proxy.wait_for("generation 3 is in force")
    assert client.status(f"http://{GOOD}/") == 403


@pytest.mark.parametrize("workers", [1, 3])
def test_reload_under_load(lab: Lab, proxy: Proxy, client: Client, server: HttpServer, workers: int) -> None:
    lab.echo(OTHER, tcp=[443])
    versions = proxy.work / "config"
    for number in range(4):
        (versions / f"..{number}").mkdir(parents=True)
        (versions / f"..{number}" / "policy").write_text(f"203.0.113.0/24\n!name-{number}.example\n")
    (versions / "..data").symlink_to("..0")
    (versions / "policy").symlink_to("..data/policy")
    subprocess.run(["chmod", "-R", "a+rX", str(versions)], check=True)
    file = {"EGRESS_HTTP_PROXY_DESTINATION_FILE": str(versions / "policy")}
    proxy.start(None, {**file, "EGRESS_HTTP_PROXY_WORKERS": str(workers)})
    code, tunnel = client.tunnel(f"{OTHER}:443")
    assert code == 200
    url = f"http://{GOOD}/bytes/4000000?seconds=8"
    curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", "-x", f"http://{proxy.address}:{PORT}", url]
    download = client.pod.popen(curl, stdout=subprocess.PIPE, text=True)
    command = [sys.executable, LOAD, proxy.address, str(PORT), f"http://{GOOD}/bytes/100", "2000", "16", "250"]
    load = client.pod.popen(command, stdout=subprocess.PIPE, text=True)
    command = [sys.executable, KEPT_LOAD, proxy.address, str(PORT), f"http://{GOOD}/bytes/100", "2000", "12", "0.04"]
    kept_load = client.pod.popen(command, stdout=subprocess.PIPE, text=True)
    for number in range(1, 4):
        # As the kubelet does it.
        (versions / "..new").symlink_to(f"..{number}")
        (versions / "..new").rename(versions / "..data")
        proxy.wait_for(f"generation {number + 1} is in force")
    result = json.loads(load.communicate(timeout=60)[0])
    assert (result["good"], result["failures"]) == (2000, {})
    kept = json.loads(kept_load.communicate(timeout=60)[0])
    assert {word: count for word, count in kept.items() if word != "connections"} == {"status 200": 2000}
    assert download.communicate(timeout=30)[0] == "4000000"
    tunnel.sendall(b"still here\n")
    assert b"still here" in tunnel.recv(4096)
    tunnel.close()
    for number in range(1, 4):
        proxy.wait_for(f"generation {number} is drained")
    assert len(proxy.squid_pids()) == workers


def ask(connection: socket.socket) -> bytes:
    """Send a request on a connection that is kept, and return the head of the answer."""
    connection.sendall(f"GET http://{GOOD}/kept HTTP/1.1\r\nHost: {GOOD}\r\n\r\n".encode())
    reply = b""
    while b"/kept" not in reply:
        part = connection.recv(65536)
        assert part, "the connection was closed under a request"
        reply += part
    return reply.split(b"\r\n\r\n")[0].lower()


def test_kept_connections_lose_no_request(proxy: Proxy, client: Client, server: HttpServer) -> None:
    """After a reload, a connection of the old Squid ends with the answer to its next request, and not before."""
    proxy.write_policy("203.0.113.0/24\n")
    proxy.start()
    idle, busy = client.connect(), client.connect()
    for connection in (idle, busy):
        head = ask(connection)
        assert b" 200 " in head
        assert b"connection: close" not in head
    proxy.write_policy("203.0.113.0/24\nanother.example\n")
    proxy.wait_for("generation 2 is in force")
    asked = 2
    deadline = time.monotonic() + 20
    while b"connection: close" not in (head := ask(busy)):
        assert b" 200 " in head
        assert time.monotonic() < deadline
        asked += 1
        time.sleep(0.02)
    assert b" 200 " in head
    head = ask(idle)
    assert b" 200 " in head
    assert b"connection: close" in head
    assert (idle.recv(100), busy.recv(100)) == (b"", b"")
    proxy.wait_for("generation 1 is drained")
    assert len(proxy.wait_for_log(asked + 2)) == asked + 2
