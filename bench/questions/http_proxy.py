"""Requests through the HTTP proxy by size of the policy, beside one ACL a line and no proxy."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

from bench.figures import Check, Ratio
from bench.harness import Arm, Run
from bench.http_policy import ASKED, ORIGIN_ADDRESS, Form, lines_of, ours, proxy_script, upstream
from bench.load import wrk
from bench.question import GrowthTable, Metric, Question, SizeTable
from bench.squid import origin, wait_for_answer
from egress_router.http_proxy.squid.workers import default_workers
from lab import Lab

OURS, LINEAR, DIRECT = "compiled policy", "one ACL a line", "no proxy"
WRITERS = {OURS: ours, LINEAR: upstream}
KIND = "mixed"
FIRST_PORT = 20_000


def measure(run: Run) -> None:
    """Ask through a Squid of every size and form, all of them running, and without one."""
    with tempfile.TemporaryDirectory() as directory, Lab(nodes=1) as lab, origin(lab):
        router, client = lab.pod("router"), lab.pod("client")
        script = proxy_script(Path(directory), ASKED)
        forms: list[Form] = []

        def through(form: Form) -> dict[str, float]:
            before = form.processor_seconds()
            url = f"http://{router.addresses[4]}:{form.port}/"
            found = wrk(client, url, keep=True, script=script)
            return {**found, "capacity": found["requests"] / (form.processor_seconds() - before)}

        arms = [Arm(DIRECT, lambda: wrk(client, f"http://{ORIGIN_ADDRESS}/", keep=True))]
        # One ACL a line is meant to be seen at the size that its goal names.
        sizes = (1, 10_000) if run.quick else (1, 10, 100, 1_000, 5_000, 10_000)
        try:
            for size in sizes:
                for name, write in WRITERS.items():
                    processes = default_workers() if name == OURS else 1
                    form = Form(router, name, write, lines_of(KIND, size), FIRST_PORT + len(forms), processes)
                    forms.append(form)
                    arms.append(Arm(name, partial(through, form), size))
            for form in forms:
                run.say(f"waiting for the Squid on port {form.port}")
                wait_for_answer(client, str(router.addresses[4]), form.port, f"http://{ASKED}/", time.monotonic())
            run.interleave(arms, int(run.pick(5, 2)))
        finally:
            for form in forms:
                form.end()


QUESTION = Question(
    name="http-proxy",
    title="Requests through the HTTP proxy",
    size_means="policy lines",
    metrics=(
        Metric("rate", "Requests per second", "/s"),
        Metric("capacity", "Requests per second of Squid's processor time", "/s"),
        Metric("p50", "Latency, median", "ms", 1e3),
        Metric("p99", "Latency, 99th percentile", "ms", 1e3),
    ),
    tables=(
        SizeTable("rate", (OURS, LINEAR), LINEAR, sizeless=(DIRECT,)),
        GrowthTable("rate", (OURS, LINEAR)),
        SizeTable("capacity", (OURS, LINEAR), LINEAR, plot=False),
        SizeTable("p50", (OURS, LINEAR), LINEAR, sizeless=(DIRECT,), plot=False),
        SizeTable("p99", (OURS, LINEAR), LINEAR, sizeless=(DIRECT,), plot=False),
    ),
    goals=(
        Check(Ratio("rate", OURS, OURS, 10_000, 1), "10,000 lines are as fast as one", at_least=0.9),
        Check(Ratio("capacity", OURS, OURS, 10_000, 1), "10,000 lines cost Squid what one costs", at_least=0.9),
    ),
    measure=measure,
)
