"""A router that waits for the lock of legacy iptables, which somebody else holds: its health is answered all the time,
and its list is in place as soon as the lock is free.
"""

from __future__ import annotations

import contextlib
import subprocess
import time

import pytest

from tests.attack.kernel.staying import PORT, ROUTER, Process, process
from tests.attack.kernel.test_sigterm import locked

__all__ = ["process"]

pytestmark = pytest.mark.root

#: A loop or thread that is to turn every 30 s has 6 s here, so that the test need not wait for so long.
SOON = """
import egress_router.daemon.heartbeat as beats_
watch_ = beats_.Heartbeats.watch
beats_.Heartbeats.watch = lambda self, name, limit=30.0: watch_(self, name, 6.0 if limit == 30.0 else limit)
"""
LASTS_SECONDS = 10.0


def test_health_is_answered_while_somebody_holds_the_lock(process: Process) -> None:
    path = process.folder / "list"
    path.write_text("80 tcp 203.0.113.25\n")
    process.env = {key: value for key, value in ROUTER.items() if key != "EGRESS_DESTINATION"}
    process.env |= {"EGRESS_DESTINATION_FILE": str(path), "EGRESS_HEALTH_PORT": str(PORT)}
    process.env |= {"EGRESS_NAT_BACKEND": "iptables", "XTABLES_LOCKFILE": str(process.folder / "xtables.lock")}
    process.start("run", python=SOON)
    process.until(process.says("staying until SIGTERM"))
    process.until(lambda: process.page("/healthz")[0] == 200)
    assert process.popen is not None
    save = ["nsenter", f"--net=/proc/{process.popen.pid}/ns/net", "iptables-legacy-save", "-t", "nat"]

    def rules() -> str:
        return subprocess.run(save, capture_output=True, text=True, check=True).stdout

    with contextlib.ExitStack() as held:
        locked(process, held)
        path.write_text("8123 tcp 203.0.113.25\n")
        process.until(process.says("reading the destinations anew"))
        began, asked = time.monotonic(), 0
        while time.monotonic() - began < LASTS_SECONDS:
            status, text = process.page("/healthz?verbose")
            assert status == 200, f"{text}\n{process.log[-2000:]}"
            asked += 1
            time.sleep(0.1)
        assert asked > 5
        assert "8123" not in rules(), "the control: it waits"
    process.until(lambda: "8123" in rules())
    assert process.ends() < 10
