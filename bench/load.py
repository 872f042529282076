"""Load inside the lab: wrk, iperf3, and round trips of small datagrams; each returns figures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

from bench.cost import Spent
from lab import Host, Lab
from lab.addressing import Address

CHILDREN = Path(__file__).parent / "children"
SERVICE = "203.0.113.25"
#: Answers every request with 200 from memory; it and wrk leave most of two cores to what is measured.
HAPROXY = f"""
global
  maxconn 4000
defaults
  mode http
  timeout client 5s
  timeout server 5s
  timeout connect 5s
frontend answer
  bind {SERVICE}:80
  http-request return status 200 content-type text/plain string ok
"""
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def answer_http(host: Host, directory: Path, port: int = 80) -> int:
    """Start the HAProxy that answers on SERVICE and return its pid; it listens by then."""
    config = directory / f"answer-{port}.cfg"
    config.write_text(HAPROXY.replace(f"{SERVICE}:80", f"{SERVICE}:{port}"))
    server = host.popen(["haproxy", "-db", "-f", str(config)])
    wait_for_port(host, SERVICE, port)
    return server.pid


def source_seen(lab: Lab, client: Host) -> str:
    """Return the address with which a pod's connections to SERVICE leave."""
    with lab.capture() as capture:
        lab.tcp(client, SERVICE, 80, payload="GET / HTTP/1.0\r\n\r\n")
    (source,) = capture.sources()
    return str(source)


def answer_iperf(host: Host, port: int = 5201) -> int:
    """Start an iperf3 server on SERVICE and return its pid; it listens by then."""
    server = host.popen(
        ["iperf3", "-s", "-p", str(port), "-B", SERVICE], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for_port(host, SERVICE, port)
    return server.pid


def answer_datagrams(host: Host, port: int = 7000) -> None:
    """Start a server that sends datagrams back, for ``round_trips``."""
    host.popen([sys.executable, "-I", "-S", str(CHILDREN / "pingpong.py"), "serve", SERVICE, str(port)])


def wait_for_port(host: Host, address: Address | str, port: int, seconds: float = 30.0) -> float:
    """Wait until something accepts connections; return the seconds that took. Raises TimeoutError."""
    began = time.monotonic()
    while True:
        with host.socket(2) as probe:
            probe.settimeout(1)
            try:
                probe.connect((str(address), port))
            except OSError:
                if time.monotonic() - began > seconds:
                    raise TimeoutError(f"nothing listens on {address} port {port}") from None
                time.sleep(0.002)
            else:
                return time.monotonic() - began


def wrk(
    client: Host,
    url: str,
    *servers: int,
    keep: bool = False,
    script: Path | None = None,
    seconds: int = 1,
    refused: bool = False,
) -> dict[str, float]:
    """Ask with 32 connections; return ``rate`` in requests per second, ``work`` in requests per second of processor
    time (wrk's and that of ``servers``, pids), ``p50``, ``p99`` of latency in seconds and how many ``failed``.

    Each request has a connection of its own unless ``keep``. Raises RuntimeError for other answers than 2xx, or for 2xx
    where they are to be ``refused``.
    """
    command = ["wrk", "-t1", "-c32", f"-d{seconds}s", "--latency"]
    command += [] if keep else ["-H", "Connection: close"]
    command += [] if script is None else ["-s", str(script)]
    with Spent(*servers) as spent:
        output = client.run([*command, url], timeout=seconds + 30).stdout
    found = wrk_figures(output, refused=refused)
    return {**found, "work": found["requests"] / spent.seconds}


def wrk_figures(output: str, *, refused: bool = False) -> dict[str, float]:
    """Return the figures in what wrk printed."""
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", output)
    total = re.search(r"(\d+) requests in", output)
    answered = (
        f"Non-2xx or 3xx responses: {total[1] if total else ''}\n" in output if refused else "Non-2xx" not in output
    )
    if rate is None or total is None or not answered or not int(total[1]):
        raise RuntimeError(f"wrk did not get its answers:\n{output}")
    found = {"rate": float(rate[1]), "requests": float(total[1])}
    for name, number, unit in re.findall(r"^\s+(50|99)%\s+([0-9.]+)(us|ms|s)$", output, re.MULTILINE):
        found[f"p{name}"] = float(number) * _UNITS[unit]
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    found["failed"] = float(sum(map(int, errors.groups()))) if errors else 0.0
    return found


def iperf_tcp(client: Host, address: Address | str, port: int, seconds: float, server: int) -> dict[str, float]:
    """Return ``throughput`` of one TCP connection in Gbit/s, as the receiver saw it, and ``carried``: Gbit per second
    of processor time (the client's and that of ``server``, a pid).
    """
    with Spent(server) as spent:
        end = iperf(client, address, port, seconds)["end"]["sum_received"]
    return {"throughput": end["bits_per_second"] / 1e9, "carried": end["bytes"] * 8 / 1e9 / spent.seconds}


def iperf_small(client: Host, address: Address | str, port: int, seconds: float, *servers: int) -> dict[str, float]:
    """Send 64 byte datagrams as fast as it goes; return ``packets`` per second that arrive, the share ``lost``, and
    ``small``: packets that arrive per second of processor time (the client's and that of ``servers``, pids).
    """
    with Spent(*servers) as spent:
        end = iperf(client, address, port, seconds, "-u", "-l", "64", "-b", "0")["end"]["sum"]
    arrived = end["packets"] - end["lost_packets"]
    return {"packets": arrived / end["seconds"], "lost": end["lost_percent"] / 100, "small": arrived / spent.seconds}


def iperf(client: Host, address: Address | str, port: int, seconds: float, *more: str) -> dict:  # type: ignore[type-arg]
    """Return iperf3's own report. Raises RuntimeError when the server stays busy."""
    command = ["iperf3", "-c", str(address), "-p", str(port), "-t", str(seconds), "-J", *more]
    for _ in range(20):
        report = json.loads(client.run(command, timeout=seconds + 30, check=False).stdout)
        if "error" not in report:
            return report  # type: ignore[no-any-return]
        # The server ends a test a moment after its client.
        time.sleep(0.1)
    raise RuntimeError(f"iperf3: {report['error']}")


def round_trips(client: Host, address: Address | str, port: int, count: int) -> dict[str, float]:
    """Send small datagrams one after the other; return ``p50``, ``p90`` and ``p99`` of the round trips in seconds."""
    command = [sys.executable, "-I", "-S", str(CHILDREN / "pingpong.py"), "ask", str(address), str(port), str(count)]
    found: dict[str, float] = json.loads(client.run(command, timeout=60).stdout)
    return found
