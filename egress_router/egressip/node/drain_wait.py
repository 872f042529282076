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
    try:
        answer = _handed_over(path, answer, timeout)
        drain = _done(path, answer, timeout, remark)
    except KeyboardInterrupt:
        remark("the node goes on handing over; `egress-router node undrain` ends that")
        raise
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


def _handed_over(path: Path, answer: dict[str, Any], timeout: float) -> dict[str, Any]:
    end = time.monotonic() + timeout
    while not answer["handed_over"]:
        if time.monotonic() > end:
            users = ", ".join(answer["users"]) or "other nodes"
            raise TryAgainError(f"still used by {users} after {timeout:g} s; the node goes on handing over")
        answer = _next(path, timeout)
    return answer


def _done(path: Path, answer: dict[str, Any], timeout: float, remark: Say) -> Mapping[str, Any]:
    reported = time.monotonic() - _SAY_EVERY
    while not answer["drain"]["done"]:
        drain = answer["drain"]
        if drain["connections"] and time.monotonic() - reported >= _SAY_EVERY:
            reported = time.monotonic()
            wait = f"waiting at most {drain['seconds_left']:.0f} s more"
            remark(f"{drain['connections']} connections still use this node; {wait}")
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
