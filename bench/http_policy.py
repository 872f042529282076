"""Requests a second through Squid by size of the policy: ours beside upstream's form, in one run.

    python bench/http_policy.py [SECONDS [names|addresses|mixed|denied|literal]]   (root, from the repository's root)

The line that allows the request is the last; with `denied` the lines are mixed and none
does, with `literal` they are mixed and an address is asked for. Upstream's form is what
OpenShift's image writes: one ACL and one rule a line. Each figure is the median of three turns; the forms take turns,
so that what else the machine does meets all of them. The origin is a small epoll server, faster than Squid.
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

from egress_router.config.http_policy import VARIABLE, parse_http_policy
from egress_router.config.inputs import Inputs, Problems
from egress_router.lab import Lab
from egress_router.lab.host import Host
from egress_router.model.http_policy import HttpSettings
from egress_router.plan.http_compile import compile_policy
from egress_router.render.squid import SquidPlace, render_squid

TURNS = 3
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


def lines_of(kind: str, count: int) -> list[str]:
    """Return so many lines, the one that allows the request last."""
    names = [f"host-{number}.example.com" for number in range(count - 1)]
    addresses = [f"10.{number // 250}.{number % 250}.0/24" for number in range(count - 1)]
    if kind == "names":
        return [*names, ASKED]
    if kind == "addresses":
        return [*addresses, ORIGIN_ADDRESS]
    both = [name if at % 2 else address for at, (name, address) in enumerate(zip(names, addresses, strict=True))]
    last = {"denied": "last.example.com", "literal": ORIGIN_ADDRESS}
    return [*both, last.get(kind, ASKED)]


def ours(lines: list[str], port: int, directory: str) -> dict[str, str]:
    problems = Problems()
    policy = parse_http_policy(Inputs({VARIABLE: "\n".join(lines)}), problems)
    problems.raise_if_any()
    assert policy
    return render_squid(
        compile_policy(policy),
        HttpSettings(port=port, access_log=False),
        SquidPlace(directory, "0.0.0.0"),  # noqa: S104
    )


def upstream(lines: list[str], port: int, directory: str) -> dict[str, str]:
    """The same process settings, with the policy in upstream's form and without our second look."""
    conf = ours([ASKED], port, directory)["squid.conf"]
    conf = re.sub(r"^(http_access|tcp_outgoing_address|acl) .*\n", "", conf, flags=re.MULTILINE)
    rules = [
        f"acl dest{n} {'dst' if line[0].isdecimal() else 'dstdomain'} {line}\nhttp_access allow dest{n}"
        for n, line in enumerate(lines, start=1)
    ]
    return {"squid.conf": "\n".join([conf, *rules, "http_access deny all", ""])}


class Form:
    """One Squid with one policy."""

    def __init__(
        self, pod: Host, title: str, write: Callable[[list[str], int, str], dict[str, str]], lines: list[str], port: int
    ) -> None:
        self.title, self.port = title, port
        self.directory = Path(tempfile.mkdtemp(prefix="egress-bench-"))
        self.directory.chmod(0o755)
        for name, text in write(lines, port, str(self.directory)).items():
            (self.directory / name).write_text(text)
        service = f"egressbench{port}"
        command = ["setpriv", "--reuid=1234", "--regid=0", "--clear-groups", "squid", "-N", "-n", service]
        self.process = pod.popen([*command, "-f", str(self.directory / "squid.conf")], stderr=subprocess.DEVNULL)
        self.rates: list[float] = []
        self.capacities: list[float] = []

    def measure(self, client: Host, proxy: str, seconds: int, kind: str) -> None:
        """Add one turn of wrk."""
        script = self.directory / "proxy.lua"
        host = ORIGIN_ADDRESS if kind == "literal" else ASKED
        script.write_text(f"wrk.path = 'http://{host}/'\nwrk.headers['Host'] = '{host}'\n")
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), f"http://{proxy}:{self.port}/"]
        before = self.processor_seconds()
        out = client.run(command, timeout=seconds + 30).stdout
        used = self.processor_seconds() - before
        assert (kind == "denied") == ("Non-2xx" in out), out
        found = re.search(r"Requests/sec:\s+([0-9.]+)", out)
        assert found, out
        self.rates.append(float(found[1]))
        total = re.search(r"([0-9]+) requests in", out)
        assert total
        self.capacities.append(int(total[1]) / used)

    def processor_seconds(self) -> float:
        """Return what Squid has used of a processor."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """End Squid and remove its files."""
        self.process.kill()
        self.process.wait()
        subprocess.run(["rm", "-rf", str(self.directory)], check=False)
        for stale in Path("/dev/shm").glob("egressbench*"):  # noqa: S108
            stale.unlink()


def main(seconds: int = 3, kind: str = "mixed") -> None:
    with Lab(nodes=1, shape="bridge") as lab:
        router, client = lab.pod("router"), lab.pod("client")
        lab.dns.set(ASKED, A=[ORIGIN_ADDRESS], ttl=3600)
        origin = lab.services.popen([sys.executable, "-c", ORIGIN, ORIGIN_ADDRESS])
        forms = [
            Form(router, f"{who:8} {count:6} lines", write, lines_of(kind, count), 20000 + at)
            for at, (who, write, count) in enumerate(
                [
                    ("ours", ours, 1),
                    ("ours", ours, 5000),
                    ("ours", ours, 10000),
                    ("upstream", upstream, 1),
                    ("upstream", upstream, 1000),
                    ("upstream", upstream, 5000),
                ]
            )
        ]
        try:
            time.sleep(4)
            for form in forms:
                form.measure(client, str(router.addresses[4]), 1, kind)
                form.rates.clear()
                form.capacities.clear()
            for _ in range(TURNS):
                for form in forms:
                    form.measure(client, str(router.addresses[4]), seconds, kind)
        finally:
            for form in forms:
                form.end()
            origin.kill()
            origin.wait()
    print("median of", TURNS, "turns           requests/s   requests per second of Squid's processor time")
    for form in forms:
        print(f"{form.title}: {statistics.median(form.rates):12.0f} {statistics.median(form.capacities):12.0f}")
    for what in ("rates", "capacities"):
        one, five, ten, _, _, theirs = [statistics.median(getattr(form, what)) for form in forms]
        print(f"{what}: 10000 lines / 1 line: {ten / one:.2f} (goal 0.9)")
        print(f"{what}: ours / upstream's form at 5000 lines: {five / theirs:.1f} (goal 20)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:3])
