"""A pod of the lab that is a DNS proxy router: init container and proxy container, as in a cluster."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from lab import Host, Lab, NoReply
from lab.patience import patient
from tests.support.image_view import ARGUMENTS, PROGRAM, SEE_IMAGE

ROOT = Path(__file__).parents[3]
SOURCE = {4: "192.0.2.46", 6: "2001:db8:2::46"}
#: Any user with group 0 and no capability at all, as OpenShift runs containers.
ANY_USER = ["setpriv", "--reuid=1000680000", "--regid=0", "--clear-groups", "--bounding-set=-all", "--no-new-privs"]
#: Everything is read-only except the files of the test and /run/egress-router.
CONTAINER = f"""{SEE_IMAGE}
mount --bind "$1/run" /run/egress-router
mount -o remount,ro,bind /
shift 4
exec "$@"
"""
#: How it looks when the proxy accepts a connection and has no server for it; a matter of timing.
CLOSED = ("closed", "reset", "unreachable")
PYTHON = [sys.executable, "-m", "egress_router"]
READY = "haproxy generation 1 is in force"


class DnsProxyPod:
    """A client pod, a router pod and its proxy process. Started by ``with``; ended without grace at the end."""

    def __init__(self, lab: Lab, directory: Path, destinations: str, families: str = "46", **env: str) -> None:
        self.lab = lab
        self.client, self.router = self.make_pods()
        self.directory = directory
        self.list = directory / "destinations"
        self.list.write_text(destinations)
        self.families = [int(digit) for digit in families]
        self.source = ",".join(SOURCE[family] for family in self.families)
        self.env = {
            "EGRESS_DNS_PROXY_DESTINATION_FILE": str(self.list),
            "EGRESS_SOURCE": self.source,
            "EGRESS_SHUTDOWN_GRACE": "5",
            **{f"EGRESS_{name}": value for name, value in env.items()},
        }
        self.backend = "auto"
        self.program = PROGRAM
        self.process: subprocess.Popen[Any] | None = None

    def make_pods(self) -> tuple[Host, Host]:
        """Return the pods of the client and of the router."""
        return self.lab.pod("client"), self.lab.pod("router")

    def __enter__(self) -> Self:
        self.init()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    @property
    def address(self) -> str:
        """What clients connect to."""
        return str(self.router.addresses[4])

    def init(self) -> None:
        """Run the init container."""
        self.lab.macvlan(self.router)
        gateways = {4: "192.0.2.1", 6: "2001:db8:2::1"}
        env = {
            "EGRESS_ROUTER_MODE": "dns-proxy",
            "EGRESS_SOURCE": self.source,
            "EGRESS_GATEWAY": ",".join(gateways[family] for family in self.families),
            "EGRESS_DAD": "off",
            "EGRESS_NAT_BACKEND": self.backend,
        }
        self.router.run([*PYTHON, "init"], env=env, cwd=ROOT)

    def start(self, wait: bool = True) -> None:
        """Start the proxy container; ``wait`` until it is ready."""
        run = self.directory / "run"
        run.mkdir(exist_ok=True)
        Path("/run/egress-router").mkdir(exist_ok=True)
        run.chmod(0o777)
        container = ["sh", "-c", CONTAINER, "container", str(self.directory), *ARGUMENTS]
        program = [str(self.directory / "image/base/bin/python3"), *self.program, "dns-proxy"]
        with (self.directory / "stdout").open("ab") as out, (self.directory / "stderr").open("ab") as err:
            self.process = self.router.popen([*container, *ANY_USER, *program], env=self.env, stdout=out, stderr=err)
        if wait:
            started = self.messages().count(READY)
            process = self.process
            self.until(lambda: self.messages().count(READY) > started or process.poll() is not None)
            assert process.poll() is None, self.messages()

    def messages(self) -> str:
        """What stands on standard error."""
        return (self.directory / "stderr").read_text()

    def access_log(self) -> list[dict[str, Any]]:
        """What stands on standard output."""
        return [json.loads(line) for line in (self.directory / "stdout").read_text().splitlines()]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        assert self.process is not None
        self.process.send_signal(number)

    def haproxy_pids(self) -> list[int]:
        """The HAProxy processes that there are, oldest first."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(word) for word in children.split()]

    def ask(self, port: int, address: str | None = None, client: Host | None = None, timeout: float = 3.0) -> list[str]:
        """Connect to the router's ``port``; return the echo: source, its port, address that served, its port, text."""
        return self.lab.tcp(client or self.client, address or self.address, port, timeout=timeout).split()

    def served(self, port: int, times: int) -> dict[str, int]:
        """Return how often each address served during ``times`` connections."""
        found: dict[str, int] = {}
        for _ in range(times):
            server = self.ask(port)[2]
            found[server] = found.get(server, 0) + 1
        return found

    def fails(self, port: int) -> str:
        """Return why a connection to ``port`` fails."""
        try:
            answer = self.ask(port)
        except NoReply as error:
            return error.reason
        raise AssertionError(f"an answer came: {answer}")

    def until_served_by(self, port: int, addresses: set[str], seconds: float = 15.0) -> None:
        """Wait until exactly these addresses serve ``port``."""

        def look() -> bool:
            try:
                return set(self.served(port, 2 * len(addresses) + 1)) == addresses
            except NoReply:
                return not addresses

        self.until(look, seconds)

    def until(self, true: Callable[[], object], seconds: float = 15.0) -> None:
        """Wait until ``true()``; AssertionError with the log when it does not become so."""
        end = time.monotonic() + patient(seconds)
        while not true():
            assert time.monotonic() < end, f"did not happen in {patient(seconds)} s:\n{self.messages()}"
            time.sleep(0.1)

    def hold(self, port: int, address: str | None = None) -> socket.socket:
        """Open a connection that stays; the first echo was received."""
        family = socket.AF_INET6 if address and ":" in address else socket.AF_INET
        opened = self.client.socket(family, socket.SOCK_STREAM)
        opened.settimeout(5)
        opened.connect((address or self.address, port))
        assert echoes(opened)
        return opened


def echoes(opened: socket.socket) -> bool:
    """Whether the connection still answers."""
    opened.sendall(b"still here\n")
    received = b""
    while not received.endswith(b"still here\n"):
        chunk = opened.recv(4096)
        if not chunk:
            return False
        received += chunk
    return True
