"""Kinds of lines and requests at one size of the policy: the compiled policy beside one ACL a line."""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import count
from pathlib import Path

from bench.figures import Check, Value
from bench.harness import Arm, Run
from bench.http_policy import ASKED, KINDS, ORIGIN_ADDRESS, Form, lines_of, ours, proxy_script, upstream
from bench.load import wait_for_port, wrk
from bench.question import ArmTable, Metric, Question
from bench.squid import origin
from egress_router.http_proxy.squid.workers import default_workers
from lab import Host, Lab

LINES = 5_000
FIRST_PORT = 21_000
WORDS = {"addresses": "networks", "mixed": "names and networks", "names": "names"}
ASKED_FOR = {"denied": "a name, denied", "literal": "an address, allowed", "name": "a name, allowed"}


def title(kind: str, request: str) -> str:
    """Return how the report calls a kind of lines and requests."""
    return f"{WORDS[kind]}; {ASKED_FOR[request]}"


def measure(run: Run) -> None:
    """Ask in turns through both, kind by kind."""
    if run.quick:
        return
    with tempfile.TemporaryDirectory() as directory, Lab(nodes=1) as lab, origin(lab):
        router, client = lab.pod("router"), lab.pod("client")
        ports = count(FIRST_PORT)
        for kind, request in KINDS:
            lines = lines_of(kind, LINES, request)
            forms = [
                Form(router, "ours", ours, lines, next(ports), default_workers()),
                Form(router, "linear", upstream, lines, next(ports)),
            ]
            try:
                for form in forms:
                    run.say(f"{title(kind, request)}: waiting for the Squid on port {form.port}")
                    wait_for_port(client, router.addresses[4], form.port)
                asking = partial(_both, client, router, forms, Path(directory), request)
                run.interleave([Arm(title(kind, request), asking)], 5)
            finally:
                for form in forms:
                    form.end()


def _both(client: Host, router: Host, forms: list[Form], directory: Path, request: str) -> dict[str, float]:
    forms.reverse()
    host = ORIGIN_ADDRESS if request == "literal" else ASKED
    script = proxy_script(directory, host)
    found: dict[str, float] = {}
    for form in forms:
        before = form.processor_seconds()
        url = f"http://{router.addresses[4]}:{form.port}/"
        turn = wrk(client, url, keep=True, script=script, refused=request == "denied")
        found[form.title] = turn["rate"]
        found[f"{form.title}_cost"] = (form.processor_seconds() - before) / turn["requests"]
    found["factor"] = found["ours"] / found["linear"]
    return found


QUESTION = Question(
    name="http-kinds",
    title="Kinds of lines and requests, with 5,000 lines",
    size_means="",
    metrics=(
        Metric("ours", "compiled policy: requests per second", "/s"),
        Metric("linear", "one ACL a line: requests per second", "/s"),
        Metric("factor", "how many times as many", ""),
        Metric("ours_cost", "compiled policy: processor time a request", "us", 1e6),
        Metric("linear_cost", "one ACL a line: processor time a request", "us", 1e6),
    ),
    tables=(
        ArmTable(
            ("ours", "linear", "factor", "ours_cost", "linear_cost"),
            tuple((title(*kind), 0) for kind in KINDS),
            None,
            plot="factor",
        ),
    ),
    goals=tuple(
        Check(Value("factor", title(*kind)), f"{title(*kind)}: twenty times one ACL a line", at_least=20)
        for kind in KINDS
    ),
    measure=measure,
)
