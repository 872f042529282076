"""The supervisor with real processes: a shell script or Python plays the engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DRIVER = """
import logging, os, sys, time
from pathlib import Path
from egress_router.errors import ConfigurationError, Problem
from egress_router.daemon.children import Launch
from egress_router.daemon.engine import Limits
from egress_router.daemon.supervisor import Supervisor

logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
work = Path(sys.argv[1])

class Fake:
    name = "fake"
    def watched(self): return [work / "conf"]
    def prepare(self, generation):
        text = (work / "conf").read_text()
        if "unforeseen" in text:
            raise RecursionError("injected")
        if text == "slow":
            print("preparing", flush=True)
            time.sleep(60)
        if "bad" in text:
            raise ConfigurationError([Problem("CONF", 1, text.strip(), "is bad")])
        return text
    def launch(self, prepared, previous):
        return [Launch((sys.executable, "-c", prepared), environment=dict(os.environ, WORK=str(work)))]
    def ready(self, child, prepared): return "ready" in child.last_lines
    def retire(self, child, final): child.signal(15)
    def finished(self, child, seconds): return False
    def may_replace(self): return True
    def on_output(self, child, line): print(f"child {child.generation}: {line}", flush=True)
    def ended(self, child): print(f"ended {child.generation} {child.status}", flush=True)

def report(counters):
    print(f"counters {counters}", flush=True)

supervisor = Supervisor(Fake(), Limits(grace=float(sys.argv[2]), deaths=3, steady=5, start=5), report)
from egress_router.cli.main import guarded
code = guarded(supervisor.run)
print(f"exit {code}", flush=True)
sys.exit(code)
"""

SERVE = """
import os, signal, sys, time
def stop(*_):
    print("draining", flush=True)
    {on_term}
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR1, lambda *_: print("usr1", flush=True))
print(f"pid={{os.getpid()}} ", flush=True)
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


class Run:
    def __init__(self, work: Path, grace: float, wrapper: tuple[str, ...] = ()) -> None:
        self.log = work / "log"
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [*wrapper, sys.executable, "-c", DRIVER, str(work), str(grace)], stdout=out, stderr=subprocess.STDOUT
            )

    def wait_for(self, text: str, seconds: float = 15) -> str:
        deadline = time.monotonic() + seconds
        while text not in (seen := self.log.read_text()):
            assert time.monotonic() < deadline, f"{text!r} never came:\n{seen}"
            time.sleep(0.02)
        return seen

    def end(self, seconds: float = 15) -> tuple[int, str]:
        return self.process.wait(seconds), self.log.read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(conf: str, grace: float = 10, wrapper: tuple[str, ...] = ()) -> Run:
        (tmp_path / "conf").write_text(conf)
        runs.append(Run(tmp_path, grace, wrapper))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()


def serve(on_term: str = "sys.exit(0)") -> str:
    return textwrap.dedent(SERVE).format(on_term=on_term)


def test_sigterm_lets_the_child_finish(start: Callable[..., Run]) -> None:
    run = start(serve("time.sleep(0.3); print('done', flush=True); sys.exit(0)"))
    run.wait_for("in force")
    run.process.send_signal(signal.SIGTERM)
    code, seen = run.end()
    assert code == 0
    assert "child 1: done" in seen


def test_grace_is_a_limit_and_a_second_signal_ends_at_once(start: Callable[..., Run], tmp_path: Path) -> None:
    run = start(serve("pass"), grace=0.5)
    run.wait_for("in force")
    run.process.send_signal(signal.SIGTERM)
    code, seen = run.end()
    assert (code, "ended 1 -9" in seen, "time is over" in seen) == (0, True, True)
    run = start(serve("pass"), grace=60)
    run.wait_for("in force")
    run.process.send_signal(signal.SIGTERM)
    run.wait_for("child 1: draining")
    run.process.send_signal(signal.SIGINT)
    code, seen = run.end()
    assert (code, "again: ending now" in seen) == (0, True)


