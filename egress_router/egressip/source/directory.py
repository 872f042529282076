"""A directory of YAML and JSON files as the source of the cluster's objects, and changes of lists in it as ``oc
patch`` makes them.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from egress_router.config.inputs import Problems, read_file_variable
from egress_router.config.kubernetes_yaml import YamlError
from egress_router.config.yaml_edit import is_object, objects_in, set_list
from egress_router.daemon.file_watch import DirectoryWatch
from egress_router.egressip.api import ClusterState
from egress_router.egressip.source.objects import KINDS, ClusterObject, assemble, documents, parse_objects
from egress_router.errors import ConfigurationError, PlatformError, Problem, UsageError

# Where the cluster's objects come from: a small protocol, and a directory of YAML and JSON files.

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
                for item in objects_in(document):
                    kind = item.get("kind")
                    if isinstance(kind, str) and kind not in KINDS:
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


# Change lists of one object in a state directory, as ``oc patch`` does in a cluster.


def patch_object(directory: Path, kind: str, name: str, fields: Mapping[str, Sequence[str]]) -> Path:
    """Replace list fields of the object and return the file it stands in.

    The file is replaced atomically, and nothing in it changes but these fields: comments, quotes and other objects
    stay byte for byte. Two patches at once wait for each other. Raises UsageError when there is no such object, or
    more than one, ConfigurationError when a file cannot be parsed or the field not be changed alone, and PlatformError
    when the file cannot be written.
    """
    with locked(directory):
        problems = Problems()
        found: list[tuple[Path, str]] = []
        for path in sorted(directory.iterdir()):
            if path.name.startswith(".") or path.suffix not in SUFFIXES or not path.is_file():
                continue
            loaded = read_file_variable(path.name, str(path))
            if isinstance(loaded, Problem):
                problems.errors.append(loaded)
                continue
            for document in documents(path.name, loaded.text, problems):
                found += [(path, loaded.text) for item in objects_in(document) if is_object(item, kind, name)]
        problems.raise_if_any()
        if not found:
            raise UsageError(f"there is no {kind} {name} in {directory}")
        if len(found) > 1:
            files = ", ".join(sorted({path.name for path, _ in found}))
            raise UsageError(f"{kind} {name} stands in {directory} {len(found)} times ({files}); keep one")
        path, text = found[0]
        try:
            for field, values in fields.items():
                text = set_list(text, kind, name, field, values)
        except YamlError as error:
            raise ConfigurationError([Problem(path.name, error.line, "", error.message)]) from error
        try:
            # A link stays one.
            write_atomically(path.resolve(), text)
        except OSError as error:
            raise PlatformError(f"{path} cannot be written: {error.strerror}") from error
        return path


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new text, also after a power cut."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), path.stat().st_mode & 0o777 if path.exists() else 0o644)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory against other writers of ours. Raises UsageError when there is no such directory."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UsageError(f"{directory} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
