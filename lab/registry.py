"""Which labs stand, which of them lost their owner, and how to remove one from outside."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab import process
from lab.host import ETC_NETNS, RUN_NETNS

#: One file per lab: the process that made it.
STATE = Path("/run/egress-router-lab")
PREFIX = "erl"


@dataclass(frozen=True, slots=True)
class Standing:
    """A lab that has namespaces. ``owner`` is the pid of the process it ends with, None when there is none."""

    name: str
    namespaces: tuple[str, ...]
    owner: int | None


def new_name() -> str:
    """Return a name for a lab that no other has."""
    return f"{PREFIX}-{secrets.token_hex(3)}"


def start_time(pid: int) -> str | None:
    """Return when a process started, in clock ticks since boot (proc(5)); None when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def register(name: str) -> None:
    """Note that the lab belongs to this process."""
    STATE.mkdir(parents=True, exist_ok=True)
    (STATE / name).write_text(json.dumps({"pid": os.getpid(), "start": start_time(os.getpid())}))


def disown(name: str) -> None:
    """Note that the lab stays when this process ends."""
    (STATE / name).write_text("{}")


def owner(name: str) -> int | None:
    """Return the pid of the living process that a lab belongs to."""
    try:
        noted = json.loads((STATE / name).read_text())
    except (OSError, ValueError):
        return None
    pid = noted.get("pid")
    return pid if pid and start_time(pid) == noted["start"] else None


def namespaces_of(name: str) -> tuple[str, ...]:
    """Return the names of a lab's namespaces, sorted."""
    if not RUN_NETNS.is_dir():
        return ()
    return tuple(sorted(path.name for path in RUN_NETNS.iterdir() if path.name.startswith(f"{name}-")))


def standing() -> list[Standing]:
    """Return all labs of which anything is left."""
    names = set()
    for folder in (STATE, RUN_NETNS, ETC_NETNS):
        if folder.is_dir():
            names |= {
                "-".join(path.name.split("-")[:2]) for path in folder.iterdir() if path.name.startswith(f"{PREFIX}-")
            }
    return [Standing(name, namespaces_of(name), owner(name)) for name in sorted(names)]


def to_remove(labs: Sequence[Standing], names: Collection[str], everything: bool) -> list[Standing]:
    """Return the labs that are named; without names those that no process owns, or really all of them."""
    if names:
        return [lab for lab in labs if lab.name in names]
    return [lab for lab in labs if everything or lab.owner is None]


def remove(name: str) -> None:
    """Remove all that is left of a lab: processes, namespaces (and so devices, rules), files."""
    namespaces = namespaces_of(name)
    if namespaces:
        process.kill_in([str(RUN_NETNS / netns) for netns in namespaces])
        process.run(
            ["ip", "-force", "-batch", "-"], input="".join(f"netns del {netns}\n" for netns in namespaces), check=False
        )
    left = namespaces_of(name)
    if ETC_NETNS.is_dir():
        for path in ETC_NETNS.glob(f"{name}-*"):
            shutil.rmtree(path)
    if left:
        raise RuntimeError(f"these namespaces of {name} could not be removed: {', '.join(left)}")
    with suppress(FileNotFoundError):
        (STATE / name).unlink()
