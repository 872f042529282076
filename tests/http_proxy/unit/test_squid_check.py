"""What is told of a Squid that does not take a configuration."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from egress_router.errors import ToolFailed
from egress_router.http_proxy.squid.files import check

SAID = """\
2026/01/01 00:00:00| something else
2026/01/01 00:00:00| Processing: request_header_add Proxy-Authorization "Basic dTpwYXNz" all
2026/01/01 00:00:00| Processing: never_direct allow all
"""


def test_a_squid_that_is_killed_while_it_reads_tells_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """`squid -k parse` repeats each line that it reads, and what it said last is in the log, in /status and a page."""
    killed = subprocess.CompletedProcess([], -signal.SIGKILL, SAID, "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(ToolFailed, match="something else") as failed:
        check("squid", Path("squid.conf"))
    assert "dTpwYXNz" not in str(failed.value)
