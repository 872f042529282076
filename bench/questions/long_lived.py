"""Memory and processor time of everything that stays, idle and loaded, beside a pause process and bare proxies."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.cost import tree_cpu, tree_memory
from bench.figures import Check, Ratio, Value
from bench.harness import Arm, Run
from bench.http_policy import ASKED, Form, lines_of, proxy_script, upstream
from bench.load import SERVICE, answer_http, wait_for_port, wrk
from bench.longlived import pid_of, reload_time, repair_time, rules
from bench.question import ArmTable, Metric, Question
from bench.router import BACKENDS
from bench.squid import origin, wait_for_answer
from bench.switch_over import Moving
from lab import Host, Lab
from tests.dns_proxy.kernel.dns_proxy_pod import DnsProxyPod
from tests.http_proxy.kernel.http_pod import PORT, Proxy
from tests.redirect.kernel.live import LiveRouter

PAUSE, SQUID, HAPROXY = "pause (sleep)", "bare Squid", "bare HAProxy"
HTTP, DNS, NODE = "http-proxy, with Squid", "dns-proxy, with HAProxy", "node agent"
RUN = {backend: f"run, {backend}" for backend in BACKENDS}
#: Closes connections, which the origin behind Squid does not.
ANSWERS = 8081
BARE_HAPROXY = f"""
defaults
  mode tcp
  timeout client 1h
  timeout server 1h
  timeout connect 5s
listen all
  bind :80
  server one {SERVICE}:{ANSWERS}
"""
WEB_PORT, SQUID_PORT = 80, 3128
LOG_SECONDS = 0.2


@dataclass(slots=True)
class Process:
    """A process that stays, with its descendants, and how to give it work for about a second."""

    name: str
    size: int
    pid: int
    work: Callable[[], dict[str, float]] | None = None

    def loaded(self) -> dict[str, float]:
        """Return what a unit of work costs it, and its memory afterwards."""
        assert self.work is not None
        before, began = tree_cpu(self.pid), time.monotonic()
        found = self.work()
        seconds = time.monotonic() - began
        # Its access log is read a little later.
        time.sleep(LOG_SECONDS)
        cpu = tree_cpu(self.pid) - before
        return {
            "loaded": cpu / seconds,
            "each": cpu / found["requests"],
            "memory_loaded": tree_memory(self.pid)["pss"],
            "rate": found["rate"],
        }


def measure(run: Run) -> None:
    """Start all of it, let it idle together, then give each its work in turn."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        directory = Path(folder)
        directory.chmod(0o777)
        routers = _routers(run, stack, directory)
        processes = [process for process, _ in routers]
        if not run.quick:
            processes += [*_proxies(run, stack, directory), _node(run, stack, directory)]
        idle = run.pick(30, 8)
        run.say("waiting until all is calm")
        # The look at everything that follows a change must be over.
        time.sleep(run.pick(8, 4))
        for number in range(int(run.pick(3, 1))):
            run.say(f"idle, {idle:.0f} s, {number + 1}")
            before = [tree_cpu(process.pid) for process in processes]
            time.sleep(idle)
            for process, cpu in zip(processes, before, strict=True):
                share = (tree_cpu(process.pid) - cpu) / idle
                run.record(process.name, process.size, {"idle": share, **tree_memory(process.pid)})
        if run.quick:
            return
        working = [Arm(process.name, process.loaded, process.size) for process in processes if process.work]
        run.interleave(working, 5)
        for process, router in routers:
            _changes(run, process, router)


def _routers(run: Run, stack: ExitStack, directory: Path) -> list[tuple[Process, LiveRouter]]:
    """Start `egress-router run` with both backends and two sizes, each in a lab of its own."""
    found = []
    for backend in BACKENDS:
        for size in (1, 10_000):
            if run.quick and (backend, size) != ("nftables", 10_000):
                continue
            run.say(f"starting {RUN[backend]}, {size:,}")
            lab = stack.enter_context(Lab())
            own = directory / f"{backend}-{size}"
            own.mkdir()
            answer_http(lab.services, own)
            router = LiveRouter(lab, backend, own, rules(size, 25))
            router.start()
            url = f"http://{router.host.addresses[4]}:{WEB_PORT}/"
            work = _asking(router.client, url)
            found.append((Process(RUN[backend], size, pid_of(router), work), router))
    return found


def _asking(client: Host, url: str) -> Callable[[], dict[str, float]]:
    return lambda: wrk(client, url)


