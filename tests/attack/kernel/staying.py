"""Verbs of egress-router as processes in a network namespace of their own, with stand-ins for the tools they call."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.image_view import ARGUMENTS, SEE_IMAGE

CHECKOUT = Path(__file__).parents[3]
#: How long a state may take to come about on a busy machine.
PATIENCE = 60.0
PORT = 9911

#: The pod: an interface with the default route, and another one for the egress side.
POD = """
ip link set lo up
ip link add eth0 type veth peer name far0 && ip addr add 10.128.0.2/23 dev eth0 && ip link set far0 up
ip link set eth0 up && ip route add default via 10.128.0.1
ip link add macvlan0 type veth peer name far1 && ip link set far1 up
"""
NODE = """
ip link set lo up
ip link add eth0 type veth peer name far0 && ip addr add 192.0.2.11/24 dev eth0 && ip link set far0 up
ip link set eth0 up && ip route add default via 192.0.2.1
"""
ROUTER = {
    "EGRESS_SOURCE": "192.0.2.46/24",
    "EGRESS_GATEWAY": "192.0.2.1",
    "EGRESS_DESTINATION": "80 tcp 203.0.113.25",
    "EGRESS_DAD": "off",
    "EGRESS_NAT_BACKEND": "nftables",
}
#: A tool that is called and never ends.
HANGS = '#!/bin/sh\ntouch "$0.called"\nexec sleep 1000\n'


@dataclass
class Process:
    """A verb of egress-router that is started by ``start``; ``folder`` is its own."""

    folder: Path
    setup: str = POD
    tools: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    popen: subprocess.Popen[bytes] | None = None
    python: str = ""
    become: tuple[str, ...] = ()

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, *verb: str, stderr: int | None = None, stdout: int | None = None, python: str = "") -> None:
        tools = self.folder / "tools"
        tools.mkdir(exist_ok=True)
        for name, text in self.tools.items():
            self.tool(name, text)
        main = (
            f"import signal\n{python or self.python}\nfrom egress_router.cli.main import main\nmain({list(verb)!r})\n"
        )
        rest = "shift 4\n" + 'PATH=$TOOLS:$PATH\ntrap "" TERM\nexec "$@"\n'
        setup = f"set -e\n{self.setup}\n{SEE_IMAGE}{rest}"
        pod = ("unshare", "--net", "--mount", "sh", "-c", setup, "sh")
        python3 = str(self.folder / "image/base/bin/python3")
        environment = {"PATH": os.environ["PATH"], "TOOLS": str(tools), "EGRESS_SHUTDOWN_GRACE": "0", **self.env}
        with (self.folder / "log").open("ab") as log:
            self.popen = subprocess.Popen(
                [*pod, str(self.folder), *ARGUMENTS, *self.become, python3, "-c", main],
                cwd=CHECKOUT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log if stderr is None else stderr,
                start_new_session=True,
            )

    def tool(self, name: str, text: str) -> None:
        path = self.folder / "tools" / name
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.replace(path)

    def called(self, name: str) -> Callable[[], bool]:
        return (self.folder / "tools" / f"{name}.called").exists

    def says(self, *words: str) -> Callable[[], bool]:
        return lambda: all(word in self.log for word in words)

    def until(self, condition: Callable[[], object]) -> None:
        assert self.popen is not None
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.popen.poll() is None, f"it ended with {self.popen.returncode}:\n{self.log}"
            assert time.monotonic() < end, f"the state did not come about:\n{self.log[-4000:]}"
            time.sleep(0.02)

    def page(self, path: str) -> tuple[int, str]:
        """Ask for a page from inside of its namespace; (0, "") while nobody answers."""
        assert self.popen is not None
        ask = (
            "import sys,urllib.request,urllib.error\n"
            "try: a = urllib.request.urlopen(sys.argv[1], timeout=3)\n"
            "except urllib.error.HTTPError as error: a = error\n"
            "except OSError: sys.exit(1)\n"
            "print(a.status); print(a.read().decode())\n"
        )
        url = f"http://127.0.0.1:{PORT}{path}"
        enter = ["nsenter", f"--net=/proc/{self.popen.pid}/ns/net", sys.executable, "-c", ask, url]
        done = subprocess.run(enter, capture_output=True, text=True, check=False)
        status, _, text = done.stdout.partition("\n")
        return (int(status), text) if done.returncode == 0 else (0, "")

    def ends(self, expected: int = 0) -> float:
        """Send SIGTERM and return how long it took to end."""
        assert self.popen is not None
        assert self.popen.poll() is None, f"it ended before:\n{self.log}"
        began = time.monotonic()
        self.popen.send_signal(signal.SIGTERM)
        try:
            status = self.popen.wait(30)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"SIGTERM was not heard:\n{self.log[-4000:]}") from None
        took = time.monotonic() - began
        assert status == expected, f"it ended with {status}:\n{self.log[-4000:]}"
        assert "Traceback" not in self.log, self.log[-4000:]
        return took

    def kill(self) -> None:
        if self.popen is not None:
            # Its session is its own: what it has started goes as well.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()


@contextlib.contextmanager
def a_process() -> Iterator[Process]:
    # Short, for it has sockets.
    folder = Path("/tmp") / f"egress-sigterm-{os.getpid()}-{time.monotonic_ns() % 10**9}"
    folder.mkdir()
    process = Process(folder)
    try:
        yield process
    finally:
        process.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def process() -> Iterator[Process]:
    with a_process() as made:
        yield made
