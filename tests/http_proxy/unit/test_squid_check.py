"""What a Squid is given, and what is told of one that does not take it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from egress_router.errors import ToolFailed
from egress_router.http_proxy.squid.files import check, write_files

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


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    """Each start of a Squid of a generation makes sure of its files; to write them again is what takes the time."""
    files = {"squid.conf": "http_port 8080\n", "errors/ERR_DNS_FAIL": "ä\n"}
    write_files(tmp_path / "one", files)
    places = [tmp_path / "one" / name for name in files]
    for place in places:
        os.utime(place, ns=(1, 1))
    write_files(tmp_path / "one", files)
    assert [place.stat().st_mtime_ns for place in places] == [1, 1]
    places[0].write_text("http_port 80\n")
    places[1].unlink()
    write_files(tmp_path / "one", files)
    assert [place.read_text() for place in places] == list(files.values())
    assert {place.stat().st_mode & 0o777 for place in places} == {0o600}
