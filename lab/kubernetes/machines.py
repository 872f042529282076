"""The machines of one cluster: namespaces that a keeper process holds (children/keeper.py), and what runs in them."""

from __future__ import annotations

import json
import os
import secrets
import select
import signal as signals
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import process
from lab.kubernetes.children import keeper
from lab.kubernetes.errors import ClusterError

#: One folder for each cluster that stands. Not in /tmp or /run: machines see the one, and have their own of the other.
STATE = Path("/var/lib/egress-router-lab")
PREFIX = "erk"
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine. ``pid`` is its first process as seen here; ``started`` tells it from a later one of that id."""

    name: str
    pid: int
    started: str

    @property
    def network(self) -> str:
        """The path of its network namespace."""
        return f"/proc/{self.pid}/ns/net"

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return keeper.start_time(self.pid) == self.started

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs ``argv`` in this machine, with its files, name, network and processes."""
        if not self.alive:
            raise ClusterError(f"machine {self.name} does not run")
        return ["nsenter", "-t", str(self.pid), "--mount", "--uts", "--net", "--pid", "--", *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 30.0,
        input: str | None = None,  # noqa: A002 - the name subprocess.run has
    ) -> str:
        """Run a command there to its end and return what it printed; process.CommandFailed when it fails."""
        done = process.run(self.command(argv), env=env, check=check, timeout=timeout, input=input)
        return done.stdout


