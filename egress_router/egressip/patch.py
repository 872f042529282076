"""Change lists of one object in a state directory, as ``oc patch`` does in a cluster."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from egress_router.config.cluster_state import documents, unpacked
from egress_router.config.inputs import Problems
from egress_router.egressip.source import SUFFIXES
from egress_router.errors import UsageError


def patch_object(directory: Path, kind: str, name: str, fields: Mapping[str, Sequence[str]]) -> Path:
    """Replace list fields of the object and return the file it stands in.

    The file is replaced atomically; other objects in it stay, comments do not. Two patches at once wait for
    each other. Raises UsageError when there is no such object, or more than one, and ConfigurationError when
    a file cannot be parsed.
    """
    with locked(directory):
        problems = Problems()
        found: list[tuple[Path, list[object], dict[str, Any]]] = []
        for path in sorted(directory.iterdir()):
            if path.name.startswith(".") or path.suffix not in SUFFIXES:
                continue
            docs = documents(path.name, path.read_text(encoding="utf-8"), problems)
            for document in docs:
                for raw in unpacked(document):
                    if _is(raw, kind, name):
                        assert isinstance(raw, dict)  # noqa: S101 - what the parsers make of a mapping
                        found.append((path, docs, raw))
        problems.raise_if_any()
        if not found:
            raise UsageError(f"there is no {kind} {name} in {directory}")
        if len(found) > 1:
            files = ", ".join(sorted({path.name for path, _, _ in found}))
            raise UsageError(f"{kind} {name} stands in {directory} {len(found)} times ({files}); keep one")
        path, docs, raw = found[0]
        raw.update({field: list(values) for field, values in fields.items()})
        write_atomically(path, _rendered(path, docs))
        return path


def _is(raw: object, kind: str, name: str) -> bool:
    if not isinstance(raw, Mapping) or raw.get("kind") != kind:
        return False
    metadata = raw.get("metadata")
    return isinstance(metadata, Mapping) and metadata.get("name") == name


def _rendered(path: Path, docs: list[object]) -> str:
    if path.suffix == ".json":
        return json.dumps(docs[0], indent=2) + "\n"
    return yaml.safe_dump_all(docs, sort_keys=False, default_flow_style=False)


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