def _proxies(run: Run, stack: ExitStack, directory: Path) -> list[Process]:
    """Start both proxies of ours, the bare ones, and a process that does nothing."""
    run.say("starting proxies")
    lab = stack.enter_context(Lab())
    client, bare = lab.pod("asking"), lab.pod("bare")
    stack.enter_context(origin(lab))
    lab.dns.set("server.example", A=[SERVICE], ttl=3600)
    script = proxy_script(directory, ASKED)
    squid = Form(bare, SQUID, upstream, lines_of("mixed", 1), SQUID_PORT)
    stack.callback(squid.end)
    answer_http(lab.services, directory, ANSWERS)
    config = directory / "bare.cfg"
    config.write_text(BARE_HAPROXY)
    haproxy = bare.popen(["haproxy", "-db", "-f", str(config)])
    wait_for_port(client, bare.addresses[4], WEB_PORT)
    pause = bare.popen(["sleep", "infinity"])
    proxy = stack.enter_context(Proxy(lab, lab.pod("http-proxy")))
    settings = {"EGRESS_HTTP_PROXY_ACCESS_LOG": "off", "EGRESS_HTTP_PROXY_WORKERS": "1"}
    proxy.start("\n".join(lines_of("mixed", 1)), env=settings)
    dns = stack.enter_context(
        DnsProxyPod(lab, directory, f"{WEB_PORT} server.example {ANSWERS}\n", families="4", DNS_PROXY_ACCESS_LOG="off")
    )
    assert dns.process is not None
    ways = {squid.port: str(bare.addresses[4]), PORT: proxy.address}
    for port, address in ways.items():
        wait_for_answer(client, address, port, f"http://{ASKED}/", time.monotonic())

    def through(port: int) -> Callable[[], dict[str, float]]:
        return lambda: wrk(client, f"http://{ways[port]}:{port}/", keep=True, script=script)

    return [
        Process(PAUSE, 0, pause.pid),
        Process(SQUID, 0, squid.processes[0].pid, through(squid.port)),
        Process(HTTP, 0, proxy.supervisor_pid(), through(PORT)),
        Process(HAPROXY, 0, haproxy.pid, _asking(client, f"http://{bare.addresses[4]}:{WEB_PORT}/")),
        Process(DNS, 0, dns.process.pid, _asking(client, f"http://{dns.address}:{WEB_PORT}/")),
    ]


def _node(run: Run, stack: ExitStack, directory: Path) -> Process:
    """Start node agents; the one that holds the address is measured."""
    run.say("starting node agents")
    moving = Moving(stack.enter_context(Lab(nodes=3)), directory)
    answer_http(moving.lab.services, directory)
    pid = moving.cluster.agents[moving.holder.name].pid
    return Process(NODE, 0, pid, _asking(moving.client, f"http://{SERVICE}/"))


def _changes(run: Run, process: Process, router: LiveRouter) -> None:
    """Reload with one destination changed, and put back what was deleted."""
    rounds = 5
    for number in range(rounds):
        run.say(f"{process.name} ({process.size:,}): reload and repair {number + 1} of {rounds}")
        seconds, cpu = reload_time(router, rules(process.size, 26 + number % 2))
        time.sleep(1.5)
        repair = repair_time(router, "ip route del default table 14601 via 192.0.2.1")
        time.sleep(1)
        run.record(process.name, process.size, {"reload": seconds, "reload_cpu": cpu, "repair": repair})


ROUTERS = tuple((name, size) for name in RUN.values() for size in (1, 10_000))
STAYING = (*ROUTERS, (HTTP, 0), (SQUID, 0), (DNS, 0), (HAPROXY, 0), (NODE, 0), (PAUSE, 0))
WORKING = tuple(one for one in STAYING if one[0] != PAUSE)

QUESTION = Question(
    name="long-lived",
    title="What stays: memory and processor time",
    size_means="destinations",
    metrics=(
        Metric("pss", "PSS", "MB"),
        Metric("rss", "RSS", "MB"),
        Metric("idle", "idle, of a core", "%", 100),
        Metric("memory_loaded", "PSS", "MB"),
        Metric("loaded", "of a core", "%", 100),
        Metric("each", "per request", "µs", 1e6),
        Metric("rate", "requests", "/s"),
        Metric("reload", "reload, one changed", "s"),
        Metric("reload_cpu", "of that, processor time", "s"),
        Metric("repair", "deleted route back", "ms", 1e3),
    ),
    tables=(
        ArmTable(("pss", "rss", "idle"), STAYING, None, plot="pss"),
        ArmTable(("memory_loaded", "loaded", "each", "rate"), WORKING, None, plot="each"),
        ArmTable(("reload", "reload_cpu", "repair"), ROUTERS, None),
    ),
    goals=(
        *(
            Check(Value("rss", name, size), f"{name}, {size:,}: at most {limit} MB resident", at_most=limit)
            for name, size in ROUTERS
            for limit in ((24,) if size == 1 else (40,))
        ),
        *(
            Check(Value("idle", name, size), f"{name}, {size:,}: at most 1 % of a core, idle", at_most=0.01)
            for name, size in ROUTERS
        ),
        Check(Value("reload", RUN["nftables"], 10_000), "nftables: 10,000 destinations reloaded within 1 s", at_most=1),
        *(
            Check(Value("repair", name, 1), f"{name}: a deleted route is back within 100 ms", at_most=0.1)
            for name in RUN.values()
        ),
        Check(Ratio("each", HTTP, SQUID), "a request costs the HTTP proxy what it costs a bare Squid", at_most=1.1),
        Check(
            Ratio("each", DNS, HAPROXY), "a connection costs the DNS proxy what it costs a bare HAProxy", at_most=1.05
        ),
    ),
    measure=measure,
)
