"""Squids to compare: what is asked through one, how long a new policy takes, and what a change breaks."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.http_policy import ASKED, ORIGIN, ORIGIN_ADDRESS
from bench.load import CHILDREN, wait_for_port
from lab import Host, Lab

#: Addresses outside that hold other servers than the origin.
TUNNELLED, DOWNLOADED = "203.0.113.26", "203.0.113.27"


@contextmanager
def origin(lab: Lab) -> Iterator[None]:
    """A small epoll server behind the name ASKED, faster than Squid."""
    lab.dns.set(ASKED, A=[ORIGIN_ADDRESS], ttl=3600)
    server = lab.services.popen([sys.executable, "-I", "-S", "-c", ORIGIN, ORIGIN_ADDRESS])
    wait_for_port(lab.services, ORIGIN_ADDRESS, 80)
    try:
        yield
    finally:
        server.kill()
        server.wait()


def wait_for_answer(client: Host, proxy: str, port: int, url: str, began: float, seconds: float = 60.0) -> float:
    """Ask again and again until the proxy answers 200; return the seconds since ``began``. Raises TimeoutError."""
    host = url.split("/")[2]
    request = f"GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    while time.monotonic() - began < seconds:
        with suppress(OSError), client.socket(socket.AF_INET) as asking:
            asking.settimeout(2)
            asking.connect((proxy, port))
            asking.sendall(request)
            if asking.recv(4096).startswith(b"HTTP/1.1 200"):
                return time.monotonic() - began
        time.sleep(0.002)
    raise TimeoutError(f"{url} is not answered through {proxy} port {port}")


class Watched:
    """Clients of a proxy while its policy changes: new connections, open tunnels, running downloads."""

    def __init__(self, lab: Lab, client: Host, proxy: str, port: int) -> None:
        self.lab, self.client, self.proxy, self.port = lab, client, proxy, port

    def figures(self, requests: int, rate: int, reloads: int, reload: Callable[[int], None]) -> dict[str, float]:
        """Return how many of ``requests``, sent at ``rate`` per second, failed over ``reloads``; how many of a tenth of
        that on kept connections; and what of 5 tunnels and 3 downloads was cut.
        """
        seconds = requests / rate
        tunnels = [self._tunnel() for _ in range(5)]
        downloads = [self._download(seconds) for _ in range(3)]
        command = [sys.executable, "-I", str(CHILDREN / "http_load.py"), self.proxy, str(self.port)]
        url = f"http://{ORIGIN_ADDRESS}/"
        load = self.client.popen([*command, url, str(requests), "32", str(rate)], stdout=subprocess.PIPE, text=True)
        kept = self._kept(url, requests // 10, seconds)
        began = time.monotonic()
        for number in range(1, reloads + 1):
            time.sleep(max(0.0, began + number * seconds / (reloads + 1) - time.monotonic()))
            reload(number)
        result = json.loads(load.communicate(timeout=seconds * 3 + 120)[0])
        seen = json.loads(kept.communicate(timeout=seconds * 3 + 120)[0])
        codes = [download.communicate(timeout=120)[0] for download in downloads]
        return {
            "failed": float(sum(result["failures"].values())),
            "slowest": result["slowest"],
            "kept": float(sum(count for what, count in seen.items() if what.startswith("broken"))),
            "tunnels": float(sum(not _alive(tunnel) for tunnel in tunnels)),
            "downloads": float(sum(code != "200 20000000" for code in codes)),
        }

    def _kept(self, url: str, requests: int, seconds: float) -> subprocess.Popen[str]:
        """Start requests on 16 connections that are kept, for about so many seconds."""
        command = [sys.executable, "-I", str(CHILDREN / "http_keepalive.py"), self.proxy, str(self.port), url]
        pause = 16 * seconds / requests
        return self.client.popen([*command, str(requests), "16", str(pause)], stdout=subprocess.PIPE, text=True)

    def _tunnel(self) -> socket.socket:
        tunnel = self.client.socket(socket.AF_INET)
        tunnel.settimeout(10)
        tunnel.connect((self.proxy, self.port))
        tunnel.sendall(f"CONNECT {TUNNELLED}:443 HTTP/1.1\r\nHost: {TUNNELLED}:443\r\n\r\n".encode())
        reply = b""
        while b"\r\n\r\n" not in reply and (part := tunnel.recv(1)):
            reply += part
        if b" 200 " not in reply:
            raise RuntimeError(f"no tunnel: {reply!r}")
        return tunnel

    def _download(self, seconds: float) -> subprocess.Popen[str]:
        curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{size_download}"]
        url = f"http://{DOWNLOADED}/bytes/20000000?seconds={seconds:.0f}"
        return self.client.popen(
            [*curl, "-x", f"http://{self.proxy}:{self.port}", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


def _alive(tunnel: socket.socket) -> bool:
    with tunnel, suppress(OSError):
        tunnel.sendall(b"still here\n")
        return b"still here" in tunnel.recv(4096)
    return False


def upstream_conf(form_directory: Path, text: str) -> None:
    """Replace a Squid's configuration; it is read on SIGHUP."""
    fresh = form_directory / "squid.new"
    fresh.write_text(text)
    fresh.replace(form_directory / "squid.conf")
