"""A long-lived router under test: `egress-router run` in the pod, its log, and its destinations in a file."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import Host, Lab
from lab.patience import patient
from tests.redirect.kernel.router import Router

#: Long enough for a busy machine; nothing waits for it that goes well.
PATIENCE = 15.0


class LiveRouter(Router):
    """A Router whose destinations stand in a file as the kubelet mounts a ConfigMap: behind the link ``..data``."""

    def __init__(
        self,
        lab: Lab,
        backend: str,
        directory: Path,
        rules: str,
        place: tuple[str, int, Host] | None = None,
        /,
        **env: str,
    ) -> None:
        """``place``: the pod's name, its node, and the pod of its client."""
        name, node, client = place or ("router", 0, None)
        super().__init__(lab, backend, rules=rules, name=name, node=node, client=client)
        del self.env["EGRESS_DESTINATION"], self.env["EGRESS_ROUTER_DEBUG"]
        self.directory = directory
        self.file = directory / "destinations"
        self.log_file = directory / "log"
        #: What Python runs; see tests.support.failing.
        self.program: tuple[str, ...] = ("egress_router",)
        self._version = 0
        self.swap(rules)
        self.file.symlink_to("..data/destinations")
        self.env |= {"EGRESS_DESTINATION_FILE": str(self.file), "EGRESS_ROUTER_MODE": "legacy", **env}
        self.process: subprocess.Popen[Any] | None = None

    def swap(self, rules: str) -> None:
        """Change the ConfigMap as the kubelet does: a new directory, and one rename of the link to it."""
        self._version += 1
        new = self.directory / f"..version-{self._version}"
        new.mkdir()
        (new / "destinations").write_text(rules)
        link = self.directory / "..data_tmp"
        link.symlink_to(new.name)
        link.rename(self.directory / "..data")

    def start(self, verb: str = "run") -> None:
        """Start the router and wait until it is set up."""
        with self.log_file.open("a") as log:
            command = [sys.executable, "-m", *self.program, verb]
            self.process = self.host.popen(command, env=self.env, stderr=log, stdout=log)
        before = self.log().count("staying until")
        self.until(lambda: self.log().count("staying until") > before or self._ended(), "the router is set up")
        assert not self._ended(), self.log()

    def _ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def log(self) -> str:
        """Return the log so far."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def logged(self, text: str, times: int = 1) -> None:
        """Wait until ``text`` stands in the log so often."""
        self.until(lambda: self.log().count(text) >= times, f"{text!r} is logged {times} times")

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until ``condition`` holds."""
        self.until_for(condition, what, PATIENCE)

    def until_for(self, condition: Callable[[], object], what: str, seconds: float) -> None:
        """Wait so long until ``condition`` holds."""
        end = time.monotonic() + patient(seconds)
        while not condition():
            assert time.monotonic() < end, f"waited for: {what}\n{self.log()}"
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def reload(self, rules: str) -> None:
        """Change the destinations and have them read by SIGHUP."""
        done = self.log().count("reload")
        self.swap(rules)
        self.signal(signal.SIGHUP)
        self.until(lambda: self.log().count("reload") > done, "the reload is done")

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        assert self.process is not None
        return int(self.process.wait(patient(PATIENCE)))
