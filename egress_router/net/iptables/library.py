"""python-iptables, loaded in a tenth of the time.

``import iptc`` asks gcc and ldconfig where its libraries are and imports distutils (with it, often, setuptools) for a
path: a third of a second. The libraries have had the same names for a decade, so they are named here; what is not
found goes the long way. Import this in a process of its own, one per family: python-iptables 1.2.0 ends the process
when one extension is loaded for both ("target TCPMSS already registered").
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from egress_router.errors import PlatformError
from egress_router.net.iptables.platform import LIBXTABLES

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
