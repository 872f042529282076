"""An agent whose nft(8) hangs, as it does while somebody holds the kernel's tables: it goes on, says so, and mends what
is to be mended once nft works again.
"""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.attack.kernel.staying import HANGS, Process, process
from tests.attack.kernel.test_sigterm import agent, objects

__all__ = ["process"]

pytestmark = pytest.mark.root

#: So that it does not last; see TOOL_SECONDS of the agent.
SOON = "import egress_router.egressip.node.process as agent_\nagent_.TOOL_SECONDS = 2.0\n"


def test_an_agent_outlives_an_nft_that_hangs(process: Process) -> None:
    objects(process)
    agent(process, "--dad", "off", python=SOON)
    process.until(process.says("ready"))
    assert process.popen is not None
    inside = ("nsenter", f"--net=/proc/{process.popen.pid}/ns/net", "nft")
    process.tool("nft", HANGS)
    subprocess.run([*inside, "flush", "ruleset"], check=True)
    process.until(process.says("no end after 2 s"))
    process.until(lambda: process.page("/healthz")[0] == 200)
    status, text = process.page("/readyz")
    assert status == 503
    assert "`nft " in text
    assert "failed (no end after 2 s)" in text
    # It hangs at each check and keeps nobody from the next one.
    process.until(lambda: process.log.count("no end after 2 s") >= 3)
    (process.folder / "tools/nft").unlink()
    began = time.monotonic()
    process.until(lambda: process.page("/readyz")[0] == 200)
    assert time.monotonic() - began < 30
    assert (
        "table inet egress"
        in subprocess.run([*inside, "list", "tables"], capture_output=True, text=True, check=True).stdout
    )
    assert process.ends() < 10
