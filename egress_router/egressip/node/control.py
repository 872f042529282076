"""The agent's control socket: one JSON line each way on a UNIX socket. See unix(7)."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, Protocol

from egress_router.egressip.node.drain import GRACE
from egress_router.errors import TryAgainError

#: An answer is made in milliseconds; a peer that does not read it is dropped.
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
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        #: The socket's file.
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))
        path.chmod(0o600)
        self._socket.listen(8)

    def fileno(self) -> int:
        """Return the descriptor, readable when somebody asks."""
        return self._socket.fileno()

    def serve(self, agent: Controlled) -> bool:
        """Answer one question; True when something must be applied."""
        try:
            peer, _ = self._socket.accept()
        except BlockingIOError:
            return False
        with peer:
            peer.settimeout(TIMEOUT)
            try:
                word, _, rest = peer.recv(64).decode().strip().partition(" ")
                changed = word in ("drain", "undrain")
                if word == "drain":
                    agent.drain(float(rest or GRACE))
                elif word == "undrain":
                    agent.undrain()
                answer = {"handed_over": agent.handed_over(), **agent.status()}
                peer.sendall(json.dumps(answer).encode() + b"\n")
            except (OSError, ValueError):
                return False
            return changed

    def close(self) -> None:
        """Stop listening and remove the file."""
        self._socket.close()
        self.path.unlink(missing_ok=True)


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
