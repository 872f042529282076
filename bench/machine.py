"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from egress_router import __version__

COMMANDS = {
    "nft": ["nft", "--version"],
    "iptables": ["iptables-legacy", "--version"],
    "squid": ["squid", "-v"],
    "haproxy": ["haproxy", "-v"],
    "wrk": ["wrk", "-v"],
    "iperf3": ["iperf3", "--version"],
}


def facts() -> dict[str, str | int | float]:
    """Return cores, kernel, and the versions of all programs that take part."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    found: dict[str, str | int | float] = {
        "cores": os.cpu_count() or 1,
        "processor": cpu[1] if cpu else platform.machine(),
        "memory GB": round(int(memory[1]) / 1024**2) if memory else 0,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "egress-router": __version__,
    }
    return found | {name: version(command) for name, command in COMMANDS.items()}


def load() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def version(command: Sequence[str]) -> str:
    """Return the first thing that looks like a version in what a command prints."""
    # wrk -v says its version and then that it lacks a URL, with an exit code of 1.
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"v?(\d+\.\d+[\w.]*)", done.stdout + done.stderr)
    return found[1] if found else "unknown"
