"""Network namespaces: which one is ours, and sockets that live in another one. See setns(2), namespaces(7)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from egress_router.errors import CapabilityError, EgressRouterError, PlatformError
from egress_router.net.oserror import translating

T = TypeVar("T")

OWN = "/proc/self/ns/net"
_CLONE_NEWNET = 0x40000000


def may_look_at(path: str) -> bool:
    """Whether the permissions suffice to see which namespace ``path`` is (ptrace(2), PTRACE_MODE_READ_FSCREDS)."""
    # Imported here and below: most pods are given their interface, and wait for what is imported.
    from pathlib import Path

    try:
        Path(path).stat()
    except PermissionError:
        return False
    except OSError:
        return True
    return True


def same_namespace(path: str) -> bool:
    """Whether ``path`` is the namespace that we are in. Raises PlatformError when it cannot be looked at."""
    from pathlib import Path

    try:
        theirs, ours = Path(path).stat(), Path(OWN).stat()
    except PermissionError as error:
        raise _ptrace_missing(path) from error
    except OSError as error:
        raise PlatformError(f"the network namespace {path} cannot be opened: {error.strerror}") from error
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


def made_in(path: str, make: Callable[[], T]) -> T:
    """Return ``make()``, called with the process in the network namespace at ``path``, then go back.

    For opening sockets: a socket stays in the namespace that it was made in. Only for processes with one thread.
    Raises CapabilityError without CAP_SYS_ADMIN, PlatformError when the path is no namespace.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as error:
        raise _ptrace_missing(path) from error
    except OSError as error:
        raise PlatformError(f"the network namespace {path} cannot be opened: {error.strerror}") from error
    try:
        with translating("open our own network namespace"):
            back = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    except EgressRouterError:
        os.close(there)
        raise
    try:
        if libc.setns(there, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            if code == 1:
                raise CapabilityError(
                    f"entering the network namespace {path} is not permitted: the container needs SYS_ADMIN to create "
                    "the macvlan in the host's namespace (or have the macvlan made for it and drop that need)"
                )
            raise PlatformError(f"the network namespace {path} cannot be entered: {os.strerror(code)}")
        try:
            return make()
        finally:
            if libc.setns(back, _CLONE_NEWNET) != 0:
                # Going on in a foreign namespace would configure the host.
                os.abort()
    finally:
        os.close(there)
        os.close(back)


def _ptrace_missing(path: str) -> CapabilityError:
    return CapabilityError(
        f"the network namespace {path} cannot be looked at: the container needs SYS_PTRACE for another process's /proc "
        "entry (or have the macvlan made for it and drop that need)"
    )
