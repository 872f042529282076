"""How python-iptables is loaded: what is said where it does not know the libraries of iptables, and by whom it is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from egress_router.config.values import Family
from egress_router.errors import PlatformError
from egress_router.net.iptables import tables
from egress_router.net.iptables.kernel import IptablesKernel
from egress_router.net.iptables.rules import IptTable


def test_a_libxtables_that_python_iptables_does_not_know_is_no_bug_of_ours() -> None:
    """python-iptables takes the version from this variable, and raises for one that it has no structures for."""
    program = "from egress_router.net.iptables.library import load_iptc\nload_iptc()"
    env = {**os.environ, "PYTHON_IPTABLES_XTABLES_VERSION": "99"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert "PlatformError: python-iptables does not know this machine's libxtables.so.12" in done.stderr


def test_nothing_stands_in_for_a_module_afterwards() -> None:
    """Whether or not it was loaded before."""
    for before in ("", "import ctypes.util, sysconfig; "):
        program = (
            f"{before}import sys; from egress_router.net.iptables.library import load_iptc; iptc = load_iptc()\n"
            "assert iptc.Table(iptc.Table.FILTER, autocommit=False).name == 'filter'\n"
            "import ctypes.util, sysconfig\n"
            "found = ctypes.util.find_library.__module__, bool(sysconfig.get_path('stdlib'))\n"
            "print(*found, 'distutils' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("ctypes.util True False\n", "")


def test_a_family_that_fails_does_not_end_the_work_of_the_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are children of one process, which ends with the first error, and nobody outlives it."""
    done = tmp_path / "done"

    class Other:
        def __init__(self, family: Family, _prefix: str) -> None:
            self.family = family

        def repair(self, _tables: Sequence[IptTable]) -> list[str]:
            if self.family is Family.IPV4:
                raise PlatformError("somebody else's rule")
            time.sleep(0.5)
            done.touch()
            return []

    monkeypatch.setattr(tables, "load", lambda: None)
    monkeypatch.setattr(tables, "Tables", Other)
    with pytest.raises(PlatformError, match="somebody else's rule"):
        IptablesKernel("OURS-").repair(dict.fromkeys(Family, list))
    assert done.exists()
