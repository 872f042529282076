"""Start a Squid that cannot open IPv6 sockets, so that it asks name servers for A records alone.

Squid has no setting for that: it asks for AAAA wherever it finds IPv6 (Ip::ProbeTransport), and waits for the answer
before it judges a request. A seccomp filter on socket(2), which needs no privilege, makes it find none.
"""

from __future__ import annotations

import os
import sys

#: A program of its own, since a filter stays for good: no_new_privs, the filter, exec. See seccomp(2); struct
#: seccomp_data has the system call at 0, the architecture at 4, the first argument at 16.
_PROGRAM = """
import ctypes, os, struct, sys
arch, number = int(sys.argv[1]), int(sys.argv[2])
LOAD, EQUAL, RETURN, ALLOW, REFUSE = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050000 | 97
steps = [
    (LOAD, 0, 0, 4), (EQUAL, 0, 5, arch), (LOAD, 0, 0, 0), (EQUAL, 0, 3, number),
    (LOAD, 0, 0, 16), (EQUAL, 0, 1, 10), (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
prog = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, prog, 0, 0):
    print("WARNING: IPv6 cannot be switched off for Squid: name servers are asked for AAAA too", file=sys.stderr)
os.execvp(sys.argv[3], sys.argv[3:])
"""
#: Architecture (linux/audit.h) and number of socket(2), by the machine's name.
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}


def can_be_without_ipv6() -> bool:
    """Return whether ``without_ipv6`` has an effect on this machine."""
    return os.uname().machine in _MACHINES


def without_ipv6(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command that runs ``command`` in the same process without IPv6 sockets; itself on other machines."""
    known = _MACHINES.get(os.uname().machine)
    if known is None:
        return command
    return (sys.executable, "-I", "-S", "-c", _PROGRAM, *map(str, known), *command)
