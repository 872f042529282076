"""Requests a second through Squid by size of the policy: ours beside upstream's form, in one run.

    python bench/http_policy.py [SECONDS [LINES REQUEST [WORKERS]]]   (root, from the repository's root)

LINES: names, addresses or mixed. REQUEST: name or literal, which the last line allows, or denied, a name that no line
allows. Without them the pairs of KINDS, one after the other (about five minutes with SECONDS 1). Upstream's form is
what OpenShift's image writes: one ACL and one rule a line, for one Squid; ours is run by as many as the entry point
would start (WORKERS). 32 kept-alive connections; each figure is the median of
TURNS turns; the forms take turns, so that what else the machine does meets all of them. Client, Squid and origin talk
over the loopback of one pod: on a path through nodes and a gateway the kernel's share of a request, which no policy
changes, is larger, and differences seem smaller. The origin is a small epoll server, faster than Squid.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from egress_router.config.inputs import Inputs, Problems
from egress_router.http_proxy.settings import HttpSettings
from egress_router.http_proxy.squid.config import SquidPlace, error_pages, render_squid
from egress_router.http_proxy.squid.workers import default_workers
from egress_router.policy.compile import compile_policy
from egress_router.policy.parse import VARIABLE, parse_policy
from lab import Lab
from lab.host import Host

TURNS = 3
KINDS = [
    ("addresses", "denied"),
    ("mixed", "denied"),
    ("names", "denied"),
    ("addresses", "literal"),
    ("mixed", "literal"),
    ("addresses", "name"),
    ("names", "name"),
]
CONNECTIONS = 32
ASKED = "asked.example"
ORIGIN_ADDRESS = "203.0.113.25"
ORIGIN = """
import socket, select, sys
listener = socket.create_server((sys.argv[1], 80), backlog=4096, reuse_port=True)
listener.setblocking(False)
poll = select.epoll(); poll.register(listener, select.EPOLLIN)
open_, answer = {}, b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok"
while True:
    for number, _ in poll.poll():
        if number == listener.fileno():
            one, _ = listener.accept(); one.setblocking(False); open_[one.fileno()] = one
            poll.register(one, select.EPOLLIN)
        else:
            try: data = open_[number].recv(65536)
            except OSError: data = b""
            if data: open_[number].send(answer)
            else: poll.unregister(number); open_.pop(number).close()
"""


def lines_of(kind: str, count: int, request: str = "name") -> list[str]:
    """Return so many lines; the last allows the request, unless it is to be denied."""
    names = [f"host-{number}.example.com" for number in range(count - 1)]
    addresses = [f"10.{number // 250}.{number % 250}.0/24" for number in range(count - 1)]
    mixed = [name if at % 2 else address for at, (name, address) in enumerate(zip(names, addresses, strict=True))]
    about_address = request == "literal" or kind == "addresses"
    last = {
        "denied": "10.255.255.0/24" if about_address else "last.example.com",
        "literal": ORIGIN_ADDRESS,
        "name": ORIGIN_ADDRESS if about_address else ASKED,
    }
    return [*{"names": names, "addresses": addresses, "mixed": mixed}[kind], last[request]]


def ours(lines: list[str], port: int, directory: str) -> dict[str, str]:
    problems = Problems()
    policy = parse_policy(Inputs({VARIABLE: "\n".join(lines)}), problems)
    problems.raise_if_any()
    assert policy
    place = SquidPlace(directory, "0.0.0.0", error_directory=f"{directory}/errors")  # noqa: S104
    files = render_squid(compile_policy(policy), HttpSettings(port=port, access_log=False), place)
    return files | error_pages("errors")


def upstream(lines: list[str], port: int, directory: str) -> dict[str, str]:
    """The policy in upstream's form, with upstream's settings; those at the end keep Squid off the machine's files."""
    conf = [f"http_port {port}", "cache deny all", "access_log none all", "debug_options ALL,0", "shutdown_lifetime 0"]
    conf += ["pid_filename none", "cache_log /dev/null", "netdb_filename none", "pinger_enable off"]
    conf += ["visible_hostname upstream", f"coredump_dir {directory}"]
    rules = [
        f"acl dest{n} {'dst' if line[0].isdecimal() else 'dstdomain'} {line}\nhttp_access allow dest{n}"
        for n, line in enumerate(lines, start=1)
    ]
    return {"squid.conf": "\n".join([*conf, *rules, "http_access deny all", ""])}


def proxy_script(directory: Path, host: str) -> Path:
    """Write what has wrk ask a proxy for http://``host``/, and return its path."""
    script = directory / "proxy.lua"
    script.write_text(f"wrk.path = 'http://{host}/'\nwrk.headers['Host'] = '{host}'\n")
    return script


