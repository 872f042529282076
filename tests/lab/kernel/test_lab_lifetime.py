"""A lab leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import CommandFailed, Lab, registry
from lab.host import ETC_NETNS, RUN_NETNS
from lab.process import pids_in

pytestmark = pytest.mark.root


def remains(name: str) -> list[str]:
    """Return what is left of a lab: files, namespaces, and processes whose command line names it."""
    found = [
        str(path)
        for folder in (registry.STATE, RUN_NETNS, ETC_NETNS)
        if folder.is_dir()
        for path in folder.iterdir()
        if path.name.startswith(name)
    ]
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if name.encode() in (entry / "cmdline").read_bytes():
                    found.append(f"process {entry.name}")
            except OSError:
                continue
    return found


def children() -> set[str]:
    """Return the pids of this process's children, zombies included."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def running(pid: int) -> bool:
    """Tell whether a process exists and has not ended (an orphan that init has still to reap has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def links() -> set[str]:
    """Return the devices of this process's own namespace."""
    return {line.split(":")[1] for line in subprocess.check_output(["ip", "-o", "link"], text=True).splitlines()}


def busy(lab: Lab) -> None:
    """Use everything that has a process or a file."""
    pod = lab.pod("client")
    lab.macvlan(pod)
    lab.machine("other", "192.0.2.99")
    lab.echo("203.0.113.25", tcp=80, udp=80)
    lab.http("203.0.113.26")
    lab.dns.set("free.fr", A=["203.0.113.25"])
    lab.capture()
    assert pod.pid
    pod.popen(["sleep", "1000"])
    pod.run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & "])  # a daemon that nobody remembers
    pod.popen(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"])


def test_end_of_with(shape: str) -> None:
    links_before, children_before = links(), children()
    with Lab(nodes=2, shape=shape) as lab:
        busy(lab)
        assert len(remains(lab.name)) > 8
        assert links() == links_before
        inside = pids_in([host.netns_path for host in lab.hosts])
        assert len(inside) >= 7
    assert remains(lab.name) == []
    assert links() == links_before
    assert children() == children_before
    assert [pid for pid in inside if running(pid)] == []
    lab.down()  # once more is harmless


def busy_then_raise(lab: Lab) -> None:
    busy(lab)
    raise ZeroDivisionError


def test_exception_inside() -> None:
    with pytest.raises(ZeroDivisionError), Lab() as lab:
        busy_then_raise(lab)
    assert remains(lab.name) == []


def test_failure_while_building(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.cni.MASQUERADE", "no such thing")
    lab = Lab()
    with pytest.raises(CommandFailed, match="syntax error"):
        lab.up()
    assert lab.nodes
    assert remains(lab.name) == []


PROGRAM = """
import sys, time
from lab import Lab
lab = Lab()
lab.up()
pod = lab.pod("client")
lab.echo("203.0.113.25", tcp=80)
lab.dns
pod.popen(["sleep", "1000"])
print(lab.name, flush=True)
{then}
"""


@pytest.fixture
def program() -> Iterator[Callable[[str], tuple[subprocess.Popen[str], str]]]:
    """Run a program that has a lab; returns it and the lab's name."""
    started: list[subprocess.Popen[str]] = []

    def start(then: str) -> tuple[subprocess.Popen[str], str]:
        root = Path(__file__).parents[3]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(then=then)], cwd=root, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, -signal.SIGINT)]
)
def test_signals(
    program: Callable[[str], tuple[subprocess.Popen[str], str]], number: signal.Signals, status: int
) -> None:
    process, name = program("time.sleep(60)")
    assert remains(name)
    process.send_signal(number)
    assert process.wait(20) == status
    assert remains(name) == []


def test_ctrl_c_during_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    remove = registry.remove

    def interrupted(name: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        remove(name)

    monkeypatch.setattr(registry, "remove", interrupted)
    lab = Lab()
    lab.up()
    lab.pod("client")
    with pytest.raises(KeyboardInterrupt):
        lab.down()
    assert remains(lab.name) == []


def test_forgotten_at_exit(program: Callable[[str], tuple[subprocess.Popen[str], str]]) -> None:
    process, name = program("")
    assert process.wait(20) == 0
    assert remains(name) == []


def test_forked_child_does_not_take_the_lab_down(
    program: Callable[[str], tuple[subprocess.Popen[str], str]],
) -> None:
    process, name = program("import os\nif os.fork() == 0: sys.exit()\nprint(os.wait()[1], flush=True); time.sleep(60)")
    assert process.stdout
    assert process.stdout.readline() == "0\n"  # the child is gone, and its exit handlers ran
    assert len(registry.namespaces_of(name)) == 6
    process.terminate()
    process.wait(20)
    assert remains(name) == []


def lab_command(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "lab", *arguments],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout


def test_killed_lab_is_listed_and_removed(program: Callable[[str], tuple[subprocess.Popen[str], str]]) -> None:
    process, name = program("time.sleep(60)")
    assert f"{name}  ends with process {process.pid}" in lab_command("list")
    process.kill()
    process.wait()
    assert f"{name}  stands by itself" in lab_command("list")
    assert f"{name} removed" in lab_command("down", name)
    assert remains(name) == []


def test_lab_up_leaves_one_standing() -> None:
    text = lab_command("up", "--nodes", "2", "--pods", "1", "--macvlan", "--shape", "point-to-point")
    name = text.split()[0]
    try:
        assert f"{name}-pod-2-1" in text
        enter = next(line for line in text.splitlines() if line.startswith("ask:")).removeprefix("ask:").strip()
        answer = subprocess.run(["sh", "-c", enter], capture_output=True, text=True, check=True, timeout=10).stdout
        assert answer.startswith("192.0.2.11 ")
        assert answer.strip().endswith("203.0.113.25 80 hello")
    finally:
        lab_command("down", name)
    assert remains(name) == []


def test_unknown_lab_is_a_usage_error() -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        lab_command("down", "erl-nosuch")
    assert raised.value.returncode == 2
    assert "no such lab: erl-nosuch" in raised.value.stderr


def test_two_labs_side_by_side(make_lab: Callable[..., Lab]) -> None:
    first, second = make_lab(), make_lab(shape="point-to-point")
    pods = [lab.pod("client") for lab in (first, second)]
    assert pods[0].addresses == pods[1].addresses
    for lab in (first, second):
        lab.echo("203.0.113.25", tcp=80)
    with first.capture() as heard_first, second.capture() as heard_second:
        first.tcp(pods[0], "203.0.113.25", 80, "first")
    assert heard_first.outgoing()
    assert not heard_second.outgoing()
    first.down()
    assert second.tcp(pods[1], "203.0.113.25", 80, "second").endswith("second")
