"""What is said where python-iptables does not know the libraries of iptables."""

from __future__ import annotations

import os
import subprocess
import sys


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
