"""``egress-router node drain``: start a drain, and tell how it goes on until it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from egress_router.egressip.node.control import ask
from egress_router.errors import TryAgainError

#: Seconds between two questions to the agent, and between two lines about it.
_ASK_EVERY, _SAY_EVERY = 0.1, 5.0


#: Writes a line.
Say = Callable[[str], None]


def drain_node(path: Path, grace: float, timeout: float, say: Say, remark: Say) -> int:
    """Say how the drain ends, and ``remark`` on how it goes on. Return 0 when nothing uses the node any more, 1 when
    connections were left at the end of the grace.

    The agent goes on without us. Raises TryAgainError when it does not answer for ``timeout`` seconds, when something
    new still leaves by this node after that time, as it does where there is no other holder, and when somebody ends the
    drain.
    """
    answer = ask(path, f"drain {grace:g}")
    for name in answer["drain"]["alone"]:
        remark(f"namespace {name} has no other holder, so it goes on leaving through this node")
    progress = _Progress(remark)
    try:
        answer = _handed_over(path, answer, timeout, progress)
        drain = _done(path, answer, timeout, progress)
    except KeyboardInterrupt:
        remark("the node goes on handing over; `egress-router node undrain` ends that")
        raise
    if moved := drain.get("moved"):
        remark(f"{moved} {'connection goes' if moved == 1 else 'connections go'} on by standbys")
    if drain["connections"] is None:
        say("handed over; connections could not be counted, see the agent's log")
        return 1
    if not drain["connections"]:
        say("handed over")
        return 0
    say(f"handed over; {drain['connections']} connections remain, and break when this node stops:")
    listed = 0
    for item in drain["pods"]:
        listed += item["connections"]
        say(f"  {item['connections']} of pod {item['pod']} ({item['ip']})")
    if drain["connections"] > listed:
        say(f"  {drain['connections'] - listed} of other pods")
    return 1


class _Progress:
    """Remarks on what is waited for, now and then."""

    def __init__(self, remark: Say) -> None:
        self._remark = remark
        self._said = time.monotonic() - _SAY_EVERY

    def tell(self, drain: Mapping[str, Any]) -> None:
        waits = drain["connections"] and drain["seconds_left"]
        if not (waits or drain["leaving"]) or time.monotonic() - self._said < _SAY_EVERY:
            return
        self._said = time.monotonic()
        if waits:
            wait = f"waiting at most {drain['seconds_left']:.0f} s more"
            self._remark(f"{drain['connections']} connections still use this node; {wait}")
        if drain["leaving"]:
            self._remark(f"{', '.join(drain['leaving'])}: to be given to other nodes, once no connection is waited for")


def _handed_over(path: Path, answer: dict[str, Any], timeout: float, progress: _Progress) -> dict[str, Any]:
    end = time.monotonic() + timeout
    while not answer["handed_over"]:
        if answer["drain"]["leaving"]:
            # Who has no other holder leaves by this node until its address is on another one.
            end = time.monotonic() + timeout
            progress.tell(answer["drain"])
        if time.monotonic() > end:
            users = ", ".join(answer["users"]) or "other nodes"
            raise TryAgainError(f"still used by {users} after {timeout:g} s; the node goes on handing over")
        answer = _next(path, timeout)
    return answer


def _done(path: Path, answer: dict[str, Any], timeout: float, progress: _Progress) -> Mapping[str, Any]:
    while not answer["drain"]["done"]:
        progress.tell(answer["drain"])
        answer = _next(path, timeout)
    found: Mapping[str, Any] = answer["drain"]
    return found


def _next(path: Path, timeout: float) -> dict[str, Any]:
    """Ask again a moment later. An agent that starts again meanwhile goes on where the one before it was."""
    end = time.monotonic() + timeout
    while True:
        time.sleep(_ASK_EVERY)
        try:
            answer = ask(path, "status")
            break
        except TryAgainError:
            if time.monotonic() > end:
                raise
    if not answer["draining"]:
        raise TryAgainError("the hand-over was ended: this node takes traffic again")
    return answer
