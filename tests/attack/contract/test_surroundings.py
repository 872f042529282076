"""Verbs where the surroundings are odd: full and read-only disks, links, devices, no /proc, few descriptors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

CHECKOUT = Path(__file__).parents[3]
STATE = """
kind: NetNamespace
metadata: {name: toto}
netid: 12
egressIPs: [192.0.2.45]
---
{kind: HostSubnet, metadata: {name: a}, hostIP: 192.0.2.11, egressCIDRs: [192.0.2.0/24]}
"""
FULL = "mount -t tmpfs -o size=8k none /mnt; cp $D/all.yaml /mnt/; dd if=/dev/zero of=/mnt/fill bs=4k 2>/dev/null; "
READ_ONLY = "mount --bind $D $D; mount -o remount,ro,bind $D; "
LINKED = "echo keep >$D/keep; ln -s keep $D/.egressip-controller.lock;"
PATCH = "$ER egressip patch netnamespace toto --egress-ips 192.0.2.46 --state"
INIT = "EGRESS_ROUTER_MODE=init $ER init"
#: What is done, the exit code, and a word of the message.
CASES: dict[str, tuple[str, int, str]] = {
    "assign on a full disk": (f"{FULL} $ER egressip assign --state /mnt", 69, "No space left"),
    "patch on a full disk": (f"{FULL} {PATCH} /mnt; s=$?; cmp /mnt/all.yaml $D/all.yaml; exit $s", 69, "No space left"),
    "assign on a read-only disk": (f"{READ_ONLY} $ER egressip assign --state $D", 69, "Read-only"),
    "patch on a read-only disk": (f"{READ_ONLY} {PATCH} $D", 69, "Read-only"),
    "assign in no directory": ("$ER egressip assign --state /nonexistent", 2, "No such file"),
    "assign in a link to itself": ("ln -s loop $D/loop; $ER egressip assign --state $D/loop", 69, "symbolic links"),
    "plan beside a pipe": ("mkfifo $D/p.yaml; $ER egressip plan --state $D", 78, "named pipe"),
    "a lock that is a link": (
        f"{LINKED} $ER egressip assign --state $D; s=$?; grep -q keep $D/keep || exit 1; exit $s",
        69,
        "symbolic links",
    ),
    "a record that is a directory": (
        "mkdir $D/egressip-assignment.json; $ER egressip assign --state $D",
        78,
        "directory",
    ),
    "a report into a device": (
        "mknod $D/full c 1 7; $ER egressip report --state $D --html $D/full",
        69,
        "character device",
    ),
    "a report into a pipe": ("mkfifo $D/pipe; $ER egressip report --state $D --html $D/pipe", 69, "named pipe"),
    "check on a full standard output": ("$ER check >/dev/full", 69, "No space left"),
    "JSON on a full standard output": ("$ER check -o json >/dev/full", 69, "No space left"),
    "plan on a full standard output": ("$ER egressip plan --state $D >/dev/full", 69, "No space left"),
    "check without standard output": ("$ER check >&-", 0, ""),
    # Without an interface, and where the node's namespace cannot be looked at.
    "init without standard streams": (f"{INIT} <&- >&- 2>&-; s=$?; [ $s = 77 ] && exit 69; exit $s", 69, ""),
    "check without /proc": ("umount -l /proc; $ER check", 0, ""),
    "init without /proc": (f"umount -l /proc; {INIT}", 69, ""),
    "status without /proc": ("umount -l /proc; $ER status", 69, ""),
    "check with 6 descriptors": ("ulimit -n 6; $ER check", 0, ""),
    "plan with 6 descriptors": ("ulimit -n 6; $ER egressip plan --state $D", 0, ""),
}


@pytest.mark.parametrize("name", CASES)
def test_surroundings(name: str, tmp_path: Path) -> None:
    script, status, word = CASES[name]
    (tmp_path / "all.yaml").write_text(STATE)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(CHECKOUT),
        "ER": f"{sys.executable} -m egress_router",
        "D": str(tmp_path),
        "EGRESS_SOURCE": "192.0.2.46",
        "EGRESS_GATEWAY": "192.0.2.1",
        "EGRESS_DESTINATION": "203.0.113.25",
    }
    command = ["unshare", "--mount", "--net", "sh", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert word in done.stderr
