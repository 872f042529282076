"""Files that are mounts of their own: a change of the ConfigMap never reaches them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from egress_router.config.inputs import Inputs, Problems

MOUNTINFO = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")


def mount_points(text: str) -> frozenset[str]:
    """Return the mount points of proc_pid_mountinfo(5); blanks in them are octal there."""
    lines = (line.split() for line in text.splitlines())
    return frozenset(_OCTAL.sub(lambda code: chr(int(code[1], 8)), words[4]) for words in lines if len(words) > 4)


def own_mounts(paths: Iterable[str], mountinfo: Path = MOUNTINFO) -> list[str]:
    """Return those of ``paths`` that were mounted by themselves (``subPath``): the kubelet updates directories alone,
    so such files stay as they were when the container started.
    """
    try:
        points = mount_points(mountinfo.read_text("utf-8", "replace"))
    except OSError:
        return []
    return [path for path in paths if os.path.realpath(path) in points]


def warn_own_mounts(inputs: Inputs, problems: Problems, mountinfo: Path = MOUNTINFO) -> None:
    """Warn of every file of an ``EGRESS_*_FILE`` variable that was mounted by itself."""
    named = {name: inputs.value(name) or "" for name in sorted(inputs.files)}
    mounted = own_mounts(filter(None, named.values()), mountinfo)
    for name, path in named.items():
        if path in mounted:
            message = "is mounted by itself (subPath), so a change of the ConfigMap does not reach it"
            problems.warn(name, None, path, message, "mount the directory, and name a file in it")
