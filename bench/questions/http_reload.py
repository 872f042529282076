"""Start-up and reload of the HTTP proxy by size of the policy, and what a reload breaks, beside Squid's reconfigure."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from functools import partial

from bench.figures import Check, Ratio, Value
from bench.harness import Arm, Run
from bench.http_policy import ASKED, ORIGIN_ADDRESS, Form, lines_of, upstream
from bench.question import ArmTable, Metric, Question, SizeTable
from bench.squid import DOWNLOADED, TUNNELLED, Watched, origin, upstream_conf, wait_for_answer
from lab import Host, Lab
from tests.http_proxy.kernel.http_pod import PORT, Proxy

OURS, RECONFIGURE = "egress-router http-proxy", "Squid, one ACL a line, reconfigure"
EVERYTHING_HERE = "203.0.113.0/24"
OWN_PORT = 3128


class Ours:
    """The proxy container; a reload is a changed file and SIGHUP."""

    def __init__(self, lab: Lab) -> None:
        self.proxy = Proxy(lab, lab.pod("ours"))
        self.address, self.port = self.proxy.address, PORT
        self.generation = 1

    def start(self, lines: Sequence[str]) -> None:
        """Start it; it may not listen yet."""
        self.proxy.write_policy("\n".join([*lines, ""]))
        self.generation = 1
        self.proxy.start(wait=False, env={"EGRESS_HTTP_PROXY_ACCESS_LOG": "off", "EGRESS_HTTP_PROXY_WORKERS": "auto"})

    def change(self, lines: Sequence[str]) -> None:
        """Ask for another policy."""
        self.generation += 1
        self.proxy.write_policy("\n".join([*lines, ""]))
        os.kill(self.proxy.supervisor_pid(), signal.SIGHUP)

    def settled(self) -> None:
        """Wait until the change is in force."""
        self.proxy.wait_for(f"generation {self.generation} is in force", 60)

    def stop(self) -> None:
        """End it."""
        self.proxy.stop()


class Plain:
    """Squid with one ACL a line; a reload is a changed squid.conf and its own reconfigure."""

    def __init__(self, lab: Lab) -> None:
        self.pod: Host = lab.pod("plain")
        self.address, self.port = str(self.pod.addresses[4]), OWN_PORT
        self.form: Form | None = None

    def start(self, lines: Sequence[str]) -> None:
        """Start it; it may not listen yet."""
        self.form = Form(self.pod, RECONFIGURE, upstream, list(lines), OWN_PORT)

    def change(self, lines: Sequence[str]) -> None:
        """Ask for another policy."""
        assert self.form
        directory = self.form.directory
        upstream_conf(directory, upstream(list(lines), OWN_PORT, str(directory))["squid.conf"])
        self.form.processes[0].send_signal(signal.SIGHUP)

    def settled(self) -> None:
        """Nothing tells; the next change waits its turn."""

    def stop(self) -> None:
        """End it."""
        if self.form:
            self.form.end()
            self.form = None


def measure(run: Run) -> None:
    """Start and change policies of every size, then change a small one under load."""
    with Lab(nodes=1) as lab, origin(lab):
        lab.http(DOWNLOADED, port=80)
        lab.echo(TUNNELLED, tcp=[443])
        client = lab.pod("client")
        ours, plain = Ours(lab), Plain(lab)
        with ours.proxy:
            both = ((OURS, ours), (RECONFIGURE, plain))
            try:
                if run.quick:
                    run.record(OURS, 0, _under_load(run, lab, client, ours))
                    return
                arms = [
                    Arm(name, partial(_start_and_change, one, client, size), size)
                    for size in run.sizes
                    for name, one in both
                ]
                run.interleave(arms, 5)
                for name, one in both:
                    run.record(name, 0, _under_load(run, lab, client, one))
            finally:
                plain.stop()


def _start_and_change(one: Ours | Plain, client: Host, size: int) -> dict[str, float]:
    began = time.monotonic()
    one.start(lines_of("mixed", size))
    try:
        start = wait_for_answer(client, one.address, one.port, f"http://{ASKED}/", began)
        # What the last line allows is another thing now, so the first 200 tells that the new policy is in force.
        began = time.monotonic()
        one.change([*lines_of("mixed", size)[:-1], ORIGIN_ADDRESS])
        change = wait_for_answer(client, one.address, one.port, f"http://{ORIGIN_ADDRESS}/", began)
    finally:
        one.stop()
    return {"start": start, "change": change}


def _under_load(run: Run, lab: Lab, client: Host, one: Ours | Plain) -> dict[str, float]:
    requests, reloads = int(run.pick(20_000, 2_000)), int(run.pick(10, 2))
    run.say(f"{type(one).__name__.lower()}: {requests:,} requests over {reloads} reloads")
    one.start([EVERYTHING_HERE])
    try:
        wait_for_answer(client, one.address, one.port, f"http://{ORIGIN_ADDRESS}/", time.monotonic())

        def reload(number: int) -> None:
            one.change([EVERYTHING_HERE, f"name-{number}.example"])
            one.settled()

        watched = Watched(lab, client, one.address, one.port)
        return watched.figures(requests, 600, reloads, reload)
    finally:
        one.stop()


QUESTION = Question(
    name="http-reload",
    title="Start-up and reload of the HTTP proxy",
    size_means="policy lines",
    metrics=(
        Metric("start", "Start-up until the first answer", "s"),
        Metric("change", "Reload until the new policy answers", "s"),
        Metric("failed", "failed requests", ""),
        Metric("kept", "failed on kept connections", ""),
        Metric("slowest", "slowest request", "s"),
        Metric("tunnels", "tunnels cut, of 5", ""),
        Metric("downloads", "downloads cut, of 3", ""),
    ),
    tables=(
        SizeTable("start", (OURS, RECONFIGURE), RECONFIGURE),
        SizeTable("change", (OURS, RECONFIGURE), RECONFIGURE),
        ArmTable(("failed", "kept", "slowest", "tunnels", "downloads"), ((OURS, 0), (RECONFIGURE, 0)), None),
    ),
    goals=(
        Check(Value("failed", OURS), "no request of 20,000 fails over 10 reloads", at_most=0),
        Check(Value("kept", OURS), "none of 2,000 on kept connections fails", at_most=0),
        Check(Value("tunnels", OURS), "no tunnel is cut", at_most=0),
        Check(Value("downloads", OURS), "no download is cut", at_most=0),
        Check(
            Ratio("change", OURS, RECONFIGURE, 10_000, 10_000),
            "10,000 lines: in 0.8 of Squid's reconfigure",
            at_most=0.8,
        ),
    ),
    measure=measure,
)
