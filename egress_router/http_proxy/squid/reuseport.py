"""Two generations of processes on one port, and every new connection to the newer one.

With SO_REUSEPORT the kernel spreads new connections over all listening sockets by hash, so a process that is about
to leave keeps getting some, and those waiting in its queue are reset when it closes. A classic BPF program on the
group of sockets (socket(7), SO_ATTACH_REUSEPORT_CBPF) chooses instead. With N processes in a generation ours always
says "number N, counted from 0": sockets stand in the group in the order in which they came, and when one leaves the
last takes its place. Where there are no more than N the answer is out of range, and the kernel falls back to the
hash, which spreads over one generation. So the same program is right before, during and after every replacement,
and nothing must be switched at the right moment. With one process, and with two:

    [A] → A        [A, B] → B                  [B] → B
    [A, a] → both  [A, a, B] → B  [A, a, B, b] → B  [b, a, B] → B  [b, B] → both

Until the old ones have left, one process has all that is new: two seconds of each reload.
The program belongs to the group and stays as long as one socket is in it. It needs no privilege and no sysctl.
"""

from __future__ import annotations

import ctypes
import socket
import struct

from egress_router.net.closing import Closing

#: asm-generic/socket.h
SO_ATTACH_REUSEPORT_CBPF = 51
#: BPF_RET | BPF_K, linux/bpf_common.h
_RETURN = 0x06
#: Long enough for what arrives while Squid starts.
_BACKLOG = 1


class Guard(Closing):
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


def choose(listener: socket.socket, number: int) -> None:
    """Attach the program that always answers ``number`` to the group of a listening socket. OSError when the kernel
    refuses.
    """
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, number))
    # struct sock_fprog: a length, and after alignment a pointer to the instructions.
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, program)
