"""python-iptables and libxtables: loaded fast, the lock, and a cheap look at what the tables hold."""

from __future__ import annotations

import ctypes
import ctypes.util
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from egress_router.config.values import Family
from egress_router.errors import PlatformError
from egress_router.net.iptables.chains import TABLES, XtSocket
from egress_router.net.iptables.platform import LIBXTABLES

# python-iptables, loaded in a tenth of the time.
#
# ``import iptc`` asks gcc and ldconfig where its libraries are and imports distutils (with it, often, setuptools) for a
# path: a third of a second. The libraries have had the same names for a decade, so they are named here; what is not
# found goes the long way. Import this in a process of its own, one per family: python-iptables 1.2.0 ends the process
# when one extension is loaded for both ("target TCPMSS already registered").

_SONAMES = {"c": "libc.so.6", "ip4tc": "libip4tc.so.2", "ip6tc": "libip6tc.so.2", "xtables": LIBXTABLES}
_EXTENSIONS = ("lib/*/xtables", "lib*/xtables")


def load_iptc() -> Any:
    """Return the module ``iptc``. Raises PlatformError when it or the libraries of iptables are missing."""
    if "XTABLES_LIBDIR" not in os.environ:
        places = [str(place) for pattern in _EXTENSIONS for place in Path("/usr").glob(pattern)]
        if not places:
            raise PlatformError("the extensions of iptables are not installed (Debian's package iptables)")
        os.environ["XTABLES_LIBDIR"] = places[0]
    slow_search = ctypes.util.find_library
    ctypes.util.find_library = lambda name: _find(name, slow_search)
    stand_in = "distutils" not in sys.modules
    if stand_in:
        sys.modules["distutils"] = ModuleType("distutils")
        sysconfig = ModuleType("distutils.sysconfig")
        sysconfig.get_python_lib = lambda: sys.prefix  # type: ignore[attr-defined]
        sys.modules["distutils.sysconfig"] = sysconfig
    try:
        import iptc
    except ImportError as error:
        raise PlatformError(f"python-iptables cannot be used: {error}") from error
    except Exception as error:
        # It looks up structures by libxtables' version while it is imported: XTablesError, AttributeError, OSError.
        raise PlatformError(f"python-iptables does not know this machine's {LIBXTABLES}: {error}") from error
    finally:
        ctypes.util.find_library = slow_search
        if stand_in:
            del sys.modules["distutils"], sys.modules["distutils.sysconfig"]
    _read_wide_options()
    return iptc


def _read_wide_options() -> None:
    """Have python-iptables find the options of extensions where ``struct xt_option_entry`` (xtables.h) ends with the
    member ``base``.

    Iptables 1.8.11 has it, under the same soname; python-iptables 1.2.0 walks the shorter one (its issue 353). The
    library that has the member exports ``xtables_strtoul_base``, which the older ones do not.
    """
    from iptc import xtables

    entry = xtables.xt_option_entry
    if any(name == "base" for name, _ in entry._fields_):
        return
    if not hasattr(ctypes.CDLL(LIBXTABLES), "xtables_strtoul_base"):
        return

    class WideEntry(ctypes.Structure):
        _fields_ = (*entry._fields_, ("base", ctypes.c_uint))

    def look_up(_: object, entries: Any, name: bytes) -> Any:
        at = ctypes.addressof(entries.contents)
        while True:
            found = entry.from_address(at)
            if not found.name:
                return None
            if found.name == name:
                return found
            at += ctypes.sizeof(WideEntry)

    xtables.xtables._option_lookup = look_up  # noqa: SLF001 - there is no other way in


def _find(name: str, slow_search: Any) -> str | None:
    if name in _SONAMES:
        try:
            ctypes.CDLL(_SONAMES[name])
        except OSError:
            found: str | None = slow_search(name)
            return found
        return _SONAMES[name]
    # The wrapper that comes with python-iptables is found on sys.path, not among the system's libraries.
    return None


# The lock of iptables(8).

_STEP_SECONDS = 0.002


@contextmanager
def xtables_lock(patience: float | None = None) -> Iterator[None]:
    """Hold what iptables(8) holds from its reading to its commit: ours in between would make it fail with EAGAIN.

    Only those in the same mount namespace can share it; without a place to write it there is nobody to share it with.
    With ``patience`` wait so many seconds for it and then go on without.
    """
    try:
        lock = os.open(os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock"), os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        if patience is None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        else:
            _wait(lock, time.monotonic() + patience)
        yield
    finally:
        os.close(lock)


def _wait(lock: int, end: float) -> None:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return
            time.sleep(_STEP_SECONDS)
        else:
            return


# A cheap look at legacy iptables: the kernel tells nobody when a table changes, so it has to be asked often.


class TableInfo:
    """Asks for what identifies the tables of ``families``, in microseconds. Needs NET_ADMIN and NET_RAW.

    A rule that takes the place of another one of its size is not seen.
    """

    def __init__(self, families: tuple[Family, ...]) -> None:
        self._sockets = [XtSocket(family) for family in families]

    def read(self) -> tuple[bytes, ...]:
        """Return what the kernel says of each table; the empty string where it says nothing."""
        return tuple(own.info(name) for own in self._sockets for name in TABLES)

    def close(self) -> None:
        """Close the sockets."""
        for own in self._sockets:
            own.close()
