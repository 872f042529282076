"""The lab's side of the process that enters namespaces (children/worker.py)."""

from __future__ import annotations

import json
import os
import socket as sockets
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lab.patience import patient

CHILDREN = Path(__file__).parent / "children"
ETH_P_ALL = 3


class Worker:
    """Opens sockets and sets sysctls in namespaces, without this process entering them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control, theirs = sockets.socketpair(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(CHILDREN / "worker.py"), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the lab, which needs this process to clean up
            )

    def _ask(self, netns: str, op: str, **arguments: Any) -> tuple[Any, list[int]]:
        request = json.dumps({"netns": netns, "op": op, **arguments}).encode()
        with self._lock:
            self._control.send(request)
            raw, fds, _, _ = sockets.recv_fds(self._control, 1 << 20, 1)
        if not raw:
            raise RuntimeError("the lab's worker process ended")
        reply = json.loads(raw)
        if "error" in reply:
            if reply["errno"] is None:
                raise TimeoutError(reply["error"])
            raise OSError(reply["errno"], f"{os.strerror(reply['errno'])}: {reply['error']}")
        return reply.get("result"), fds

    def socket(self, netns: str, family: int, kind: int, proto: int = 0) -> sockets.socket:
        """Return a new socket that belongs to the namespace at path ``netns``."""
        _, fds = self._ask(netns, "socket", family=int(family), type=int(kind), proto=proto)
        return sockets.socket(fileno=fds[0])

    def packet_socket(self, netns: str, interface: str, receive_buffer: int) -> sockets.socket:
        """Return an AF_PACKET socket that has heard every frame of ``interface`` since before this returns."""
        _, fds = self._ask(
            netns,
            "socket",
            family=int(sockets.AF_PACKET),
            type=int(sockets.SOCK_RAW),
            proto=0,
            interface=interface,
            ethertype=ETH_P_ALL,
            buffer=receive_buffer,
        )
        return sockets.socket(fileno=fds[0])

    def set_sysctls(self, netns: str, values: Mapping[str, str | int]) -> None:
        """Write sysctls; names with dots, or with slashes when an interface name has a dot."""
        self._ask(netns, "sysctl", values=dict(values))

    def get_sysctls(self, netns: str, names: Iterable[str]) -> dict[str, str]:
        """Return the present values."""
        present, _ = self._ask(netns, "sysctl", names=list(names))
        return dict(present)

    def wait_ready(self, netns: str, interfaces: Iterable[str], timeout: float = 5.0) -> None:
        """Wait (at most ``timeout`` seconds) until the interfaces can carry packets of both families."""
        self._ask(netns, "ready", interfaces=list(interfaces), timeout=patient(timeout))

    def close(self) -> None:
        """End the process and reap it."""
        self._control.close()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
