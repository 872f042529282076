"""Where the cluster's objects come from: a small protocol, and a directory of YAML and JSON files."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from egress_router.config.inputs import Problems, read_file_variable
from egress_router.config.yaml_edit import objects_in
from egress_router.daemon.file_watch import DirectoryNotices, Identity, identify_all
from egress_router.daemon.log import LOGGER
from egress_router.daemon.threads import Threads
from egress_router.egressip.api import ClusterState
from egress_router.egressip.source.objects import KINDS, ClusterObject, assemble, documents, parse_objects
from egress_router.errors import ConfigurationError, PlatformError, Problem

SUFFIXES = (".yaml", ".yml", ".json")
#: The directory is looked at so often although nobody tells of a change: the target of a link, a file of another
#: machine on NFS, a directory that was put in the place of this one; seconds.
LOOK_EVERY = 2.0
#: Reading all files may take so long: 30 of the largest size.
READ_SECONDS = 120.0
#: How long ``close`` waits for the thread.
LEAVE_SECONDS = 0.3


class ClusterSource(Protocol):
    """Gives the cluster's objects, and tells when they may have changed."""

    def follow(self, threads: Threads) -> None:
        """Keep up with the objects in a thread of these from now on; ``read`` waits for nothing then."""

    def read(self) -> tuple[ClusterState, tuple[Problem, ...]]:
        """Return the objects now, and what is wrong with those that are left out or as they were before."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when ``read`` may give something new."""

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds; True when ``read`` may give something new."""

    #: Whether it heeds what other nodes tell of their pods, see ``pods_told``.
    takes_pods: bool

    def urgent(self) -> bool:
        """Return whether a pod, of this node or of another, does not start before what ``read`` gives now is in place,
        see ``in_place``.
        """

    def waiting(self) -> tuple[str, Collection[str]]:
        """Return uid and addresses of the pod of this node that waits for that; no addresses where none does."""

    def pods_told(self, node: str, pods: Mapping[str, str], *, signed: bool) -> bool:
        """Take in what the agent of another node says of pods (by address) that start there; return whether that is
        new. ``signed``: it is surely that node.
        """

    def in_place(self, *, everywhere: bool = True) -> None:
        """Take note that what ``read`` gave last is in place here, and ``everywhere`` that a pod needs that waits."""

    def close(self) -> None:
        """Release what is held."""


class DirectorySource:
    """The files of one directory whose names end in .yaml, .yml or .json and do not start with a dot.

    A file that cannot be read or parsed keeps what it said before, so that half a file never turns an egress
    namespace into a normal one; the problem is reported with every read until it is gone, and stays that file's. A file
    that was never good makes the first read fail: what it would say is unknown.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._watch = DirectoryNotices(directory)
        self._seen: dict[str, Identity] = {}
        self._objects: dict[str, list[ClusterObject]] = {}
        self._problems: dict[str, list[Problem]] = {}
        self._unread: set[str] = set()
        self._first = True
        # Of the thread that follows; the pair is replaced as a whole.
        self._thread: threading.Thread | None = None
        self._last: tuple[ClusterState, tuple[Problem, ...]] = (ClusterState(), ())
        self._news = -1
        self._leave = -1

    def follow(self, threads: Threads) -> None:
        """Read in a thread: a large file must not keep the caller from anything else. To be called after a first good
        ``read``.
        """
        self._last = self.read()
        self._news, self._leave = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2))
        self._thread = threads.start("objects", self._keep_up, limit=READ_SECONDS)

    def _keep_up(self, beat: Callable[[], None]) -> None:
        while True:
            beat()
            ready = select.select([self._watch.fileno(), self._leave], [], [], LOOK_EVERY)[0]
            if self._leave in ready:
                return
            self._watch.wait(0)
            try:
                self._watch.follow()
                found = self._look()
            except (OSError, PlatformError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                problem = Problem(str(self._directory), None, "", f"cannot be read: {reason}", "a directory of objects")
                found = self._last[0], (problem,)
            if found != self._last:
                self._last = found
                os.eventfd_write(self._news, 1)

    def read(self) -> tuple[ClusterState, tuple[Problem, ...]]:
        """Read the files that changed. Raises ConfigurationError when the first read finds a problem, OSError when the
        directory cannot be read. In a source that follows: return what was read last.
        """
        return self._last if self._thread is not None else self._look()

    def _look(self) -> tuple[ClusterState, tuple[Problem, ...]]:
        before, self._seen = self._seen, identify_all(self._directory, _is_state_file)
        for name, identity in self._seen.items():
            # One that could not be read may be readable by now, though it is the same: a mount, a right.
            if before.get(name) != identity or name in self._unread:
                self._load(name)
        for name in before.keys() - self._seen.keys():
            self._objects.pop(name, None)
            self._problems.pop(name, None)
            self._unread.discard(name)
        together = Problems()
        state = assemble(self._objects, together)
        found = [problem for name in sorted(self._problems) for problem in self._problems[name]]
        found += together.errors
        if self._first and found:
            for known in (self._seen, self._objects, self._problems):
                known.clear()
            raise ConfigurationError(found)
        self._first = False
        return state, tuple(found)

    def _load(self, name: str) -> None:
        loaded = read_file_variable(name, str(self._directory / name))
        self._unread.discard(name)
        if isinstance(loaded, Problem):
            self._unread.add(name)
            self._problems[name] = [loaded]
            return
        problems = Problems()
        objects: list[ClusterObject] = []
        try:
            objects = parse_objects(name, loaded.text, problems)
        except Exception as error:  # noqa: BLE001 - whatever one file holds, the others are read
            LOGGER.exception("%s cannot be understood by an error that nobody foresaw", name)
            problems.error(name, None, "", f"cannot be understood: {type(error).__name__}; see the log")
        if problems.errors:
            self._problems[name] = problems.errors
            return
        self._objects[name] = objects
        self._problems.pop(name, None)

    def fileno(self) -> int:
        """Return the inotify descriptor, or that of the thread that follows."""
        return self._watch.fileno() if self._thread is None else self._news

    def wait(self, timeout: float) -> bool:
        """Wait for a change in the directory."""
        if self._thread is None:
            return self._watch.wait(timeout)
        if not select.select([self._news], [], [], max(0.0, timeout))[0]:
            return False
        with suppress(BlockingIOError):
            os.eventfd_read(self._news)
        return True

    takes_pods = False

    def urgent(self) -> bool:
        """Return False: nobody waits for a file."""
        return False

    def waiting(self) -> tuple[str, Collection[str]]:
        """Return that no pod waits."""
        return "", ()

    def pods_told(self, node: str, pods: Mapping[str, str], *, signed: bool) -> bool:
        """Heed nothing but the files."""
        return False

    def in_place(self, *, everywhere: bool = True) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Stop watching."""
        if self._thread is not None:
            os.eventfd_write(self._leave, 1)
            self._thread.join(LEAVE_SECONDS)
            if self._thread.is_alive():
                # It is in a file system that does not answer, and has the descriptors.
                return
            os.close(self._news)
            os.close(self._leave)
        self._watch.close()


def _is_state_file(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(".")


def read_directory(directory: Path) -> ClusterState:
    """Read a state directory once. Raises ConfigurationError with every problem in it."""
    problems = Problems()
    objects: dict[str, list[ClusterObject]] = {}
    try:
        names = list(identify_all(directory, _is_state_file))
    except OSError as error:
        raise ConfigurationError(
            [Problem(str(directory), None, "", f"cannot be read: {error.strerror}", "a directory of objects")]
        ) from error
    for name in names:
        loaded = read_file_variable(name, str(directory / name))
        if isinstance(loaded, Problem):
            problems.errors.append(loaded)
        else:
            objects[name] = parse_objects(name, loaded.text, problems)
    state = assemble(objects, problems)
    problems.raise_if_any()
    return state


def passed_over(directory: Path, cluster: ClusterState) -> list[str]:
    """Return what a reading of the directory leaves out, in sentences: files of other names, subdirectories, objects of
    other kinds; and namespaces that have pods and no object, whose traffic is dropped.
    """
    found = []
    kinds: dict[str, list[str]] = {}
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            found.append(f"{path.name} is a directory: what is in it is not read")
        elif path.suffix not in SUFFIXES:
            found.append(f"{path.name} is not read: its name ends in none of {', '.join(SUFFIXES)}")
        elif path.is_file():
            loaded = read_file_variable(path.name, str(path))
            if isinstance(loaded, Problem):
                continue
            for document in documents(path.name, loaded.text, Problems()):
                for kind, _ in objects_in(document):
                    if kind and kind not in KINDS:
                        kinds.setdefault(kind, []).append(path.name)
    for kind, files in kinds.items():
        where = ", ".join(dict.fromkeys(files))
        found.append(f"{len(files)} of kind {kind} in {where}: not of a kind that decides here ({', '.join(KINDS)})")
    pods: dict[str, int] = {}
    for pod in cluster.pods.values():
        if pod.namespace not in cluster.namespaces:
            pods[pod.namespace] = pods.get(pod.namespace, 0) + 1
    for namespace, count in sorted(pods.items()):
        what = f"{count} pod{'s' if count > 1 else ''}"
        found.append(f"namespace {namespace} has {what} and no NetNamespace: what they send to the outside is dropped")
    return found
