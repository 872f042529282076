"""Change lists of one object in a state directory, as ``oc patch`` does in a cluster."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from egress_router.config.files import refuse_to_replace
from egress_router.config.inputs import Problems, read_file_variable
from egress_router.config.kubernetes_yaml import YamlError
from egress_router.config.yaml_edit import named, objects_in, set_list
from egress_router.egressip.source.directory import SUFFIXES
from egress_router.egressip.source.objects import documents
from egress_router.errors import ConfigurationError, PlatformError, Problem, UsageError


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
                found += [
                    (path, loaded.text) for its, item in objects_in(document) if its == kind and named(item, name)
                ]
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
    """Write a file so that a reader sees the old or the new text, also after a power cut. Raises OSError, also where
    ``path`` is no regular file.
    """
    refuse_to_replace(path)
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
