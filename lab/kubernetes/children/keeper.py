"""Holds the machines of one cluster; they end with it, and it ends with its owner.

``keeper.py FOLDER`` reads JSON lines and answers each with one:

{"start": [name, ...]}  starts the machines whose settings lie in FOLDER/machines/NAME/settings.json
                        -> {"pids": {name: pid}}
{"stay": true}          the end of standard input is from now on not the end of the cluster
                        -> {"pids": {}}

Where standard input ends without ``stay``, as it does when the owner is killed, or at SIGTERM, it kills the machines,
removes their cgroups and the folder, and ends. Should it be killed itself, the kernel kills the machines
(PR_SET_PDEATHSIG), and whoever calls ``remove`` later does the rest. Standard library only.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

INIT = str(Path(__file__).with_name("init.py"))
CGROUPS = Path("/sys/fs/cgroup")
#: All clusters' cgroups lie under this one, each in its own.
CGROUP = "egress-router-lab"
NAMESPACES = ("--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")


def start_time(pid: int) -> str | None:
    """Return when a process started, in clock ticks since boot (proc_pid_stat(5)); None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def only_child(pid: int) -> int:
    """Return the pid of the only child of a process; OSError when there is none."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    for entry in Path("/proc").iterdir():  # a kernel without CONFIG_PROC_CHILDREN
        if entry.name.isdecimal():
            with suppress(OSError):
                if (entry / "stat").read_text().rpartition(")")[2].split()[1] == str(pid):
                    return int(entry.name)
    raise OSError(f"process {pid} has no child")


def inits(folder: Path) -> list[int]:
    """Return the pids of all processes that hold or are the first process of a machine of this cluster."""
    found = []
    prefix = f"{folder}/machines/"
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):
                command = (entry / "cmdline").read_text(errors="replace").split("\0")
                if INIT in command and any(word.startswith(prefix) for word in command):
                    found.append(int(entry.name))
    return found


def kill_machines(folder: Path, timeout: float = 10.0) -> None:
    """Kill every machine of a cluster and wait for its end; each takes all of its processes with it."""
    deadline = time.monotonic() + timeout
    while pids := inits(folder):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {pids} do not end")
        time.sleep(0.01)


def hierarchies() -> list[Path]:
    """Return the roots of the cgroup hierarchies (one with version 2)."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]


def make_cgroup(cluster: str, machine: str) -> None:
    """Make the cgroup of one machine, in every hierarchy; the kubelet makes its pods' in it."""
    for hierarchy in hierarchies():
        place = hierarchy
        for name in (CGROUP, cluster, machine):
            above, place = place, place / name
            place.mkdir(exist_ok=True)
            # In version 1 a new cpuset is empty, and nothing can be in it (cpuset(7)).
            for setting in ("cpuset.cpus", "cpuset.mems"):
                with suppress(OSError):
                    if not (place / setting).read_text().strip():
                        (place / setting).write_text((above / setting).read_text())


def remove_cgroups(name: str, timeout: float = 10.0) -> None:
    """Remove a cluster's cgroups; those of processes that are about to end are busy for a moment."""
    deadline = time.monotonic() + timeout
    for hierarchy in hierarchies():
        top = hierarchy / CGROUP / name
        while top.exists():
            for path, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):
                    Path(path).rmdir()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{top} is still in use")
            if top.exists():
                time.sleep(0.02)
        with suppress(OSError):
            (hierarchy / CGROUP).rmdir()  # unless another cluster is there


def remove(folder: Path, timeout: float = 60.0) -> None:
    """Remove all that is left of a cluster: processes (and so namespaces, devices and mounts), cgroups, files.

    Several may do so at once: the owner, the keeper, and whoever finds that the keeper has gone.
    """
    kill_machines(folder)
    remove_cgroups(folder.name)
    deadline = time.monotonic() + timeout
    while folder.exists():
        # A mount namespace that is being taken down holds its mount points for a moment.
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{folder} cannot be removed")
            time.sleep(0.05)
    with suppress(OSError):
        folder.parent.rmdir()  # unless another cluster is there


class Keeper:
    """The machines that were started, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machines: dict[str, subprocess.Popen[str]] = {}
        self.stays = False

    def start(self, names: list[str]) -> dict[str, int]:
        """Start machines side by side; RuntimeError with what they said when one does not get ready."""
        begun = {}
        for name in names:
            settings = self.folder / "machines" / name / "settings.json"
            network = json.loads(settings.read_text())["network"]
            enter = ["nsenter", f"--net={network}", "--"] if network else []
            own = [] if network else ["--net"]
            held = ["setpriv", "--pdeathsig", "KILL", "--", *enter, "unshare", *NAMESPACES, *own, "--"]
            begun[name] = subprocess.Popen(
                [*held, sys.executable, "-I", "-S", INIT, str(settings)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.machines |= begun
        pids = {}
        for name, process in begun.items():
            assert process.stdout is not None
            if not select.select([process.stdout], [], [], 20.0)[0]:
                raise RuntimeError(f"machine {name} was not ready within 20 s")
            line = process.stdout.readline()
            if line != "ready\n":
                raise RuntimeError(f"machine {name}: {line}{process.stdout.read()}".strip())
            process.stdout.close()
            pids[name] = only_child(process.pid)
        return pids

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one line asks for."""
        if request.get("stay"):
            self.stays = True
        try:
            return {"pids": self.start(request.get("start", []))}
        except (OSError, RuntimeError) as error:
            return {"error": str(error)}

    def serve(self, wakeup: int) -> None:
        """Answer until the owner is gone or SIGTERM comes."""
        rest = b""
        watched = [0, wakeup]
        while True:
            ready = select.select(watched, [], [])[0]
            if wakeup in ready:
                numbers = os.read(wakeup, 4096)
                for process in self.machines.values():
                    process.poll()
                if signal.SIGTERM in numbers:
                    return
            if 0 in ready:
                chunk = os.read(0, 1 << 16)
                if not chunk and not self.stays:
                    return
                if not chunk:
                    watched.remove(0)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    answer = json.dumps(self.answer(json.loads(line))).encode()
                    with suppress(BrokenPipeError):
                        os.write(1, answer + b"\n")


def main() -> None:
    """Serve, then remove everything."""
    folder = Path(sys.argv[1])
    # Ctrl-C and the end of a terminal are for the owner: it says whether the cluster ends.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    wakeup, written = os.pipe()
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    started = {"pid": os.getpid(), "start": start_time(os.getpid())}
    (folder / "keeper.json").write_text(json.dumps(started))
    keeper = Keeper(folder)
    try:
        keeper.serve(wakeup)
    finally:
        for process in keeper.machines.values():
            process.kill()  # unshare; its child, PID 1 of the machine, is killed with it
        for process in keeper.machines.values():
            process.wait()
        remove(folder)


if __name__ == "__main__":
    main()
