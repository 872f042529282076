"""The HTTP proxy's other settings, and what of Squid is switched off."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time

import pytest

from lab import Lab
from tests.http_proxy.kernel.http_pod import Client, Proxy

# What Squid decides and does not depend on how pods are connected.
pytestmark = [pytest.mark.root, pytest.mark.parametrize("shape", ["bridge"])]

GOOD, TUNNELLED = "203.0.113.25", "203.0.113.26"
#: A server whose answers any cache may keep; its log is a line a request.
CACHEABLE = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        for name, value in (("Cache-Control", "public, max-age=3600"), ("Content-Length", "2"), ("ETag", '"x"')):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"ok")
print("ready", file=sys.stderr, flush=True)
ThreadingHTTPServer((sys.argv[1], 81), Answer).serve_forever()
"""


def test_port_and_clients(lab: Lab, proxy: Proxy, client: Client) -> None:
    """Clients for which there are no descriptors wait until others have gone."""
    lab.echo(TUNNELLED, tcp=[443])
    proxy.start("*", {"EGRESS_HTTP_PROXY_PORT": "3128", "EGRESS_HTTP_PROXY_MAX_CLIENTS": "10"})
    opened: list[socket.socket] = []
    answered = True
    while answered and len(opened) < 150:
        tunnel = client.pod.socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.append(tunnel)
        tunnel.settimeout(1)
        tunnel.connect((proxy.address, 3128))
        tunnel.sendall(f"CONNECT {TUNNELLED}:443 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        try:
            assert b" 200 " in tunnel.recv(100)
        except TimeoutError:
            answered = False
    assert not answered, "the control: there is a limit"
    assert len(opened) > 10
    *others, last = opened
    for tunnel in others[:10]:
        tunnel.close()
    last.settimeout(10)
    assert b" 200 " in last.recv(100)
    for tunnel in opened:
        tunnel.close()


def test_nothing_is_cached_or_written(lab: Lab, proxy: Proxy, client: Client) -> None:
    lab.echo(GOOD, tcp=[9])  # so that the address is there
    log = proxy.work / "origin"
    with log.open("w") as out:
        origin = lab.services.popen([sys.executable, "-I", "-c", CACHEABLE, GOOD], stderr=out)
    proxy.start("*")
    try:
        deadline = time.monotonic() + 10
        while "ready" not in log.read_text() or lab.services.run(["ss", "-ltnH", "sport = :81"]).stdout == "":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        before = sorted(path for path in proxy.run_directory.rglob("*") if path.name != "status.json")
        for _ in range(3):
            status, reply = client.get(f"http://{GOOD}:81/kept")
            assert status == 200
            assert b"max-age=3600" in reply
        assert log.read_text().count('"GET /kept') == 3
        assert sorted(path for path in proxy.run_directory.rglob("*") if path.name != "status.json") == before
        (squid,) = proxy.squid_pids()
        listed = subprocess.run(["ls", "-l", f"/proc/{squid}/fd"], capture_output=True, text=True, check=True).stdout
        files = [line.rpartition(" -> ")[2] for line in listed.splitlines() if " -> /" in line]
        assert not [path for path in files if not path.startswith(("/dev/", "/proc/"))], "no file is open"
    finally:
        origin.kill()
        origin.wait()


def test_what_squid_refuses_is_not_put_in_force(proxy: Proxy, client: Client, lab: Lab) -> None:
    """Even if our own checks took it: squid -k parse has the last word, and the reason is told."""
    lab.http(GOOD, port=80)
    programs = proxy.work / "programs"
    programs.mkdir()
    refuse = proxy.work / "refuse"
    (programs / "squid").write_text(
        f'#!/bin/sh\ncase "$*" in *parse*) test ! -e {refuse} || {{ echo "FATAL: Bungled line 9"; exit 1; }} ;; esac\n'
        'exec /usr/sbin/squid "$@"\n'
    )
    (programs / "squid").chmod(0o755)
    proxy.write_policy(f"{GOOD}\n")
    proxy.start(prefix=["env", f"PATH={programs}:/usr/sbin:/usr/bin:/sbin:/bin"])
    refuse.touch()
    proxy.write_policy("other.example\n")
    assert "Bungled line 9" in proxy.wait_for("reload refused")
    assert client.status(f"http://{GOOD}/") == 200
    status = json.loads((proxy.run_directory / "status.json").read_text())
    assert (status["generation"], status["reload_failures"], status["refused"]) == (1, 1, True)
    assert "Bungled line 9" in status["last_error"]
    refuse.unlink()
    proxy.write_policy("another.example\n")
    proxy.wait_for("generation 3 is in force")
    assert client.status(f"http://{GOOD}/") == 403
