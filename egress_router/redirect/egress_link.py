"""Which interface is the egress interface: one that exists, or one to create."""

from __future__ import annotations

from egress_router.errors import PlatformError
from egress_router.net.rtnetlink.values import Link
from egress_router.records import dataclass

#: What a container runtime calls the interface of the pod network (CNI_IFNAME of kubelet's runtimes).
CRI_INTERFACE = "eth0"
#: What OpenShift SDN's annotation makes, and what we make.
DEFAULT_NAME = "macvlan0"


@dataclass(frozen=True, slots=True)
class EgressLink:
    """The egress interface: adopt the one that exists, or create it under ``name``; ``reason`` for the log."""

    name: str
    create: bool
    reason: str


def choose_egress_link(wanted: str | None, links: tuple[Link, ...], cluster: str | None) -> EgressLink:
    """Choose: EGRESS_INTERFACE, else ``macvlan0``, else the only macvlan link, else create ``macvlan0``.

    ``cluster`` is the interface towards the cluster, which is never chosen. Raises PlatformError, listing the links,
    when EGRESS_INTERFACE does not exist or is the cluster interface, when several macvlan links leave it open, or when
    ``macvlan0`` is the cluster interface.
    """
    names = {link.name for link in links}
    if wanted is not None:
        if wanted not in names:
            raise PlatformError(f"EGRESS_INTERFACE={wanted}: there is no such interface here; {seen(links)}")
        if wanted == cluster:
            raise PlatformError(
                f"EGRESS_INTERFACE={wanted} carries the pod's default route, so it is the cluster interface; "
                f"the egress interface must be another one; {seen(links)}"
            )
        return EgressLink(wanted, create=False, reason="named by EGRESS_INTERFACE")
    if DEFAULT_NAME in names and cluster != DEFAULT_NAME:
        return EgressLink(DEFAULT_NAME, create=False, reason=f"{DEFAULT_NAME} exists")
    macvlans = [link.name for link in links if link.kind == "macvlan" and link.name != cluster]
    if len(macvlans) == 1:
        return EgressLink(macvlans[0], create=False, reason="the only macvlan link")
    if macvlans:
        raise PlatformError(
            f"there are {len(macvlans)} macvlan links and none is {DEFAULT_NAME}: set EGRESS_INTERFACE to one of "
            f"{', '.join(macvlans)}; {seen(links)}"
        )
    if DEFAULT_NAME in names:
        raise PlatformError(
            f"{DEFAULT_NAME} carries the pod's default route, so it is the cluster interface, and there is no other "
            f"macvlan link; the pod network must keep its default route, or set EGRESS_INTERFACE; {seen(links)}"
        )
    return EgressLink(DEFAULT_NAME, create=True, reason="there is no macvlan link")


def refuse_unfit(link: Link, links: tuple[Link, ...]) -> None:
    """Raise PlatformError when ``link`` cannot be an egress interface: it would send, and no answer would come back."""
    master = next((item for item in links if item.index == link.master), None)
    if master is not None:
        raise PlatformError(
            f"{link.name} belongs to {master.name} ({master.kind or 'device'}), which gets what it receives, so no "
            f"reply would find its client. Take it out (ip link set {link.name} nomaster) or name another "
            f"EGRESS_INTERFACE; {seen(links)}"
        )
    if link.ipvlan_mode in ("l3", "l3s"):
        raise PlatformError(
            f"{link.name} answers no ARP and no neighbour discovery: it is an ipvlan in mode {link.ipvlan_mode}, so "
            "the gateway would not find EGRESS_SOURCE. Make it with mode l2, or take a macvlan"
        )


def seen(links: tuple[Link, ...]) -> str:
    """List links for an error text."""
    return "links seen: " + (", ".join(map(str, links)) or "none")
