"""Runs ``egress-router init`` in forked children that kill themselves after a number of steps.

A step is a call or a return of a Python or C function, in the run's own process and in the children that it forks, so
the points cover the whole run, whatever the machine's speed. Input lines are JSON: {"netns": path, "env": {…},
"kill_at": step or null, "group": whether the run's children are killed too}. Each is answered by {"status": exit status
or minus the signal, "steps": …, "stderr": …}.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
import tempfile
from typing import Any

from egress_router.cli.main import main as egress_router
from egress_router.net.iptables import tables as iptables_child
from egress_router.net.iptables.library import load_iptc
from egress_router.redirect import init
from egress_router.redirect import nft_backend as nftables

assert iptables_child
assert nftables
assert init


def run(request: dict[str, Any], steps: memoryview) -> None:
    """Never returns."""
    os.setsid()
    with open(request["netns"], "rb") as netns:  # noqa: PTH123
        assert ctypes.CDLL(None).setns(netns.fileno(), 0x40000000) == 0
    for name in [name for name in os.environ if name.startswith("EGRESS_")]:
        del os.environ[name]
    os.environ.update(request["env"])
    kill_at, whole_group, main_pid = request["kill_at"], request["group"], os.getpid()

    def step(frame: object, event: str, argument: object) -> None:
        steps[0] += 1
        if steps[0] == kill_at:
            if whole_group:
                os.killpg(main_pid, signal.SIGKILL)
            os.kill(main_pid, signal.SIGKILL)

    sys.setprofile(step)
    egress_router(["init"])


def main() -> None:
    load_iptc()
    shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
    print(flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        shared[0] = 0
        with tempfile.TemporaryFile() as errors:
            pid = os.fork()
            if pid == 0:
                os.dup2(errors.fileno(), 2)
                try:
                    run(request, shared)
                except SystemExit as end:
                    sys.setprofile(None)
                    os._exit(int(end.code or 0))
                finally:
                    os._exit(99)
            _, status = os.waitpid(pid, 0)
            errors.seek(0)
            text = errors.read().decode()
        answer = {"status": os.waitstatus_to_exitcode(status), "steps": shared[0], "stderr": text}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
