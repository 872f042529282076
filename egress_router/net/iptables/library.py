"""python-iptables, loaded in a tenth of the time.

``import iptc`` asks gcc and ldconfig where its libraries are and imports distutils (with it, often, setuptools) for a
path: a third of a second. The libraries have had the same names for a decade, so they are named here; what is not
found goes the long way. Import this in a process of its own, one per family: python-iptables 1.2.0 ends the process
when one extension is loaded for both ("target TCPMSS already registered").
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
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
    before = _put_in(_stand_ins())
    try:
        import iptc
    except ImportError as error:
        raise PlatformError(f"python-iptables cannot be used: {error}") from error
    except Exception as error:
        # It looks up structures by libxtables' version while it is imported: XTablesError, AttributeError, OSError.
        raise PlatformError(f"python-iptables does not know this machine's {LIBXTABLES}: {error}") from error
    finally:
        _put_in(before)
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


def _stand_ins() -> dict[str, ModuleType | None]:
    """Return modules that python-iptables asks while it is imported, and never again: the true ones import archives,
    temporary files and all that Python was built with.
    """
    answers: dict[str, tuple[str, Any]] = {
        "ctypes.util": ("find_library", _find),
        "sysconfig": ("get_config_var", lambda _: EXTENSION_SUFFIXES[0]),
        "distutils": ("sysconfig", None),
        "distutils.sysconfig": ("get_python_lib", lambda: sys.prefix),
    }
    found: dict[str, ModuleType | None] = {}
    for name, (function, answer) in answers.items():
        module = found[name] = ModuleType(name)
        setattr(module, function, answer)
    return found


def _put_in(modules: dict[str, ModuleType | None]) -> dict[str, ModuleType | None]:
    """Have ``import`` find these, None: nothing; return what it found before."""
    before = {name: sys.modules.get(name) for name in modules}
    for name, module in modules.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module
    # The name in its package is what the import of a submodule leaves behind.
    ctypes.__dict__.pop("util", None)
    if modules["ctypes.util"] is not None:
        ctypes.__dict__["util"] = modules["ctypes.util"]
    return before


def _slow_search(name: str) -> str | None:
    sys.modules.pop("ctypes.util", None)
    search: Callable[[str], str | None] = import_module("ctypes.util").find_library
    return search(name)


def _find(name: str) -> str | None:
    if name in _SONAMES:
        try:
            ctypes.CDLL(_SONAMES[name])
        except OSError:
            return _slow_search(name)
        return _SONAMES[name]
    # The wrapper that comes with python-iptables is found on sys.path, not among the system's libraries.
    return None
