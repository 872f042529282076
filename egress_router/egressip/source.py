"""Where the cluster's objects come from: a small protocol, and a directory of YAML and JSON files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from egress_router.config.cluster_state import assemble, parse_objects
from egress_router.config.cluster_state_objects import ClusterObject
from egress_router.config.inputs import Problems, read_file_variable
from egress_router.errors import ConfigurationError, Problem
from egress_router.kernel.node_inotify import DirectoryWatch
from egress_router.model.egressip import ClusterState

SUFFIXES = (".yaml", ".yml", ".json")


class ClusterSource(Protocol):
    """Gives the cluster's objects, and tells when they may have changed."""

    def read(self) -> tuple[ClusterState, tuple[Problem, ...]]:
        """Return the objects now, and what is wrong with those that are left out or as they were before."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when ``read`` may give something new."""

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds; True when ``read`` may give something new."""

    def close(self) -> None:
        """Release what is held."""


class DirectorySource:
    """The files of one directory whose names end in .yaml, .yml or .json and do not start with a dot.

    A file that cannot be read or parsed keeps what it said before, so that half a file never turns an egress
    namespace into a normal one; the problem is reported with every read until it is gone. A file that was never
    good makes the first read fail: what it would say is unknown.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._watch = DirectoryWatch(directory)
        self._stamps: dict[str, tuple[int, int, int]] = {}
        self._objects: dict[str, list[ClusterObject]] = {}
        self._problems: dict[str, list[Problem]] = {}
        self._first = True

    def read(self) -> tuple[ClusterState, tuple[Problem, ...]]:
        """Read the files that changed. Raises ConfigurationError when the first read finds a problem."""
        names = set()
        for name, stamp in _scan(self._directory):
            names.add(name)
            if self._stamps.get(name) != stamp:
                self._stamps[name] = stamp
                self._load(name)
        for name in self._stamps.keys() - names:
            del self._stamps[name]
            self._objects.pop(name, None)
            self._problems.pop(name, None)
        together = Problems()
        state = assemble(self._objects, together)
        found = [problem for name in sorted(self._problems) for problem in self._problems[name]]
        found += together.errors
        if self._first and found:
            for known in (self._stamps, self._objects, self._problems):
                known.clear()
            raise ConfigurationError(found)
        self._first = False
        return state, tuple(found)

    def _load(self, name: str) -> None:
        loaded = read_file_variable(name, str(self._directory / name))
        if isinstance(loaded, Problem):
            self._problems[name] = [loaded]
            return
        problems = Problems()
        objects = parse_objects(name, loaded.text, problems)
        if problems.errors:
            self._problems[name] = problems.errors
            return
        self._objects[name] = objects
        self._problems.pop(name, None)

    def fileno(self) -> int:
        """Return the inotify descriptor."""
        return self._watch.fileno()

    def wait(self, timeout: float) -> bool:
        """Wait for a change in the directory."""
        return self._watch.wait(timeout)

    def close(self) -> None:
        """Stop watching."""
        self._watch.close()


def _scan(directory: Path) -> list[tuple[str, tuple[int, int, int]]]:
    """Return the state files, sorted, with what tells a new version from the old one."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.endswith(SUFFIXES):
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            found.append((entry.name, (status.st_mtime_ns, status.st_size, status.st_ino)))
    return sorted(found)


def read_directory(directory: Path) -> ClusterState:
    """Read a state directory once. Raises ConfigurationError with every problem in it."""
    problems = Problems()
    objects: dict[str, list[ClusterObject]] = {}
    try:
        names = [name for name, _ in _scan(directory)]
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


def wait_for_objects(source: ClusterSource, log: Callable[[str], None]) -> None:
    """Return when the objects can be read for the first time; until then the kernel stays as it is."""
    told = ""
    while True:
        try:
            source.read()
        except (ConfigurationError, OSError) as error:
            if str(error) != told:
                told = str(error)
                log(told)
            source.wait(5.0)
        else:
            return
