"""What a container sees: Python, its packages and our code, wherever they stand on this machine."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

_ROOT = Path(__file__).parents[2]
#: A shell script for a mount namespace of its own: its ``$1`` is a directory, below which image/ gets what ARGUMENTS
#: name as ``$2`` to ``$4``. They may stand in a directory that is closed to other users, such as /root.
SEE_IMAGE = """
set -e
mount --make-rprivate /
for name in base packages code/egress_router; do mkdir -p "$1/image/$name"; done
mount --bind "$2" "$1/image/base"
mount --bind "$3" "$1/image/packages"
mount --bind "$4/egress_router" "$1/image/code/egress_router"
export PYTHONPATH="$1/image/packages:$1/image/code"
# An interpreter that is linked with a libpython of its own would take the system's where its own is out of reach.
export LD_LIBRARY_PATH="$1/image/base/lib"
cd "$1/image/code"
"""
ARGUMENTS = [sys.base_prefix, sysconfig.get_paths()["purelib"], str(_ROOT)]
#: How Python runs us there.
PROGRAM = ["-m", "egress_router"]


def failing(where: str, times: str) -> list[str]:
    """Return how Python runs us when something fails, see tests/support/failing.py."""
    return ["-c", (_ROOT / "tests/support/failing.py").read_text(), where, times]