def test_a_program_that_does_not_run_gives_a_reason(start: Callable[..., Run]) -> None:
    run = start("import sys; print('no such port', flush=True); sys.exit(3)")
    code, seen = run.end()
    assert code == 69
    assert "fake died 3 times in a row; the last time it exited with status 3" in seen
    assert "no such port" in seen.rsplit("egress-router:", 1)[1]


def test_a_bad_first_configuration_is_exit_78(start: Callable[..., Run]) -> None:
    code, seen = start("bad").end()
    assert code == 78
    assert 'CONF line 1: "bad" is bad' in seen


def test_a_killed_child_is_started_again_also_with_a_broken_file(start: Callable[..., Run], tmp_path: Path) -> None:
    run = start("import os; print('pid', os.getpid(), flush=True)\n" + serve())
    seen = run.wait_for("in force")
    os.kill(int(seen.split("child 1: pid ")[1].split()[0]), signal.SIGKILL)
    run.wait_for("child 2: ready")
    seen = run.wait_for("generation 2 is in force")
    assert "fake was killed by SIGKILL" in seen
    assert "restarts=1" in seen
    (tmp_path / "conf").write_text("bad")
    run.wait_for("reload refused")
    os.kill(int(seen.split("child 2: pid ")[1].split()[0]), signal.SIGKILL)
    run.wait_for("child 4: ready")
    run.wait_for("generation 4 is in force")


def test_reload_by_signal_by_file_and_by_symlink_swap(start: Callable[..., Run], tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}/conf").write_text(serve() + f"# {number}")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "conf").symlink_to("..data/conf")
    run = Run(tmp_path, 10)
    try:
        run.wait_for("generation 1 is in force")
        run.process.send_signal(signal.SIGHUP)
        run.wait_for("generation 1 is drained")
        (tmp_path / "..new").symlink_to("..2")
        (tmp_path / "..new").rename(tmp_path / "..data")
        run.wait_for("generation 2 is drained")
        (tmp_path / "..2/conf").write_text(serve() + "# edited in place")
        run.wait_for("generation 3 is drained")
        (tmp_path / "..2/conf").write_text("bad")
        seen = run.wait_for("reload refused")
        assert "generation 4 is in force" in seen
        assert "reloads=3" in seen
        run.process.send_signal(signal.SIGUSR1)
        run.wait_for("child 4: usr1")
        (tmp_path / "..2/conf").write_text("print('I die', flush=True)")
        seen = run.wait_for("reload_failures=2")
        assert "I die" in seen
        assert "ended 4" not in seen
    finally:
        run.process.terminate()
        assert run.process.wait(15) == 0


