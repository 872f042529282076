"""Files that are mounts of their own: a change of the ConfigMap never reaches them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from egress_router.config.inputs import Inputs, Problems

MOUNTINFO = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")


def mount_points(text: str) -> frozenset[str]:
    """Return the mount points of proc_pid_mountinfo(5); blanks in them are octal there."""
    lines = (line.split() for line in text.splitlines())
    return frozenset(_OCTAL.sub(lambda code: chr(int(code[1], 8)), words[4]) for words in lines if len(words) > 4)


def warn_own_mounts(inputs: Inputs, problems: Problems, mountinfo: Path = MOUNTINFO) -> None:
    """Warn of every file of an ``EGRESS_*_FILE`` variable that was mounted by itself (``subPath``): the kubelet updates
    directories alone, so the file stays as it was when the container started.
    """
    try:
        points = mount_points(mountinfo.read_text("utf-8", "replace"))
    except OSError:
        return
    for name in sorted(inputs.files):
        path = inputs.value(name)
        if path and os.path.realpath(path) in points:
            message = "is mounted by itself (subPath), so a change of the ConfigMap does not reach it"
            problems.warn(name, None, path, message, "mount the directory, and name a file in it")
