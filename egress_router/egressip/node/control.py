"""The agent's control socket: one JSON line each way on a UNIX socket. See unix(7)."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from egress_router.egressip.node.drain import GRACE
from egress_router.errors import PlatformError, TryAgainError

#: An answer is made in milliseconds; a peer that does not ask or read is dropped after so many seconds.
TIMEOUT = 2.0


class Controlled(Protocol):
    """What can be asked of an agent."""

    def drain(self, grace: float) -> None:
        """Start a drain; wait for connections for so many seconds from now."""

    def undrain(self) -> None:
        """End a drain."""

    def handed_over(self) -> bool:
        """Return whether nobody sends traffic here any more."""

    def status(self) -> dict[str, object]:
        """Return the status as plain data."""


class ControlSocket:
    """The agent's end. Only the owner of the socket's file may connect (mode 0600)."""

    def __init__(self, path: Path) -> None:
        """Raises PlatformError when the file cannot be made."""
        #: The socket's file.
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._socket.bind(str(path))
            path.chmod(0o600)
        except OSError as error:
            self._socket.close()
            raise PlatformError(f"the control socket {path} cannot be made: {error.strerror or error}") from error
        self._socket.listen(8)

    def fileno(self) -> int:
        """Return the descriptor, readable when somebody asks."""
        return self._socket.fileno()

    def accept(self) -> socket.socket | None:
        """Return the connection of somebody who is about to ask, None when he has gone."""
        try:
            peer, _ = self._socket.accept()
        except OSError:
            return None
        peer.setblocking(False)
        return peer

    def serve(self, peer: socket.socket, agent: Controlled, start: Callable[..., object]) -> bool:
        """Answer the question that ``peer`` has sent, and close it; True when something must be applied. ``start`` does
        work in a thread: nobody waits for a peer that does not read.
        """
        try:
            word, _, rest = peer.recv(64).decode().strip().partition(" ")
            changed = word in ("drain", "undrain")
            if word == "drain":
                grace = float(rest or GRACE)
                if not 0 <= grace < float("inf"):
                    raise ValueError(f"no number of seconds: {rest}")
                agent.drain(grace)
            elif word == "undrain":
                agent.undrain()
            data = json.dumps({"handed_over": agent.handed_over(), **agent.status()}).encode() + b"\n"
        except (OSError, ValueError):
            peer.close()
            return False
        start("control answer", lambda: _answer(peer, data))
        return changed

    def close(self) -> None:
        """Stop listening and remove the file."""
        self._socket.close()
        self.path.unlink(missing_ok=True)


def _answer(peer: socket.socket, data: bytes) -> None:
    with peer, suppress(OSError):
        peer.settimeout(TIMEOUT)
        peer.sendall(data)


def ask(path: Path, word: str) -> dict[str, Any]:
    """Ask the agent: "status", "drain [SECONDS]" or "undrain". Raises TryAgainError when there is no agent."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(TIMEOUT * 2)
            peer.connect(str(path))
            peer.sendall(f"{word}\n".encode())
            with peer.makefile("rb") as file:
                answer = json.loads(file.readline())
    except (OSError, ValueError) as error:
        raise TryAgainError(
            f"the agent does not answer on {path}: {error}; is `egress-router node` running?"
        ) from error
    if not isinstance(answer, dict):
        raise TryAgainError(f"{path} is not the socket of an agent")
    return answer
