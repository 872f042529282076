"""Make and prepare the egress interface. See ip-link(8) and rtnetlink(7)."""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path
from typing import Any

from egress_router.config.values import Family, family_of
from egress_router.errors import PlatformError, TryAgainError
from egress_router.net.netlink import (
    NLA_F_NESTED,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    NetlinkError,
    attribute,
    ifaddrmsg,
    ifinfmsg,
)
from egress_router.net.netns import OWN, made_in, may_look_at, same_namespace
from egress_router.net.oserror import translating
from egress_router.net.rtnetlink.read import observe, read_links
from egress_router.net.rtnetlink.values import MAIN_TABLE, Link, LinkAddress, MacvlanMode

RTM_NEWLINK, RTM_NEWADDR, RTM_DELADDR = 16, 20, 21
_IFF_UP = 0x1
_IFLA_AF_SPEC = 26
_IFLA_INET6_ADDR_GEN_MODE = 8
_ADDR_GEN_MODE_NONE = 1
_IFA_F_NODAD = 0x02
HOST_NETNS = "/proc/1/ns/net"
_CARRIER_SECONDS = 3.0


def host_namespace(path: str | None) -> str:
    """Return the path of the host's network namespace: ``path``, or that of process 1.

    Raises PlatformError when it cannot be opened or is the pod's own. One that may not be looked at is taken to be
    another one.
    """
    found = path or HOST_NETNS
    if may_look_at(found) and same_namespace(found):
        hint = f"{found} is the pod's own namespace" + ("" if path else " (the pod has no hostPID)")
        raise PlatformError(f"the macvlan cannot be created: {hint}; set EGRESS_HOST_NETNS to the host's namespace")
    return found


def create_macvlan(name: str, parent: str | None, mode: MacvlanMode, path: str) -> str:
    """Create macvlan ``name`` in our namespace on a NIC of the namespace at ``path``; return a sentence for the log.

    The link appears in our namespace in one step, with the parent's MTU: a process killed here leaves nothing behind.
    ``parent`` None takes the NIC of the host's default route. Raises PlatformError saying which way lacked what.
    """
    with translating("open our own network namespace"):
        ours = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with made_in(path, Netlink) as host:
            nic = _parent(host, parent, path)
            request = ifinfmsg()
            request["attrs"] = [
                ("IFLA_IFNAME", name),
                ("IFLA_LINK", nic.index),
                ("IFLA_MTU", nic.mtu),
                ("IFLA_NET_NS_FD", ours),
                (
                    "IFLA_LINKINFO",
                    {
                        "attrs": [
                            ("IFLA_INFO_KIND", "macvlan"),
                            ("IFLA_INFO_DATA", {"attrs": [("IFLA_MACVLAN_MODE", mode.value)]}),
                        ]
                    },
                ),
            ]
            _create(host, request, name, nic)
    finally:
        os.close(ours)
    return f"created {name} on {nic.name} of {path}, mode {mode}, MTU {nic.mtu}"


def _create(host: Netlink, request: Any, name: str, nic: Link) -> None:
    try:
        host.change(request, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, f"create {name} on {nic.name}")
    except NetlinkError as error:
        why = {
            errno.EBUSY: "is taken by another owner (it is the port of a bridge, a bond or Open vSwitch)",
            errno.EINVAL: "cannot carry it (it is no Ethernet NIC, or a macvlan in passthru mode has it)",
        }.get(error.code)
        if why is None:
            raise
        raise PlatformError(f"{error}; {nic.name} {why}: name another NIC with EGRESS_PARENT_INTERFACE") from error


def _parent(host: Netlink, wanted: str | None, path: str) -> Link:
    observed = observe(host)
    if wanted is not None:
        link = observed.link(wanted)
        if link is None:
            names = ", ".join(item.name for item in observed.links)
            raise PlatformError(f"EGRESS_PARENT_INTERFACE={wanted}: {path} has no such interface (it has {names})")
        return link
    defaults = [r for r in observed.routes if r.table == MAIN_TABLE and r.is_default and r.interface is not None]
    defaults.sort(key=lambda route: (route.family, route.metric))
    link = observed.link(defaults[0].interface or "") if defaults else None
    if link is None:
        raise PlatformError(f"{path} has no default route to take the NIC from; set EGRESS_PARENT_INTERFACE")
    return link


def prepare(netlink: Netlink, link: Link) -> None:
    """Make ``link`` quiet before it comes up: no link-local address of its own. Raises NetlinkError.

    Done by netlink, which works where /proc/sys is read-only.
    """
    if not Path("/proc/net/if_inet6").exists():
        return
    mode = attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_MODE_NONE]))
    spec = attribute(_IFLA_AF_SPEC | NLA_F_NESTED, attribute(socket.AF_INET6 | NLA_F_NESTED, mode))
    request = ifinfmsg()
    request["index"] = link.index
    netlink.change(request, RTM_NEWLINK, 0, f"prepare {link.name}", extra=spec)


def set_up(netlink: Netlink, link: Link) -> None:
    """Bring ``link`` up and wait for its carrier. Raises NetlinkError, or TryAgainError when there is no carrier."""
    request = ifinfmsg()
    request["index"] = link.index
    request["flags"] = _IFF_UP
    request["change"] = _IFF_UP
    netlink.change(request, RTM_NEWLINK, 0, f"set {link.name} up")
    end = time.monotonic() + _CARRIER_SECONDS
    while not any(item.index == link.index and item.lower_up for item in read_links(netlink)):
        if time.monotonic() > end:
            raise TryAgainError(f"{link.name} has no carrier after {_CARRIER_SECONDS:g} s: is its parent NIC up?")
        time.sleep(0.005)


def add_address(netlink: Netlink, link: Link, item: LinkAddress) -> None:
    """Add an address without the kernel's own duplicate detection (ours has run before). Raises NetlinkError."""
    _address(netlink, link, item, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, f"add {item}")


def remove_address(netlink: Netlink, link: Link, item: LinkAddress) -> None:
    """Remove an address. Raises NetlinkError."""
    _address(netlink, link, item, RTM_DELADDR, 0, f"remove {item}")


def _address(netlink: Netlink, link: Link, item: LinkAddress, type_: int, flags: int, doing: str) -> None:
    address = item.address
    request = ifaddrmsg()
    request["family"] = socket.AF_INET if family_of(address) is Family.IPV4 else socket.AF_INET6
    request["index"] = link.index
    request["prefixlen"] = address.network.prefixlen
    request["flags"] = _IFA_F_NODAD if family_of(address) is Family.IPV6 else 0
    text = str(address.ip)
    request["attrs"] = [("IFA_LOCAL", text), ("IFA_ADDRESS", text)]
    netlink.change(request, type_, flags, doing)
