"""Give root up. See capabilities(7), prctl(2)."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import struct
import sysconfig
from pathlib import Path

from egress_router.errors import PlatformError

log = logging.getLogger(__name__)

#: What every proxy imports only when it is needed. Python may be in directories that only root can read.
_MODULES = ("difflib", "gzip", "idna", "traceback", "encodings.idna")
#: The user that a proxy becomes, with group 0 as OpenShift has it.
UID = 1001
_NET_BIND_SERVICE = 10
_PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 8, 38, 47, 2
#: _LINUX_CAPABILITY_VERSION_3: two 32-bit words of each set.
_CAPABILITY_VERSION = 0x20080522


def become_unprivileged(directory: Path, uid: int = UID, *, low_ports: bool = False) -> None:
    """Give up root, if we are root, and in any case what a setuid program could give back. ``directory`` becomes the
    new user's; with ``low_ports`` children may go on listening on ports below 1024 where we may.

    To be called before there are threads: capabilities are a thread's. Raises PlatformError when it is not permitted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.geteuid() != 0:
        return
    # Asked before: what this imports may be what cannot be read afterwards.
    paths = _imported_from()
    for module in _MODULES:
        importlib.import_module(module)
    keep = low_ports and bool(_capabilities("CapEff") >> _NET_BIND_SERVICE & 1)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        os.chown(directory, uid, 0)
        if keep:
            libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(uid, uid, uid)
        if keep:
            _keep_low_ports(libc)
    except OSError as error:
        raise PlatformError(
            f"running as root without being able to give it up ({error.strerror}); set runAsUser to any other number"
        ) from error
    unreadable = [path for path in paths if not _can_be_read(path)]
    if unreadable:
        log.warning(
            "running as root, and user %d, which the proxy becomes, cannot read %s: what is imported later would fail; "
            "make it readable for everybody, or set runAsUser to its owner",
            uid,
            ", ".join(unreadable),
        )


def may_bind_low_ports() -> bool:
    """Whether children that we execute may listen on ports below 1024: as root with the capability, or with an ambient
    one.
    """
    which = "CapEff" if os.geteuid() == 0 else "CapAmb"
    return bool(_capabilities(which) >> _NET_BIND_SERVICE & 1)


def _keep_low_ports(libc: ctypes.CDLL) -> None:
    """Keep this capability alone, across execve(2), too."""
    bits = 1 << _NET_BIND_SERVICE
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    sets = struct.pack("=6I", bits, bits, bits, 0, 0, 0)
    if libc.capset(header, sets) != 0 or libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _NET_BIND_SERVICE, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _capabilities(which: str) -> int:
    """Return a set of proc_pid_status(5); 0 without /proc."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1], 16) for line in text.splitlines() if line.startswith(f"{which}:")), 0)


def _imported_from() -> list[str]:
    """Return the directories that Python imports from: our package, installed ones and the standard library."""
    paths = sysconfig.get_paths()
    return list(dict.fromkeys([str(Path(__file__).parents[1]), paths["stdlib"], paths["purelib"]]))


def _can_be_read(path: str) -> bool:
    try:
        next(Path(path).iterdir(), None)
    except PermissionError:
        return False
    except OSError:
        return True
    return os.access(path, os.X_OK)
