"""Kernel parameters under /proc/sys, and those of one interface by netlink too. See sysctl(8), rtnetlink(7)."""

from __future__ import annotations

import os

from egress_router.config.files import read_kernel_text
from egress_router.errors import PlatformError
from egress_router.net.rtnetlink.kernel import RouteNetlink
from egress_router.net.rtnetlink.values import Link, Sysctl

ROOT = "/proc/sys"
#: linux/ip.h: IPV4_DEVCONF_*
_IPV4_DEVCONF = {"forwarding": 1, "rp_filter": 8, "arp_announce": 18, "arp_ignore": 19}


def read_sysctl(item: Sysctl) -> int | None:
    """Return the present value; None when this kernel has no such parameter or it is no number."""
    try:
        return int(read_kernel_text(f"{ROOT}/{item.key}"))
    except (OSError, ValueError):
        return None


def set_sysctl(item: Sysctl, kernel: RouteNetlink, link: Link | None) -> str | None:
    """Set a parameter and read it back. Return None when it holds, else what is wrong with an optional one.

    Where /proc/sys is read-only (an unprivileged container) the IPv4 parameters of an interface, which ``link`` is
    then, are set by netlink, for which NET_ADMIN is enough. Raises PlatformError for a required parameter that cannot
    be set; the text says what to change.
    """
    if read_sysctl(item) == item.value:
        return None
    try:
        # The first choice: forwarding switches LRO off in the NIC, which the kernel does on this way only.
        _write(f"{ROOT}/{item.key}", item.value)
        reason = ""
    except OSError as error:
        reason = error.strerror or str(error)
        if link is not None:
            kernel.set_ipv4_parameter(link, _IPV4_DEVCONF[item.key.rpartition("/")[2]], item.value)
    actual = read_sysctl(item)
    if actual == item.value:
        return None
    wrong = f"{item.key.replace('/', '.')} is {actual}, {item.value} is needed"
    if reason:
        wrong += f", and it cannot be set ({reason})"
    if item.required:
        raise PlatformError(f"{wrong}. {item.fix}".rstrip())
    return wrong


def _write(path: str, value: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)
