"""A macvlan on a NIC of another network namespace, the host's. See ip-link(8)."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection

from egress_router.config.values import Address
from egress_router.errors import ConfigurationError, PlatformError, Problem
from egress_router.net.netlink import NetlinkError
from egress_router.net.netns import OWN, made_in, may_look_at, same_namespace
from egress_router.net.oserror import translating
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.net.rtnetlink.values import MAIN_TABLE, Link, MacvlanMode, Observed

HOST_NETNS = "/proc/1/ns/net"
_WHY = {
    errno.EBUSY: "is taken by another owner (it is the port of a bridge, a bond or Open vSwitch)",
    errno.EINVAL: "cannot carry it (it is no Ethernet NIC, or a macvlan in passthru mode has it)",
}


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


def create_macvlan(
    name: str, parent: str | None, mode: MacvlanMode, path: str, sources: Collection[Address] = ()
) -> str:
    """Create macvlan ``name`` in our namespace on a NIC of the namespace at ``path``; return a sentence for the log.

    The link appears in our namespace in one step, with the parent's MTU: a process killed here leaves nothing behind.
    ``parent`` None takes the NIC of the host's default route. Raises PlatformError saying which way lacked what,
    and ConfigurationError when the host itself has one of ``sources``.
    """
    with translating("open our own network namespace"):
        ours = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with made_in(path, Rtnetlink) as host:
            observed = host.observe()
            _refuse_addresses_of_the_node(observed, sources)
            nic = _parent(observed, parent, path)
            _create(host, name, nic, mode, ours)
    finally:
        os.close(ours)
    return f"created {name} on {nic.name} of {path}, mode {mode}, MTU {nic.mtu}"


def _create(host: Rtnetlink, name: str, nic: Link, mode: MacvlanMode, netns: int) -> None:
    try:
        host.create_macvlan(name, nic, mode, netns)
    except NetlinkError as error:
        why = _WHY.get(error.code)
        if why is None:
            raise
        raise PlatformError(f"{error}; {nic.name} {why}: name another NIC with EGRESS_PARENT_INTERFACE") from error


def _refuse_addresses_of_the_node(observed: Observed, sources: Collection[Address]) -> None:
    """Raise ConfigurationError when the node has one of ``sources``: a macvlan never hears its parent, so duplicate
    address detection would not find that out.
    """
    for item in observed.addresses:
        if item.address.ip in sources:
            message = f"is the address of {item.interface} of the node itself"
            expected = "an address that no machine has"
            raise ConfigurationError([Problem("EGRESS_SOURCE", None, str(item.address.ip), message, expected)])


def _parent(observed: Observed, wanted: str | None, path: str) -> Link:
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
