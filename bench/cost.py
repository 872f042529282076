"""What processes cost: wall-clock time, processor time and memory, of a command or of what is running."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from lab import Host
from lab.process import environment, kill_group

TICK = os.sysconf("SC_CLK_TCK")
MB = 1024


def command_cost(host: Host, command: Sequence[str], env: Mapping[str, str]) -> dict[str, float]:
    """Run a command to its end; return seconds of ``wall`` and ``cpu`` (with its children) and peak ``memory`` in MB.

    The peak is that of the largest process. GNU time reads it: what our own fork leaves in the kernel's account of a
    child would be our size. Raises RuntimeError with what the command printed when it fails.
    """
    with tempfile.TemporaryFile("w+") as printed, tempfile.NamedTemporaryFile("r") as peak:
        whole = host.command(["time", "-q", "-f", "%M", "-o", peak.name, *command])
        started = time.perf_counter()
        process = subprocess.Popen(
            whole,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            start_new_session=True,
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            kill_group(process)
            raise
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            printed.seek(0)
            raise RuntimeError(f"{' '.join(command)} gave {process.returncode}:\n{printed.read()}")
        return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "memory": int(peak.read()) / MB}


def tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            waiting += map(int, task.read_text().split())
    return found


def cpu_seconds(pid: int, *, ended_children: bool = True) -> float:
    """Return the processor time of a process, with that of its finished children."""
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, words[11 : 15 if ended_children else 13])) / TICK


class Spent:
    """Processor seconds of the commands that end meanwhile, and of these processes.

    Packets of veth pairs are carried on their sender's time, so it is what the way between client and server costs, and
    a busy machine disturbs it less than the clock.
    """

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self.seconds = -self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += self._now()

    def _now(self) -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime + sum(map(tree_cpu, self._pids))


def tree_cpu(pid: int) -> float:
    """Return the processor time of a process and its descendants, living and finished."""
    return sum(cpu_seconds(one) for one in tree(pid))


def tree_memory(pid: int) -> dict[str, float]:
    """Return MB of memory of a process and its descendants: ``pss`` shares out what they share, ``rss`` does not."""
    total = {"pss": 0.0, "rss": 0.0}
    for one in tree(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            name = line.split(":")[0].lower()
            if name in total:
                total[name] += int(line.split()[1]) / MB
    return total
