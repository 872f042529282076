"""SIGTERM while a process that stays is still starting: it ends at once, as PID 1 of a container too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
#: Reading so many lines takes every one of them longer than a start otherwise.
LINES = 40_000
POLICIES = {
    "http-proxy": ("EGRESS_HTTP_PROXY_DESTINATION_FILE", "".join(f"!host{n}.example.com\n" for n in range(LINES))),
    "run": (
        "EGRESS_DESTINATION_FILE",
        "".join(f"{n % 60000 + 1} udp 203.0.113.25 {n % 999 + 1}\n" for n in range(LINES)),
    ),
}


@pytest.mark.parametrize("verb", POLICIES)
def test_a_start_that_takes_its_time_hears_it(verb: str, tmp_path: Path) -> None:
    variable, text = POLICIES[verb]
    (tmp_path / "list").write_text(text)
    ready = tmp_path / "ready"
    # The signal comes when the list is being read, and not while modules are imported.
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "import egress_router.config.inputs as inputs\n"
        "read = inputs.SourceText.lines\n"
        "def lines(self):\n"
        f"    Path({str(ready)!r}).touch()\n"
        "    for number, line in enumerate(read(self)):\n"
        "        yield line\n"
        "inputs.SourceText.lines = lines\n"
        "from egress_router.cli.main import main\n"
        f"main([{verb!r}])\n"
    )
    environment = {
        "PATH": os.environ["PATH"],
        variable: str(tmp_path / "list"),
        "EGRESS_RUN_DIR": str(tmp_path / "run"),
        "EGRESS_SOURCE": "192.0.2.46",
        "EGRESS_GATEWAY": "192.0.2.1",
        "EGRESS_HEALTH_PORT": "off",
    }
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=CHECKOUT, env=environment, stderr=log, stdout=log
        )
    try:
        end = time.monotonic() + 30
        while not ready.exists():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.01)
        assert process.poll() is None, "it is at work"
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert time.monotonic() - began < 1
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