class Service:
    """A program that stays, in a machine; it ends with the machine. Its output goes to a file."""

    def __init__(
        self, machine: Machine, name: str, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.machine, self.name, self.argv, self.log = machine, name, list(argv), log
        self.env = dict(env or {})
        self._entered: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; its log goes on where it was."""
        with self.log.open("ab") as file:
            self._entered = subprocess.Popen(
                self.machine.command(self.argv),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=process.environment(self.env),
                cwd="/",
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._entered is not None and self._entered.poll() is None

    @property
    def pid(self) -> int:
        """The program's pid as this process sees it; OSError when it does not run."""
        if self._entered is None:
            raise OSError(f"{self.name} was not started here")
        return keeper.only_child(self._entered.pid)

    def signal(self, number: int) -> None:
        """Send a signal to the program, if it runs."""
        with suppress(OSError):
            os.kill(self.pid, number)

    def stop(self, number: int = signals.SIGTERM, timeout: float = 10.0) -> None:
        """Send a signal, and SIGKILL after ``timeout`` seconds; return when it has ended."""
        if self._entered is None:
            return
        self.signal(number)
        try:
            self._entered.wait(timeout)
        except subprocess.TimeoutExpired:
            self.signal(signals.SIGKILL)
            self._entered.wait(timeout)

    def tail(self, lines: int = 20) -> str:
        """Return the last lines of its output."""
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def require_running(self) -> None:
        """Raise ClusterError with the end of its log when it has ended."""
        if not self.running:
            raise ClusterError(f"{self.name} on {self.machine.name} ended:\n{self.tail()}")


class Machines:
    """The machines of one cluster, and its folder. The process that calls ``create`` owns them until ``stay``."""

    def __init__(self, folder: Path, connection: subprocess.Popen[bytes] | None) -> None:
        self.folder = folder
        self._keeper = connection
        self.by_name: dict[str, Machine] = {}

    @property
    def name(self) -> str:
        """The cluster's name, such as erk-1f2e3d."""
        return self.folder.name

    @property
    def files(self) -> Path:
        """A folder that this machine and all of the cluster's see at the same path."""
        return self.folder / "files"

    @classmethod
    def create(cls) -> Machines:
        """Start a keeper, which ends what it holds when this process ends, however it does."""
        folder = STATE / f"{PREFIX}-{secrets.token_hex(3)}"
        while not folder.is_dir():
            with suppress(FileNotFoundError):  # another cluster's end may remove the empty folder above
                folder.mkdir(parents=True)
        (folder / "files").mkdir()
        (folder / "machines").mkdir()
        (folder / "owner.json").write_text(json.dumps({"pid": os.getpid(), "start": keeper.start_time(os.getpid())}))
        with (folder / "keeper.log").open("wb") as log:
            connection = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        return cls(folder, connection)

    def start(self, names: Sequence[str], **settings: Any) -> list[Machine]:
        """Start machines side by side; settings as in children/init.py, and ``network`` (a path; None: a new one)."""
        settings = {"network": None, "loopback": True, "sysctls": {}, "root": None, **settings}
        for name in names:
            place = self.folder / "machines" / name
            place.mkdir(exist_ok=True)
            (self.files / name).mkdir(exist_ok=True)
            own = dict(settings, hostname=name)
            if own["root"] is not None:
                own["root"] = {"folder": str(place), "binds": [str(self.files), *map(str, own["root"])]}
            (place / "settings.json").write_text(json.dumps(own))
        pids = self._ask({"start": list(names)}, timeout=30.0)["pids"]
        started = [Machine(name, pid, keeper.start_time(pid) or "") for name, pid in pids.items()]
        self.by_name |= {machine.name: machine for machine in started}
        return started

    def stay(self) -> None:
        """Let the machines outlive this process; ``remove`` ends them."""
        self._ask({"stay": True}, timeout=5.0)
        (self.folder / "owner.json").unlink()

    def remove(self) -> None:
        """End the machines and remove all traces; again, if nothing is left, does nothing."""
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            assert self._keeper.stdout is not None
            self._keeper.stdin.close()
            with suppress(ProcessLookupError):
                self._keeper.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._keeper.wait(60.0)
            self._keeper.stdout.close()
            self._keeper = None
        else:
            end_keeper(self.folder)
        keeper.remove(self.folder)

    def _ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        if self._keeper is None:
            raise ClusterError(f"{self.name} is not owned by this process")
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        try:
            self._keeper.stdin.write(json.dumps(request).encode() + b"\n")
            self._keeper.stdin.flush()
        except BrokenPipeError:
            raise ClusterError(f"the keeper of {self.name} ended") from None
        if not select.select([self._keeper.stdout], [], [], timeout)[0]:
            raise ClusterError(f"the keeper of {self.name} did not answer within {timeout:.0f} s")
        line = self._keeper.stdout.readline()
        if not line:
            raise ClusterError(f"the keeper of {self.name} ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ClusterError(answer["error"])
        return answer


def processor_seconds(machines: Iterable[Machine]) -> float:
    """Return the processor time that the programs of machines took until now; containers' own is not in it."""
    spaces = {Path(f"/proc/{machine.pid}/ns/pid").readlink() for machine in machines}
    ticks = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if (entry / "ns/pid").readlink() in spaces:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    ticks += sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
    return ticks / os.sysconf("SC_CLK_TCK")


def _living(note: Path) -> int | None:
    try:
        noted = json.loads(note.read_text())
        pid, start = int(noted["pid"]), noted["start"]
    except (OSError, ValueError, KeyError):
        return None
    return pid if keeper.start_time(pid) == start else None


def keeper_pid(folder: Path) -> int | None:
    """Return the pid of a cluster's keeper, None when it is gone."""
    return _living(folder / "keeper.json")


def owner(folder: Path) -> int | None:
    """Return the pid of the living process that a cluster ends with, None when it stands by itself or was left."""
    return _living(folder / "owner.json")


def end_keeper(folder: Path, timeout: float = 60.0) -> None:
    """Have a cluster's keeper take everything down, and wait for that."""
    if (pid := keeper_pid(folder)) is None:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signals.SIGTERM)
    deadline = time.monotonic() + timeout
    while keeper_pid(folder) is not None:
        if time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.kill(pid, signals.SIGKILL)
            return
        time.sleep(0.02)


def standing() -> list[Path]:
    """Return the folders of all clusters of which anything is left, oldest first."""
    if not STATE.is_dir():
        return []
    found = [path for path in STATE.iterdir() if path.name.startswith(f"{PREFIX}-")]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def reap() -> list[str]:
    """Remove what clusters without a keeper left, and return their names."""
    gone = []
    for folder in standing():
        # One that is just being made has its folder before its keeper has said so.
        young = time.time() - folder.stat().st_ctime < 5.0 and not (folder / "keeper.json").exists()
        if keeper_pid(folder) is None and not young:
            keeper.remove(folder)
            gone.append(folder.name)
    return gone
