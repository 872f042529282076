"""The DNS proxy: connections and throughput beside redirect mode and the direct path; what a reload breaks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from bench.figures import Check, Ratio, Value
from bench.harness import Arm, Run
from bench.load import SERVICE, answer_http, answer_iperf, iperf_tcp, wrk
from bench.question import ArmTable, Metric, Question
from bench.router import RouterPods, forget_connections
from lab import Lab
from lab.addressing import Address
from tests.dns_proxy.kernel.dns_proxy_pod import DnsProxyPod, echoes
from tests.support import connections

PROXY, REDIRECT, DIRECT = "dns-proxy", "redirect, nftables", "direct path"
NAME, ECHO_NAME, ECHO = "server.example", "echo.example", "203.0.113.26"
WEB, IPERF, ECHO_PORT = 80, 5201, 7


def measure(run: Run) -> None:
    """Measure the three ways in turn, then reload under load."""
    with tempfile.TemporaryDirectory() as folder, Lab(nodes=1) as lab:
        directory = Path(folder)
        directory.chmod(0o777)
        web, bulk = answer_http(lab.services, directory), answer_iperf(lab.services, IPERF)
        lab.echo(ECHO, tcp=[ECHO_PORT])
        lab.dns.set(NAME, A=[SERVICE], ttl=3600)
        lab.dns.set(ECHO_NAME, A=[ECHO], ttl=3600)
        redirect, _ = RouterPods(lab, directory, run).make("nftables", [(WEB, WEB), (IPERF, IPERF)])
        destinations = f"{WEB} {NAME}\n{IPERF} {NAME}\n{ECHO_PORT} {ECHO_NAME}\n"
        with DnsProxyPod(lab, directory, destinations, families="4", DNS_PROXY_ACCESS_LOG="off") as proxy:
            hosts = (proxy.client, lab.nodes[0], lab.gateway, redirect, proxy.router)

            def turn(address: Address | str) -> dict[str, float]:
                forget_connections(*hosts)
                found = wrk(proxy.client, f"http://{address}:{WEB}/", web)
                return {**found, **iperf_tcp(proxy.client, address, IPERF, 2, bulk)}

            arms = [
                Arm(DIRECT, partial(turn, SERVICE)),
                Arm(REDIRECT, partial(turn, redirect.addresses[4])),
                Arm(PROXY, partial(turn, proxy.address)),
            ]
            if not run.quick:
                run.interleave(arms, 5)
            run.record(PROXY, 0, _reloads(run, proxy))


def _reloads(run: Run, proxy: DnsProxyPod) -> dict[str, float]:
    """Return how many new connections fail over reloads, and how many open ones are cut."""
    count, reloads = int(run.pick(20_000, 10_000)), int(run.pick(10, 2))
    run.say(f"{PROXY}: {count:,} connections over {reloads} reloads")
    held = [proxy.hold(ECHO_PORT) for _ in range(20)]
    stop = proxy.directory / "stop"
    command = [sys.executable, connections.__file__, proxy.address, str(ECHO_PORT), str(stop), "8", str(count)]
    load = proxy.client.popen(command, stdout=subprocess.PIPE)
    before = proxy.messages().count("is in force")
    done = 0
    while load.poll() is None:
        if done < reloads:
            done += 1
            proxy.signal(signal.SIGHUP)
            proxy.until(partial(_in_force, proxy, before + done), 30)
        time.sleep(0.3)
    result = json.loads(load.communicate()[0])
    if done < reloads:
        raise RuntimeError(f"the load was over after {done} reloads")
    cut = sum(not echoes(connection) for connection in held)
    for connection in held:
        connection.close()
    return {"failed_reload": float(len(result["failures"])), "cut": float(cut)}


def _in_force(proxy: DnsProxyPod, generation: int) -> bool:
    return proxy.messages().count("is in force") >= generation


QUESTION = Question(
    name="dns-proxy",
    title="The DNS proxy",
    size_means="",
    metrics=(
        Metric("rate", "connections", "/s"),
        Metric("p50", "latency, median", "ms", 1e3),
        Metric("p99", "latency, 99th percentile", "ms", 1e3),
        Metric("throughput", "TCP", "Gbit/s"),
        Metric("failed_reload", "failed connections over reloads", ""),
        Metric("cut", "open connections cut, of 20", ""),
    ),
    tables=(
        ArmTable(
            ("rate", "p50", "p99", "throughput"), ((DIRECT, 0), (REDIRECT, 0), (PROXY, 0)), (DIRECT, 0), plot="rate"
        ),
        ArmTable(("failed_reload", "cut"), ((PROXY, 0),), None),
    ),
    goals=(
        Check(Value("failed_reload", PROXY), "no connection of 20,000 fails over 10 reloads", at_most=0),
        Check(Value("cut", PROXY), "no open connection is cut by reloads", at_most=0),
        Check(Ratio("rate", PROXY, REDIRECT), "half of redirect mode's connections per second", at_least=0.5),
        Check(Ratio("throughput", PROXY, REDIRECT), "half of redirect mode's throughput", at_least=0.5),
    ),
    measure=measure,
)
