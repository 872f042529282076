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

_SONAMES = {"c": "libc.so.6", "ip4tc": "libip4tc.so.2", "ip6tc": "libip6tc.so.2", "xtables": "libxtables.so.12"}
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
    finally:
        ctypes.util.find_library = slow_search
        if stand_in:
            del sys.modules["distutils"], sys.modules["distutils.sysconfig"]
    return iptc


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