@pytest.mark.root
def test_pid_1_reaps_orphans(start: Callable[..., Run]) -> None:
    orphan = "import subprocess; subprocess.run(['sh', '-c', 'sleep 0.2 & echo orphan $!'])\n"
    run = start(orphan + serve(), wrapper=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"))
    run.wait_for("in force")
    time.sleep(0.8)
    inner = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()[0]
    children = Path(f"/proc/{inner}/task/{inner}/children").read_text().split()
    names = [Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in children]
    assert names in (["S"], ["R"]), f"only the engine may be left, no zombie: {names}"
    os.kill(int(inner), signal.SIGTERM)
    assert run.end()[0] == 0


def test_children_die_with_a_killed_supervisor(start: Callable[..., Run]) -> None:
    run = start("import os; print('pid', os.getpid(), flush=True)\n" + serve())
    child = int(run.wait_for("in force").split("child 1: pid ")[1].split()[0])
    run.process.kill()
    run.process.wait()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def counted(seen: str) -> dict[str, str]:
    """The counters as they were last reported."""
    last = seen.rsplit("counters Counters(", 1)[1].partition(")")[0]
    return dict(word.split("=", 1) for word in last.split(", "))


def test_a_signal_and_a_changed_file_are_one_reload(start: Callable[..., Run], tmp_path: Path) -> None:
    run = start(serve())
    run.wait_for("generation 1 is in force")
    for number in (2, 3):
        (tmp_path / "conf").write_text(serve() + f"# {number}")
        run.process.send_signal(signal.SIGHUP)
        run.wait_for(f"generation {number} is in force")
        # Two looks at the file.
        time.sleep(0.8)
        seen = run.log.read_text()
        assert f"generation {number + 1}" not in seen
        assert (counted(seen)["generation"], counted(seen)["reloads"]) == (str(number), str(number - 1))


@pytest.mark.parametrize("first", ["file", "signal"])
def test_a_reload_that_fails_between_two_counts_once(start: Callable[..., Run], tmp_path: Path, first: str) -> None:
    run = start(serve())
    run.wait_for("generation 1 is in force")
    (tmp_path / "conf").write_text("bad")
    if first == "signal":
        run.process.send_signal(signal.SIGHUP)
    run.wait_for("reload refused")
    time.sleep(0.8)
    (tmp_path / "conf").write_text(serve())
    seen = run.wait_for("generation 3 is in force")
    assert seen.count("reload refused") == 1
    time.sleep(0.8)
    found = counted(run.log.read_text())
    assert [found[name] for name in ("generation", "reloads", "reload_failures", "refused")] == ["3", "1", "1", "False"]


def test_the_successor_of_a_child_that_dies_is_enough(start: Callable[..., Run], tmp_path: Path) -> None:
    """Death in the middle of a reload: what is starting takes over, and nothing else is started."""
    run = start(serve())
    run.wait_for("generation 1 is in force")
    slow = serve().replace('print("ready"', 'time.sleep(1); print("ready"')
    (tmp_path / "conf").write_text(slow)
    run.wait_for("child 2: pid")
    victim = int(run.log.read_text().split("pid=")[1].split()[0])
    os.kill(victim, signal.SIGKILL)
    run.wait_for("its successor is starting")
    run.wait_for("generation 2 is in force")
    time.sleep(0.8)
    seen = run.log.read_text()
    assert "generation 3" not in seen
    found = counted(seen)
    assert [found[name] for name in ("generation", "ready", "reloads", "restarts")] == ["2", "True", "1", "1"]


def test_a_restart_that_reads_a_new_file_is_the_reload(start: Callable[..., Run], tmp_path: Path) -> None:
    run = start(serve())
    run.wait_for("generation 1 is in force")
    victim = int(run.log.read_text().split("pid=")[1].split()[0])
    (tmp_path / "conf").write_text(serve() + "# new")
    os.kill(victim, signal.SIGKILL)
    run.wait_for("generation 2 is in force")
    time.sleep(0.8)
    seen = run.log.read_text()
    assert "generation 3" not in seen
    assert [counted(seen)[name] for name in ("generation", "reloads", "restarts")] == ["2", "1", "1"]


def test_what_a_former_run_left_is_not_reported_on(start: Callable[..., Run]) -> None:
    run = start("import time; time.sleep(60)")
    seen = run.wait_for("counters")
    assert (counted(seen)["generation"], counted(seen)["ready"]) == ("0", "False")


def test_an_error_of_the_engine_that_nobody_foresaw(start: Callable[..., Run], tmp_path: Path) -> None:
    """The first configuration ends it; a later one is refused and the one in force stays. Both are in the log."""
    run = start(serve())
    run.wait_for("generation 1 is in force")
    (tmp_path / "conf").write_text("unforeseen")
    seen = run.wait_for("reload refused")
    assert "thread preparing ended by an error that nobody foresaw: RecursionError: injected" in seen
    assert "Traceback (most recent call last)" in seen
    assert "it could not be prepared by an error that nobody foresaw; see the log" in seen
    (tmp_path / "conf").write_text(serve() + "# sound again")
    run.wait_for("generation 3 is in force")
    run.process.send_signal(signal.SIGTERM)
    assert run.end()[0] == 0
    first = start("unforeseen")
    code, seen = first.end()
    assert code == 70
    assert "RecursionError: injected" in seen


def test_sigterm_is_heard_while_a_configuration_is_prepared(start: Callable[..., Run]) -> None:
    run = start("slow")
    run.wait_for("preparing")
    began = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    assert run.end()[0] == 0
    assert time.monotonic() - began < 2, "and not after a minute"
