"""Programs that cannot be started, or that end badly: always an error of ours."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from egress_router.errors import PlatformError, ToolFailed, ToolHangs
from egress_router.net import process


def test_programs(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="not installed") as missing:
        process.run_tool([str(tmp_path / "none")])
    assert missing.value.exit_code == 69
    plain = tmp_path / "plain"
    plain.write_text("no program")
    with pytest.raises(PlatformError, match="may not be executed"):
        process.run_tool([str(plain)])
    plain.chmod(0o700)
    with pytest.raises(PlatformError, match="ENOEXEC"):
        process.run_tool([str(plain)])


@pytest.fixture(params=["pidfd", "no pidfd"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that cannot say when a process ends."""

    def refuse(pid: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    if request.param == "no pidfd":
        monkeypatch.setattr(os, "pidfd_open", refuse)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("script", ["exec sleep 30", "sleep 30 & wait", "exec sleep 30 <&-"])
def test_a_program_that_hangs_is_killed_in_time(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one that it has started keeps its output open."""
    monkeypatch.setattr(process, "_limit", 60.0)
    process.limit_tools(0.2)
    pids: list[int] = []
    began = time.monotonic()
    with pytest.raises(ToolHangs, match=r"no end after 0\.2 s"):
        process.run_tool(["sh", "-c", script], "x" * (1 << 20), pids.append)
    assert time.monotonic() - began < 5
    assert not Path(f"/proc/{pids[0]}").exists(), "it is gone, and waited for"


def test_a_program_that_takes_long_is_told_of_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that nobody waits for any more, which is not the fault of what runs later."""
    monkeypatch.setattr(process, "_running", {})
    finish = process.start_tool(["sleep", "0.5"])
    assert process.slow_tool(0.2) == ""
    time.sleep(0.3)
    assert process.slow_tool(0.2) == "sleep 0.5"
    finish()
    assert process.slow_tool(0.0) == ""
    process.start_tool(["true"])
    monkeypatch.setattr(process, "_limit", -process._KILLED_SECONDS * 2)
    assert process.slow_tool(0.0) == ""


def test_what_is_absent_is_told_from_what_fails() -> None:
    found: list[bool] = []
    for text in ("Error: No such file or directory\nlist map inet t m\n", "Error: Operation not permitted"):
        with pytest.raises(ToolFailed) as failed:
            process.run_tool(["sh", "-c", 'echo "$0" >&2; exit 1', text])
        found.append(failed.value.absent)
    assert found == [True, False]


@pytest.mark.usefixtures("kernels")
def test_input_and_output() -> None:
    """However much it is, and whenever the program ends."""
    text = "äb" * (1 << 20)
    assert process.run_tool(["cat"], text) == text
    assert process.run_tool(["sh", "-c", "sleep 0.05; echo $$ >&2; echo done"]) == "done\n"
    assert process.run_tool(["cat"]) == ""


def test_nothing_is_left() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    # What earlier tests left behind may be closed meanwhile.
    gc.collect()
    before = descriptors()
    for command in (["true"], ["false"], ["/nonexistent"]):
        with suppress(PlatformError):
            process.run_tool(command)
    assert descriptors() <= before
    assert not process.slow_tool(0)


def test_a_program_that_does_not_read_its_input() -> None:
    """Its end, not the broken pipe, is what is reported."""
    with pytest.raises(ToolFailed, match="exit status 3"):
        process.run_tool(["sh", "-c", "exit 3"], "x" * (1 << 20))


def test_a_variable_without_a_name_keeps_no_tool_from_running() -> None:
    """execve(2) takes it, and so did subprocess."""
    code = (
        "import os; from egress_router.net.process import run_tool; print('' in os.environ, run_tool(['echo', 'done']))"
    )
    libc = ctypes.CDLL(None, use_errno=True)
    words = [sys.executable, "-c", code]
    environment = ["=x", *(f"{name}={value}" for name, value in os.environ.items())]
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        libc.execve(words[0].encode(), *(_strings(texts) for texts in (words, environment)))
        os._exit(1)
    os.close(write)
    with os.fdopen(read) as output:
        assert output.read() == "True done\n\n"
    os.waitpid(pid, 0)


def _strings(texts: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(texts) + 1))(*(text.encode() for text in texts), None)
