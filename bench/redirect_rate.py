"""New connections per second through the redirect router: 10,000 rules against one, on both backends.

Every connection hits the last rule. The runs of both sizes alternate; what counts is the median of the ratios of
neighbouring runs. Real HAProxy answers, wrk asks (Debian's package wrk), each request on a connection of its own.

    python -m bench.redirect_rate [--pairs 5] [--seconds 2] [--rules 10000]
"""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
from pathlib import Path

import click

from egress_router.lab import Host, Lab

HAPROXY = """
global
  maxconn 4000
defaults
  mode http
  timeout client 5s
  timeout server 5s
  timeout connect 5s
frontend answer
  bind 203.0.113.25:80
  http-request return status 200 content-type text/plain string ok
"""
RATE = re.compile(r"Requests/sec:\s+([0-9.]+)")


def router(lab: Lab, name: str, source: str, backend: str, rules: Path) -> Host:
    """Return a router pod with the rules of a file."""
    pod = lab.pod(name, node=0)
    lab.macvlan(pod)
    env = {
        "EGRESS_SOURCE": source,
        "EGRESS_GATEWAY": "192.0.2.1",
        "EGRESS_ROUTER_MODE": "init",
        "EGRESS_DAD": "off",
        "EGRESS_NAT_BACKEND": backend,
        "EGRESS_DESTINATION_FILE": str(rules),
    }
    pod.run([sys.executable, "-m", "egress_router", "init"], env=env, timeout=60)
    return pod


def rate(client: Host, address: object, port: int, seconds: int) -> float:
    """Return requests per second, each on a new connection."""
    url = f"http://{address}:{port}/"
    command = ["wrk", "-t1", "-c32", f"-d{seconds}s", "-H", "Connection: close", url]
    output = client.run(command, timeout=seconds + 20).stdout
    found = RATE.search(output)
    if found is None or "Non-2xx" in output:
        raise RuntimeError(output)
    return float(found[1])


@click.command()
@click.option("--pairs", default=5, show_default=True)
@click.option("--seconds", default=2, show_default=True)
@click.option("--rules", "count", default=10_000, show_default=True)
def main(pairs: int, seconds: int, count: int) -> None:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory() as directory, Lab(nodes=1) as lab:
        config = Path(directory) / "haproxy.cfg"
        config.write_text(HAPROXY)
        lab.services.popen(["haproxy", "-db", "-f", str(config)])
        last = 20_000 + count - 1
        many, one = Path(directory) / "many", Path(directory) / "one"
        many.write_text("".join(f"{port} tcp 203.0.113.25 80\n" for port in range(20_000, last + 1)))
        one.write_text(f"{last} tcp 203.0.113.25 80\n")
        client = lab.pod("client", node=0)
        number = 100
        click.echo(f"{'backend':10} {'1 rule /s':>12} {f'{count} /s':>12} {'ratio':>7} {'spread':>13}")
        for backend in ("iptables", "nftables"):
            pods = []
            for rules in (one, many):
                number += 1
                pods.append(router(lab, f"{backend[0]}{number}", f"192.0.2.{number}", backend, rules))
            figures = [[rate(client, pod.addresses[4], last, seconds) for pod in pods] for _ in range(pairs + 1)][1:]
            ratios = sorted(b / a for a, b in figures)
            medians = [statistics.median(column) for column in zip(*figures, strict=True)]
            spread = f"{ratios[0]:.2f}–{ratios[-1]:.2f}"
            ratio = statistics.median(ratios)
            click.echo(f"{backend:10} {medians[0]:12.0f} {medians[1]:12.0f} {ratio:7.2f} {spread:>13}")


if __name__ == "__main__":
    main()
