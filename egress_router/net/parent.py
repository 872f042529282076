"""Children that do not outlive their parent."""

from __future__ import annotations

import ctypes
import os
import signal

# Children must not go on with what their parent was about to do once that is gone: outside of a container nothing else
# ends them.

_PR_SET_PDEATHSIG = 1
# Bound before any fork: a child must not resolve symbols between fork and exec.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this forked process when the thread that forked it ends; ``parent`` is its process. See
    prctl(2).
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