class Form:
    """One Squid with one policy, or several that share a port as the proxy's workers do."""

    def __init__(
        self,
        pod: Host,
        title: str,
        write: Callable[[list[str], int, str], dict[str, str]],
        lines: list[str],
        port: int,
        processes: int = 1,
    ) -> None:
        self.title, self.port = title, port
        self.directory = Path(tempfile.mkdtemp(prefix="egress-bench-"))
        self.directory.chmod(0o755)
        for name, text in write(lines, port, str(self.directory)).items():
            (self.directory / name).parent.mkdir(exist_ok=True)
            (self.directory / name).write_text(text)
        command = ["setpriv", "--reuid=1234", "--regid=0", "--clear-groups", "squid", "-N"]
        command += ["-f", str(self.directory / "squid.conf"), "-n"]
        self.processes = [
            pod.popen([*command, f"egressbench{port}w{number}"], stderr=subprocess.DEVNULL)
            for number in range(processes)
        ]
        self.rates: list[float] = []
        self.capacities: list[float] = []

    def measure(self, client: Host, proxy: str, seconds: int, request: str) -> None:
        """Add one turn of wrk."""
        script = proxy_script(self.directory, ORIGIN_ADDRESS if request == "literal" else ASKED)
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), f"http://{proxy}:{self.port}/"]
        before = self.processor_seconds()
        out = client.run(command, timeout=seconds + 30).stdout
        used = self.processor_seconds() - before
        assert (request == "denied") == ("Non-2xx" in out), out
        found = re.search(r"Requests/sec:\s+([0-9.]+)", out)
        assert found, out
        self.rates.append(float(found[1]))
        total = re.search(r"([0-9]+) requests in", out)
        assert total
        self.capacities.append(int(total[1]) / used)

    def processor_seconds(self) -> float:
        """Return what its Squids have used of processors."""
        stats = (Path(f"/proc/{process.pid}/stat").read_text() for process in self.processes)
        fields = [stat.rsplit(")", 1)[1].split() for stat in stats]
        return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """End its Squids and remove their files."""
        for process in self.processes:
            process.kill()
            process.wait()
        subprocess.run(["rm", "-rf", str(self.directory)], check=False)
        for stale in Path("/dev/shm").glob("egressbench*"):  # noqa: S108
            stale.unlink()


def measure(seconds: int, kind: str, request: str, workers: int) -> list[Form]:
    """Measure all forms and sizes with one kind of lines and requests."""
    with Lab(nodes=1, shape="bridge") as lab:
        pod = lab.pod("router")
        pod.ip(f"addr add {ORIGIN_ADDRESS}/32 dev lo")
        lab.dns.set(ASKED, A=[ORIGIN_ADDRESS], ttl=3600)
        origin = pod.popen([sys.executable, "-c", ORIGIN, ORIGIN_ADDRESS])
        forms = [
            Form(pod, f"{who:8} {count:6} lines", write, lines_of(kind, count, request), 20000 + at, processes)
            for at, (who, write, count, processes) in enumerate(
                [
                    ("ours", ours, 1, workers),
                    ("ours", ours, 5000, workers),
                    ("ours", ours, 10000, workers),
                    ("upstream", upstream, 1, 1),
                    ("upstream", upstream, 1000, 1),
                    ("upstream", upstream, 5000, 1),
                ]
            )
        ]
        try:
            time.sleep(4)
            for turn in range(TURNS + 1):
                for form in forms:
                    form.measure(pod, "127.0.0.1", seconds if turn else 1, request)
                    if turn == 0:
                        form.rates.clear()
                        form.capacities.clear()
        finally:
            for form in forms:
                form.end()
            origin.kill()
            origin.wait()
    return forms


def report(kind: str, request: str, forms: list[Form]) -> None:
    """Print a table and the two ratios, by requests a second and by requests per second of Squid's processor time."""
    print(f"lines: {kind}, request: {request}    requests/s   of Squid's processor time   us a request")
    for form in forms:
        rate, capacity = statistics.median(form.rates), statistics.median(form.capacities)
        print(f"  {form.title}: {rate:18.0f} {capacity:27.0f} {1e6 / capacity:14.0f}")
    for what in ("rates", "capacities"):
        one, five, ten, _, _, theirs = [statistics.median(getattr(form, what)) for form in forms]
        words = f"{ten / one:.2f} (goal 0.9); ours / upstream's form at 5000 lines: {five / theirs:.1f} (goal 20)"
        print(f"  {what:10}: 10000 lines / 1 line: {words}", flush=True)


def main(seconds: int = 1, kind: str = "", request: str = "denied", workers: str = "") -> None:
    for one in [(kind, request)] if kind else KINDS:
        report(*one, measure(seconds, *one, int(workers or default_workers())))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:5])
