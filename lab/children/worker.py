"""Works inside the lab's namespaces on behalf of the lab: opens sockets and hands them over, sets sysctls.

A socket stays in the namespace that it was opened in, whoever holds it. So this process, which has one thread,
enters namespaces, and the lab's process never does (setns in a process with threads goes wrong sooner or later).

Usage: worker.py FD. Reads JSON requests from the UNIX seqpacket socket FD; ends when that is closed.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS = 0x8913
IFF_UP_AND_RUNNING = 0x41
TENTATIVE = 0x40


def enter(path: str) -> None:
    """Move this process into the network namespace at ``path``."""
    import ctypes

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns", path)
    finally:
        os.close(fd)


def open_socket(request: dict[str, Any]) -> tuple[object, list[int]]:
    """Open a socket; an AF_PACKET one is bound to an interface before anybody can send to it."""
    opened = socket.socket(request["family"], request["type"], request["proto"])
    if request.get("interface"):
        # Opened with protocol 0 it hears nothing until bind gives it a protocol and a device at the same time.
        opened.setsockopt(socket.SOL_SOCKET, 33, request["buffer"])  # SO_RCVBUFFORCE
        opened.bind((request["interface"], request["ethertype"]))
    return None, [opened.detach()]


def sysctl_path(name: str) -> str:
    """Return the file of a sysctl written with slashes, or with dots when it has no slash."""
    return "/proc/sys/" + (name if "/" in name else name.replace(".", "/"))


def sysctl(request: dict[str, Any]) -> tuple[object, list[int]]:
    """Write ``values``; return the present values of ``names``."""
    for name, value in request.get("values", {}).items():
        with open(sysctl_path(name), "w") as file:  # noqa: PTH123 - pathlib would cost its import
            file.write(str(value))
    present = {}
    for name in request.get("names", []):
        with open(sysctl_path(name)) as file:  # noqa: PTH123
            present[name] = file.read().strip()
    return present, []


def wait_ready(request: dict[str, Any]) -> tuple[object, list[int]]:
    """Wait until the interfaces have a carrier and no IPv6 address of theirs is tentative."""
    deadline = time.monotonic() + request["timeout"]
    interfaces = request["interfaces"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        while True:
            missing = [name for name in interfaces if not running(probe, name) or tentative(name)]
            if not missing:
                return None, []
            if time.monotonic() > deadline:
                raise TimeoutError(f"not ready after {request['timeout']} s: {', '.join(missing)}")
            time.sleep(0.002)


def running(probe: socket.socket, interface: str) -> bool:
    """Tell whether the interface is up and has its carrier (IFF_RUNNING follows the operational state)."""
    answer = fcntl.ioctl(probe, SIOCGIFFLAGS, struct.pack("16sh22x", interface.encode(), 0))
    flags: int = struct.unpack_from("16sH", answer)[1]
    return flags & IFF_UP_AND_RUNNING == IFF_UP_AND_RUNNING


def tentative(interface: str) -> bool:
    """Tell whether an IPv6 address of the interface still waits for duplicate address detection."""
    try:
        with open("/proc/thread-self/net/if_inet6") as file:  # noqa: PTH123
            rows = [line.split() for line in file]
    except FileNotFoundError:
        return False
    return any(row[5] == interface and int(row[4], 16) & TENTATIVE for row in rows)


OPERATIONS: dict[str, Callable[[dict[str, Any]], tuple[object, list[int]]]] = {
    "socket": open_socket,
    "sysctl": sysctl,
    "ready": wait_ready,
}


def main() -> None:
    """Serve requests until the lab closes its end."""
    control = socket.socket(fileno=int(sys.argv[1]))
    while raw := control.recv(1 << 20):
        request = json.loads(raw)
        fds: list[int] = []
        try:
            enter(request["netns"])
            result, fds = OPERATIONS[request["op"]](request)
            reply: dict[str, Any] = {"result": result}
        except OSError as error:
            reply = {"errno": error.errno, "error": f"{error} ({request['op']} in {request['netns']})"}
        socket.send_fds(control, [json.dumps(reply).encode()], fds)
        for fd in fds:
            os.close(fd)


if __name__ == "__main__":
    main()
