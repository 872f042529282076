"""How many processors this container may use, and so how many Squids share the work; the address they listen on."""

from __future__ import annotations

import math
import os
from pathlib import Path

from egress_router.daemon.sockets import can_listen

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


def listen_address() -> str:
    """Return the wildcard to listen on: both families in one socket, or IPv4 alone where the pod has no IPv6, by the
    test that Squid makes.
    """
    return "::" if can_listen("::1") else "0.0.0.0"  # noqa: S104  # clients are in other pods
