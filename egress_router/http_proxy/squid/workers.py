"""How many Squids share the work, and how generations of them share one port."""

from __future__ import annotations

import ctypes
import math
import os
import socket
import struct
from pathlib import Path
from types import TracebackType

# How many processors this container may use, and so how many Squids share the work.

#: Where a container sees its own control group: version 2 (cgroup-v2.rst, "cpu.max"), and version 1
#: (scheduler/sched-bwc.rst).
CGROUP = Path("/sys/fs/cgroup")

#: Each takes memory, and four fill any link that such a proxy is behind.
MOST_WORKERS = 4


def default_workers() -> int:
    """Return how many Squids there are without EGRESS_HTTP_PROXY_WORKERS: one a processor, up to a limit."""
    return min(processors(), MOST_WORKERS)


def processors(cgroup: Path = CGROUP) -> int:
    """Return the smaller of what the scheduler lets us run on and what the limit of the control group allows, rounded
    up; at least 1.
    """
    allowed = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return int(allowed)
    if quota.strip().isdecimal() and int(period) > 0:
        allowed = min(allowed, int(quota) / int(period))
    return max(1, math.ceil(allowed))


# Two generations of processes on one port, and every new connection to the newer one.
#
# With SO_REUSEPORT the kernel spreads new connections over all listening sockets by hash, so a process that is about
# to leave keeps getting some, and those waiting in its queue are reset when it closes. A classic BPF program on the
# group of sockets (socket(7), SO_ATTACH_REUSEPORT_CBPF) chooses instead. With N processes in a generation ours always
# says "number N, counted from 0": sockets stand in the group in the order in which they came, and when one leaves the
# last takes its place. Where there are no more than N the answer is out of range, and the kernel falls back to the
# hash, which spreads over one generation. So the same program is right before, during and after every replacement,
# and nothing must be switched at the right moment. With one process, and with two:
#
#     [A] → A        [A, B] → B                  [B] → B
#     [A, a] → both  [A, a, B] → B  [A, a, B, b] → B  [b, a, B] → B  [b, B] → both
#
# Until the old ones have left, one process has all that is new: two seconds of each reload.
# The program belongs to the group and stays as long as one socket is in it. It needs no privilege and no sysctl.

#: asm-generic/socket.h
SO_ATTACH_REUSEPORT_CBPF = 51
#: BPF_RET | BPF_K, linux/bpf_common.h
_RETURN = 0x06
#: Long enough for what arrives while Squid starts.
_BACKLOG = 1


class Guard:
    """A listening socket that makes the group for generations of ``processes``, and leaves it when a real member has
    joined.

    What connects to it meanwhile is reset when it closes, as it would have been refused without it.
    OSError when the port is taken by another user, or may not be bound.
    """

    def __init__(self, address: str, port: int, processes: int = 1) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            self._socket.bind((address, port))
            self._socket.listen(_BACKLOG)
            choose(self._socket, processes)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Leave the group."""
        self._socket.close()

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def choose(listener: socket.socket, number: int) -> None:
    """Attach the program that always answers ``number`` to the group of a listening socket. OSError when the kernel
    refuses.
    """
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, number))
    # struct sock_fprog: a length, and after alignment a pointer to the instructions.
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, program)


def has_ipv6() -> bool:
    """Return whether this network namespace has IPv6, by the test that Squid makes: ::1 can be bound."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def listen_address() -> str:
    """Return the wildcard to listen on: both families in one socket, or IPv4 alone where the pod has no IPv6."""
    return "::" if has_ipv6() else "0.0.0.0"  # noqa: S104  # clients are in other pods
