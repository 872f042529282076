"""A node's state → its nftables tables as values. See nft(8)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv6Address, collapse_addresses, ip_address, ip_network

from egress_router.egressip.node.drop_reasons import DROPS
from egress_router.egressip.node.guard import GUARD
from egress_router.egressip.node.marks import OWN_SLOT, Marks
from egress_router.egressip.node.state import (
    ENCRYPTED,
    MULTICAST,
    NOT_OUTSIDE,
    TUNNEL,
    TUNNEL_ZONE,
    Direct,
    EgressPath,
    NodeSettings,
    NodeState,
    Remote,
)
from egress_router.egressip.node.tunnel import INSIDE
from egress_router.net.nft import script
from egress_router.net.nft.values import NftChain, NftSet, NftTable

TABLE = "egress_node"
INET, ARP = f"inet {TABLE}", f"arp {TABLE}"
#: What must not be there beside them: it keeps everything in, from the boot on until they stand.
ABSENT = (f"inet {GUARD}",)
#: Protocols whose connections begin and end, and break when their other end sees another address.
_CONNECTED = "{ tcp, sctp, dccp }"
#: How long late replies are kept from a pod whose connections were flushed and whose address may have become another's.
_FLUSHED = "10s"
#: The chains that pods' paths lead to; those of other gateways are called by their slot.
_CHAINS = {
    Direct.NODE_ADDRESS: "node_address",
    Direct.NO_GATEWAY: "no_gateway",
    Direct.LOCAL_GATEWAY: "local_gateway",
}
#: Set or map → element → value (None in a set).
Elements = dict[str, dict[str, str | None]]

_ENDS = ("saddr", "daddr")
_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
#: What nft calls the headers of each IP version.
_FAMILIES = {4: "ip", 6: "ip6"}
#: The target of a neighbour solicitation (RFC 4861, section 4.3). To nft 1.0 it is raw bytes, which cannot be compared
#: with an ipv6_addr.
ND_TARGET = "@th,64,128"

_COMMENTS = {
    "cluster": "networks that egress traffic never leaves: pods, services, nodes, link-local, multicast",
    "local_pods": "networks and addresses of this node's pods",
    "egress_ips": "egress IPs on this node's interface",
    "egress_pods": "pods that never leave with any other address",
    "translated_pods": "pods, of any node, whose egress IP this node translates to",
    "nodes": "addresses of the other nodes: nobody else may use the tunnel",
    "tunnelled_pods": "local pods that leave by the tunnel: flows without a connection have a zone of their own",
    "flushed_pods": "pods whose connections were deleted a moment ago: late replies must not reach them",
    "allowed_pairs": "pod and egress IP: the only sources that may leave",
    "snat": "pod to its egress IP",
    "path": "local pod to the gateway that it leaves by",
    "excepted": "local pod to the destinations that it reaches directly",
    "nd_suppressed": "egress IPs that neighbour solicitations are not answered for: the node is drained",
    "arp_suppressed": "egress IPs that ARP is not answered for: the node is drained",
    "known_paths": "connection mark to gateway: connections stay where they are",
    "undrained_paths": "the same without draining gateways, for what is no connection",
}


def gateway_chain(path: EgressPath) -> str:
    """Return the chain that a path of a pod leads to."""
    return f"gateway_{path.slot}" if isinstance(path, Remote) else _CHAINS[path]


@lru_cache(maxsize=1 << 12)
def except_chain(networks: tuple[str, ...]) -> str:
    """Return the chain that accepts what goes to these networks. The same networks have the same chain, of whatever
    pods they are, and a chain never changes: other networks have another one, which pods come to in one transaction.
    """
    return f"except_{blake2b(' '.join(networks).encode(), digest_size=16).hexdigest()}"


def elements(state: NodeState, marks: Marks) -> Elements:
    """Return what the sets and maps hold; the ARP table's have ``arp_`` in front."""
    return {**small_elements(state, marks), **pods_elements(state.translations, state.egress)}


def pods_elements(translations: Mapping[str, str], egress: Iterable[str]) -> Elements:
    """Return what the sets hold that know pods of all nodes."""
    found: Elements = {}
    for version in _TYPES:
        own = {pod: ip for pod, ip in translations.items() if (":" in pod) == (version == 6)}
        found[f"egress_pods{version}"] = _of_family(egress, version)
        found[f"translated_pods{version}"] = dict.fromkeys(own)
        found[f"allowed_pairs{version}"] = {f"{pod} . {ip}": None for pod, ip in own.items()}
        found[f"snat{version}"] = {**own}
    return found


def small_elements(state: NodeState, marks: Marks) -> Elements:
    """Return what the other sets and maps hold: the node's own pods, addresses, gateways."""
    found: Elements = {}
    for version in _TYPES:
        found[f"local_pods{version}"] = dict.fromkeys(map(_network, _of_family(state.pods, version)))
        found[f"egress_ips{version}"] = _of_family(state.assigned, version)
        found[f"nodes{version}"] = _of_family((_canonical(text) for text in state.peers), version)
        found[f"path{version}"] = {
            pod: f"goto {gateway_chain(state.paths[pod])}" for pod in _of_family(state.paths, version)
        }
        found[f"excepted{version}"] = {
            pod: f"jump {except_chain(state.excepted[pod])}" for pod in _of_family(state.excepted, version)
        }
        tunnelled = (pod for pod, path in state.paths.items() if _is_tunnelled(path, pod in state.translations))
        found[f"tunnelled_pods{version}"] = _of_family(tunnelled, version)
    slots = sorted({gateway.slot for gateway in state.gateways})
    found["known_paths"] = {_hex(marks.mark_of(slot)): f"goto gateway_{slot}" for slot in slots}
    found["known_paths"][_hex(marks.mark_of(OWN_SLOT))] = "goto local_gateway"
    found["known_paths"].update({_hex(marks.mark_of(slot)): "goto no_gateway" for slot in state.awaited})
    leaving = {_hex(marks.mark_of(slot)) for slot in (*state.draining, *state.awaited)}
    found["undrained_paths"] = {mark: to for mark, to in found["known_paths"].items() if mark not in leaving}
    found["arp_egress_ips4"] = _of_family(state.assigned, 4)
    found["arp_suppressed"] = _of_family(state.arp_suppressed, 4)
    found["nd_suppressed"] = {f"0x{int(IPv6Address(text)):032x}": None for text in _of_family(state.arp_suppressed, 6)}
    return {name: dict(sorted(values.items())) for name, values in found.items()}


def _of_family(texts: Iterable[str], version: int) -> dict[str, str | None]:
    return {text: None for text in texts if (":" in text) == (version == 6)}


@lru_cache(maxsize=1 << 13)
def _canonical(text: str) -> str:
    return str(ip_address(text))


@lru_cache(maxsize=1 << 13)
def _network(text: str) -> str:
    network = ip_network(text, strict=False)
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


def _is_tunnelled(path: EgressPath, has_own: bool) -> bool:
    """Return whether a pod's flows are looked up among those of the tunnel. Where there is no path, those that go on by
    the gateway they have: this node if it translates the pod.
    """
    return isinstance(path, Remote) or (path is Direct.NO_GATEWAY and not has_own)


def node_tables(settings: NodeSettings, state: NodeState, mtu: int) -> tuple[NftTable, NftTable]:
    """Return the tables of a node; ``mtu`` is that of its tunnel."""
    of_pods = pods_elements(state.translations, state.egress)
    of_pods = {name: dict(sorted(values.items())) for name, values in of_pods.items()}
    return assembled(settings, state, mtu, {**small_elements(state, settings.marks), **of_pods})


def assembled(settings: NodeSettings, state: NodeState, mtu: int, have: Elements) -> tuple[NftTable, NftTable]:
    """Return the tables of a node whose sets hold these elements."""
    gateways = sorted({gateway.slot for gateway in state.gateways})
    excepted = sorted(set(state.excepted.values()))
    return (
        NftTable(
            INET,
            tuple(_sets(settings, have)),
            (
                *(_gateway(slot, settings.marks) for slot in gateways),
                *map(_direct, excepted),
                *_chains(settings, mtu),
            ),
            tuple(DROPS),
        ),
        NftTable(
            ARP,
            (
                _set("egress_ips4", "type ipv4_addr", have["arp_egress_ips4"]),
                _set("arp_suppressed", "type ipv4_addr", have["arp_suppressed"]),
            ),
            (
                NftChain(
                    "answer",
                    "type filter hook input priority filter; policy accept;",
                    (
                        # The kernel answers for all its addresses on all interfaces (ip-sysctl, arp_ignore); IPv6 does
                        # not.
                        f'iifname != "{settings.interface}" arp daddr ip @egress_ips4 drop',
                        "arp daddr ip @arp_suppressed drop",
                    ),
                    "ARP for egress IPs is answered on the outside interface only, and not while drained",
                ),
            ),
        ),
    )


def replace_script(settings: NodeSettings, state: NodeState, mtu: int) -> str:
    """Return the script that makes our tables anew in one transaction, whatever was there."""
    tables = node_tables(settings, state, mtu)
    return "".join(map(script.replace_script, tables)) + "".join(map(script.remove_script, ABSENT))


def change_script(before: NodeState, after: NodeState) -> str:
    """Return the script that turns the tables of one state into those of another, empty when nothing differs; with the
    default marks.
    """
    settings = NodeSettings("", "", ())
    found = ""
    for old, new in zip(node_tables(settings, before, 0), node_tables(settings, after, 0), strict=True):
        changes = script.element_changes(old, new)
        assert changes is not None  # noqa: S101 - settings are the same
        found += script.change_script(changes, new.name, script.chain_changes(old, new))
    return found


def flushed_script(pods: Iterable[str]) -> str:
    """Return the script that keeps late replies from these pods for a while, empty when there are none."""
    by_set: dict[str, list[str]] = {}
    for pod in sorted(pods):
        by_set.setdefault(f"flushed_pods{6 if ':' in pod else 4}", []).append(f"{pod} timeout {_FLUSHED}")
    return "".join(f"add element {INET} {name} {{ {', '.join(items)} }}\n" for name, items in by_set.items())


def _sets(settings: NodeSettings, have: Elements) -> Iterator[NftSet]:
    for version, address in _TYPES.items():
        inside = [net for net in settings.cluster if net.version == version]
        inside += [ip_network(text) for text in NOT_OUTSIDE[version]]
        # Collapsed, since nft refuses intervals that overlap.
        networks = dict.fromkeys(_network(str(net)) for net in collapse_addresses(inside))  # type: ignore[type-var]
        yield _set(f"cluster{version}", f"type {address}", networks, "flags interval")
        yield _set(f"local_pods{version}", f"type {address}", have[f"local_pods{version}"], "flags interval")
        for name in ("egress_ips", "egress_pods", "translated_pods", "nodes", "tunnelled_pods"):
            yield _set(f"{name}{version}", f"type {address}", have[f"{name}{version}"])
        yield _set(f"flushed_pods{version}", f"type {address}", {}, "flags timeout")
        yield _set(f"allowed_pairs{version}", f"type {address} . {address}", have[f"allowed_pairs{version}"])
        yield _set(f"snat{version}", f"type {address} : {address}", have[f"snat{version}"])
        yield _set(f"path{version}", f"type {address} : verdict", have[f"path{version}"])
        yield _set(f"excepted{version}", f"type {address} : verdict", have[f"excepted{version}"])
    yield _set("nd_suppressed", f"typeof {ND_TARGET}", have["nd_suppressed"])
    for name in ("known_paths", "undrained_paths"):
        yield _set(name, "type mark : verdict", have[name])


def _set(name: str, type_: str, values: dict[str, str | None], *flags: str) -> NftSet:
    kind = "map" if " : " in type_ else "set"
    return NftSet(kind, name, (type_, *flags), values, _COMMENTS[name.rstrip("46")])


def _gateway(slot: int, marks: Marks) -> NftChain:
    mark = _hex(marks.mark_of(slot))
    rules = (_mark_connection(slot, marks), f"meta mark set meta mark & {_hex(marks.keep)} | {mark}", "accept")
    return NftChain(f"gateway_{slot}", None, rules, f"to gateway {slot} by the tunnel", dynamic=True)


def _direct(networks: tuple[str, ...]) -> NftChain:
    ip = "ip6" if ":" in networks[0] else "ip"
    texts = list(map(_network, networks))
    listed = texts[0] if len(texts) == 1 else f"{{ {', '.join(texts)} }}"
    # Everything is no interval that all versions of nft can write.
    rule = "accept" if networks[0] in ("0.0.0.0/0", "::/0") else f"{ip} daddr {listed} accept"
    return NftChain(except_chain(networks), None, (rule,), "destinations that are reached directly", dynamic=True)


def _strangers(settings: NodeSettings) -> Iterator[str]:
    """What reaches the tunnel's port from elsewhere than it should: not from a node, or not encrypted. What WireGuard
    lets in is of the node whose key it was encrypted with.
    """
    if settings.encrypted:
        yield f'iifname "{ENCRYPTED}" accept'
    else:
        yield from (f"{ip} saddr @nodes{version} accept" for version, ip in _FAMILIES.items())
    yield "counter name tunnel_stranger drop"


def _of_the_tunnel(settings: NodeSettings, *, sent: bool) -> Iterator[str]:
    """What the tunnel sends and hears is no connection: each would have an entry of its own beside that of what is
    inside, on both nodes. What is only passed on stays one, whoever it says that it is from.
    """
    if settings.encrypted:
        yield f'{"oifname" if sent else "iifname"} "{ENCRYPTED}" notrack accept'
        return
    for version, ip in _FAMILIES.items():
        other = f"{ip} daddr @nodes{version}" if sent else f"{ip} saddr @nodes{version} fib daddr type local"
        yield f"{other} notrack accept"


def _mark_connection(slot: int, marks: Marks) -> str:
    return f"ct mark set ct mark & {_hex(marks.keep)} | {_hex(marks.mark_of(slot))}"


def _hex(value: int) -> str:
    return f"0x{value:08x}"


def _chains(settings: NodeSettings, mtu: int) -> Iterator[NftChain]:
    """The rules. Each packet meets a fixed number of them, however many pods and namespaces there are.

    A packet bears our mark from the choice of its path to the routing decision, and no longer: others have bits of
    their own, and a VXLAN device looks up the way of its own packets with the mark of what is inside. So it is taken
    off in the forward hook before everybody's filter; what the agent itself sends there loses it last of all. Others
    restore marks from connections before routing (wg-quick all bits, Tailscale some); what replies have got so is taken
    off, too, or they would be led as the pod's packets. Where this node translates, the mark of the connection is all
    that is needed.

    Packets that belong to no connection (a late RST, say) are translated by nobody, so they are dropped at the door.

    A late reply to a connection that was cut would make a connection the other way round, whose replies, the pod's own
    packets, are translated by nobody. So nothing from outside opens a connection straight to such a pod, except a SYN
    and an echo request, which are no replies; nor to one that was such a pod until just now (`flushed_pods`).

    What is judged once for a connection is not judged again for its packets: its mark says what was found, see
    `known_connection`. What may change while it lasts is asked of each packet: whether its pod may still leave so.

    What has no connection of its own (UDP, ICMP) moves when its gateway drains: `undrained_paths` lacks that gateway,
    so the path of the pod counts. The entry at the pod's node stays, so replies by the former gateway still belong to
    it. But an entry that translates, because this node was the gateway, cannot be led elsewhere. Hence such packets are
    looked up in a zone of their own while the pod leaves by the tunnel. Only the direction out of the pod has that
    zone: replies to the egress IP find the entry that translates, replies from the tunnel's other end the one that does
    not.

    Where a packet goes is judged after services have led it to their endpoints: the external address of a service with
    endpoints inside is inside, and an endpoint outside is outside.

    A container network may give pods the address of their node towards other nodes, so a packet that is passed on must
    not reach the tunnel or the agent of a node: it would count as that node's. And what starts behind this node with an
    address of the cluster that is no pod's of this node is no pod's that anybody knows; a pod of another node comes by
    the tunnel.

    What comes by the tunnel has been judged by then, and is no traffic of this node's pods, whatever their range: a
    container network may have other ranges than the objects say.

    What is for an address of this node, a cache of names or a virtual address, say, does not leave, although that is in
    no network of the cluster. Rules that lead elsewhere may come before the table ``local`` (Cilium moves it).
    Nor is its source forged because the way back to it is another one, as it often is on a node with two interfaces.

    With br_netfilter, which Kubernetes needs, frames that a bridge passes on for virtual machines come by the hooks of
    IP, too, and no route leads to their senders. Only the forward hook shows that they leave by a bridge again; so a
    mark with our value and no slot, which no rule leads by, tells until there that the source is not from here.

    A segment that is out of its connection's window is not translated back, so it would reach this node's own TCP,
    which resets the connection.

    Groups count as inside and are translated by nobody. A node whose kernel routes multicast would send what such a pod
    sends to them out with the pod's or the node's address.

    What a pod reaches directly (`excepted`) is judged where the pod is, and only there: a holder translates whatever
    comes by the tunnel. So wherever a packet of a local pod would be led, translated or dropped for its source, its
    destination is looked at first. A connection (TCP) that has a holder keeps it, and a destination that was excepted
    until now has its entry without our mark and with another source, so no rule lets it out any more.
    """
    unknown = "accept" if settings.pass_unknown else "counter name unknown_pod drop"
    marks = settings.marks
    numbers = [settings.tunnel_port, settings.probe_port, *([settings.wireguard_port] if settings.encrypted else [])]
    ports = f"{{ {', '.join(map(str, numbers))} }}"
    mask, ours = _hex(marks.mask), f"ct mark & {_hex(marks.value_mask)}"
    is_own = f"ct mark & {mask} == {_hex(marks.mark_of(OWN_SLOT))}"
    no_mark = f"meta mark set meta mark & {_hex(marks.keep)}"
    is_ours = f"meta mark & {_hex(marks.value_mask)} == {_hex(marks.value)}"
    # TCP headers without options take 20 bytes, IPv4 headers 20 and IPv6 headers 40.
    clamp4, clamp6 = mtu - 40, mtu - 60
    yield NftChain(
        "local_gateway", None, (_mark_connection(OWN_SLOT, marks), no_mark, "accept"), "this node translates the pod"
    )
    yield NftChain("node_address", None, ("accept",), "the pod leaves with the node's address")
    yield NftChain("no_gateway", None, ("counter name no_way drop",), "no gateway can be used: nothing leaves")
    yield NftChain(
        "reject_inbound",
        None,
        (
            "counter name refused",
            "meta l4proto tcp reject with tcp reset",
            "reject",
        ),
        "nobody outside opens connections to an egress IP",
    )
    for version, ip in _FAMILIES.items():
        yield NftChain(
            f"restore_path{version}",
            None,
            (
                f"meta l4proto != {_CONNECTED} {ip} saddr vmap @excepted{version}",
                # A connection whose holder is gone bears the pod's own address as its source until it is cut.
                f"{ours} != {_hex(marks.value)} {ip} saddr vmap @excepted{version}",
                "fib daddr type local accept",
                f"{ip} saddr vmap @path{version}",
                unknown,
            ),
            "what has no gateway yet, or has it no longer, takes that of the pod",
        )
    yield NftChain(
        "known_connection",
        None,
        (
            no_mark,
            # Nothing else is asked of them.
            "ct direction reply accept",
            f'iifname "{TUNNEL}" accept',
            # What a server opens towards a pod because of a connection of the pod's (active FTP, SIP), where a helper
            # of connection tracking expects it, has that one's mark and goes the other way.
            *(f"ct status expected {ip} saddr != @local_pods{version} return" for version, ip in _FAMILIES.items()),
            f"meta l4proto {_CONNECTED} goto known_connected",
            # Its destination was looked at when it was given the zone.
            f"ct original zone {TUNNEL_ZONE} ct mark & {mask} vmap @undrained_paths",
            "ip saddr vmap @excepted4",
            "ip6 saddr vmap @excepted6",
            f"ct mark & {mask} vmap @undrained_paths",
        ),
        "known connections keep their gateway",
    )
    yield NftChain(
        "known_connected",
        None,
        (f"ct mark & {mask} vmap @known_paths",),
        "as long as there is one, whatever is excepted or drained",
    )
    yield NftChain(
        "from_tunnel",
        None,
        (
            "ct state invalid,untracked counter name tunnel_no_connection drop",
            *(f"ct state established {ip} saddr @translated_pods{version} accept" for version, ip in _FAMILIES.items()),
            "icmp type echo-request fib daddr type local accept",
            "icmpv6 type echo-request fib daddr type local accept",
            "ip daddr @cluster4 counter name tunnel_inside drop",
            "ip6 daddr @cluster6 counter name tunnel_inside drop",
            "fib daddr type != unicast counter name tunnel_inside drop",
            *(f"{ip} saddr @translated_pods{version} goto translated_here" for version, ip in _FAMILIES.items()),
            "counter name tunnel_untranslated drop",
        ),
        "only pods translated here, to the outside, may come by the tunnel, and pings of agents",
    )
    yield NftChain(
        "translated_here",
        None,
        (f"ct mark set ct mark & {_hex(marks.keep)} | {_hex(marks.value)}", "accept"),
        "this node translates the pod of another one: our value and no slot",
    )
    yield NftChain(
        "drop_late_replies",
        None,
        (
            "meta l4proto { icmp, icmpv6 } accept",
            "tcp flags & (syn | ack) == syn accept",
            "counter name late_reply drop",
        ),
        "no reply to a deleted connection opens one the other way round",
    )
    yield NftChain(
        "drop_to_outside",
        None,
        (
            "fib daddr type local accept",
            "ip saddr vmap @excepted4",
            "ip6 saddr vmap @excepted6",
            "counter name no_connection drop",
        ),
        "what is of no connection is translated by nobody; it may reach this node and what is reached directly",
    )
    for version, ip in _FAMILIES.items():
        yield NftChain(
            f"tunnel_zone{version}",
            None,
            (
                f"{ip} saddr vmap @excepted{version}",
                f"ct original zone set {TUNNEL_ZONE}",
            ),
            "what has no connection and leaves by the tunnel is looked up in a zone of its own",
        )
    yield NftChain(
        "before_tracking",
        "type filter hook prerouting priority raw; policy accept;",
        (
            f"meta l4proto {_CONNECTED} accept",
            f"udp dport {settings.tunnel_port} jump heard_by_tunnel",
            *(
                f"{ip} saddr @tunnelled_pods{version} {ip} daddr != @cluster{version} goto tunnel_zone{version}"
                for version, ip in _FAMILIES.items()
            ),
        ),
        "the tunnel's own packets are no connections; what has none and leaves by it has a zone",
    )
    yield NftChain(
        "before_tracking_own",
        "type filter hook output priority raw; policy accept;",
        (f"udp dport {settings.tunnel_port} jump sent_by_tunnel",),
        "the tunnel's own packets are no connections",
    )
    for name, sent in (("heard_by_tunnel", False), ("sent_by_tunnel", True)):
        yield NftChain(name, None, tuple(_of_the_tunnel(settings, sent=sent)), "these are not tracked")
    yield NftChain(
        "inbound",
        "type filter hook prerouting priority mangle - 5; policy accept;",
        (
            f'iifname "{TUNNEL}" goto from_tunnel',
            # All that follows is about the first packet of a connection, or about what has none.
            "ct state established,related accept",
            "ct state new goto inbound_new",
            *(
                f"ct state invalid,untracked {ip} saddr @egress_pods{version} {ip} daddr != @cluster{version} "
                "goto drop_to_outside"
                for version, ip in _FAMILIES.items()
            ),
            *(
                f"ct state invalid {ip} daddr @egress_ips{version} counter name invalid drop"
                for version, ip in _FAMILIES.items()
            ),
        ),
        "what comes in: by the tunnel, from pods without a connection, from outside",
    )
    yield NftChain(
        "inbound_new",
        None,
        (
            *(
                f"{ip} daddr @{name}{version} {ip} saddr != @cluster{version} goto drop_late_replies"
                for name in ("egress_pods", "flushed_pods")
                for version, ip in _FAMILIES.items()
            ),
            *(
                f'iifname != "lo" {ip} daddr @egress_ips{version} goto reject_inbound'
                for version, ip in _FAMILIES.items()
            ),
        ),
        "nobody outside opens connections to an egress IP, and late replies open none",
    )
    yield NftChain(
        "select_path",
        "type filter hook prerouting priority dstnat + 5; policy accept;",
        (
            f"{is_own} {no_mark} accept",
            f"{ours} == {_hex(marks.value)} jump known_connection",
            "ct direction reply accept",
            f'iifname "{TUNNEL}" accept',
            *(
                f"ct direction original {ip} saddr != @cluster{version} {ip} daddr != @cluster{version} "
                f'iifname != {{ "lo", "{settings.interface}" }} fib saddr . iif oif missing fib daddr type != local '
                "goto forged"
                for version, ip in _FAMILIES.items()
            ),
            "ct direction original ip saddr @local_pods4 ip daddr != @cluster4 goto restore_path4",
            "ct direction original ip6 saddr @local_pods6 ip6 daddr != @cluster6 goto restore_path6",
            "ct direction original ip saddr @cluster4 ip daddr != @cluster4 goto verify_pod",
            "ct direction original ip6 saddr @cluster6 ip6 daddr != @cluster6 goto verify_pod",
        ),
        "traffic from the cluster to the outside takes a path",
    )
    yield NftChain(
        "forged",
        None,
        (
            f'meta iifkind "bridge" {no_mark} | {_hex(marks.value)} accept',
            "counter name forged_source drop",
        ),
        "a source that is not behind the interface it came by; what a bridge only passes on shows where it leaves",
    )
    yield NftChain(
        "forged_at_bridge",
        None,
        (
            # As where the mark was given.
            "ct direction reply return",
            *(f"{ip} {end} @cluster{version} return" for version, ip in _FAMILIES.items() for end in _ENDS),
            f'meta iifkind "bridge" meta oifkind "bridge" oifname != "{settings.interface}" {no_mark} return',
            "counter name forged_source drop",
        ),
        "the same from a bridge, unless it passes on to itself what is not for this node",
    )
    yield NftChain(
        "verify_pod",
        None,
        (
            "fib daddr type local accept",
            "ip saddr @translated_pods4 counter name forged_source drop",
            "ip6 saddr @translated_pods6 counter name forged_source drop",
            f'iifname {{ "lo", "{settings.interface}" }} accept',
            unknown,
        ),
        "traffic of pods that are not of this node",
    )
    yield NftChain(
        "passed_on",
        "type filter hook forward priority mangle - 5; policy accept;",
        (
            # Its first packet was judged by all of this, and its route is no tunnel.
            f"{is_own} ct state established accept",
            f"{ours} == {_hex(marks.value)} ct state established goto known_passed_on",
            f"meta mark & {mask} == {_hex(marks.value)} jump forged_at_bridge",
            # The route is chosen: our mark is nobody else's business.
            f'oifname "{TUNNEL}" {no_mark}',
            f"udp dport {ports} jump anti_spoof",
            f'oifname "{settings.interface}" jump outbound_multicast',
            "tcp flags & (syn | rst) == syn jump opened",
        ),
        "what is passed on",
    )
    yield NftChain(
        "known_passed_on",
        None,
        (f'oifname "{TUNNEL}" {no_mark}', "tcp flags & (syn | rst) == syn jump clamp_mss"),
        "of connections by the tunnel, after their first packets",
    )
    yield NftChain(
        "anti_spoof",
        None,
        tuple(f"{ip} daddr @nodes{version} counter name forged_node drop" for version, ip in _FAMILIES.items()),
        "no pod speaks to a tunnel or an agent of another node",
    )
    yield NftChain(
        "outbound_multicast",
        None,
        tuple(
            f"{ip} daddr {MULTICAST[version]} {ip} saddr @egress_pods{version} counter name multicast drop"
            for version, ip in _FAMILIES.items()
        ),
        "what pods send to groups leaves by no gateway, so it stays inside",
    )
    yield NftChain(
        "node_input",
        "type filter hook input priority filter - 5; policy accept;",
        (
            f"icmpv6 type nd-neighbor-solicit {ND_TARGET} @nd_suppressed drop",
            # By TCP nodes tell each other of their connections.
            f"tcp dport {settings.probe_port} jump standby_told",
            f"udp dport {settings.tunnel_port} goto tunnel_port",
            f"udp dport {settings.probe_port} ip saddr @local_pods4 counter name forged_node drop",
            f"udp dport {settings.probe_port} ip6 saddr @local_pods6 counter name forged_node drop",
        ),
        "only nodes reach the tunnel, no pod the agent, and drained egress IPs do not answer",
    )
    yield NftChain("tunnel_port", None, tuple(_strangers(settings)), "who may send to the tunnel")
    if settings.encrypted:
        yield NftChain(
            "only_encrypted",
            "type filter hook output priority filter - 5; policy accept;",
            (f'oifname != {{ "lo", "{ENCRYPTED}" }} ip6 daddr {INSIDE} drop',),
            "while the device that encrypts is away, nothing of the tunnel goes another way",
        )
    yield NftChain(
        "standby_told",
        None,
        tuple(
            rule
            for version, ip in _FAMILIES.items()
            for rule in (
                f"{ip} saddr != @nodes{version} fib saddr type != local counter name tunnel_stranger drop",
                f"{ip} saddr @local_pods{version} counter name forged_node drop",
            )
        ),
        "only nodes tell of their connections",
    )
    yield NftChain(
        "opened",
        None,
        (
            *(
                f"tcp dport {settings.probe_port} {ip} daddr @nodes{version} counter name forged_node drop"
                for version, ip in _FAMILIES.items()
            ),
            "goto clamp_mss",
        ),
        "the first packet of a TCP connection that is passed on: no pod tells an agent of connections",
    )
    yield NftChain(
        "clamp_mss",
        None,
        (
            f'{ours} != {_hex(marks.value)} iifname != "{TUNNEL}" return',
            f"{is_own} return",
            f"meta nfproto ipv4 tcp option maxseg size set {clamp4}",
            f"meta nfproto ipv6 tcp option maxseg size set {clamp6}",
        ),
        "TCP fits the tunnel",
    )
    yield NftChain(
        "translate",
        "type nat hook postrouting priority srcnat - 5; policy accept;",
        (
            f'oifname "{TUNNEL}" meta nfproto ipv4 snat ip to ip saddr',
            f'oifname "{TUNNEL}" meta nfproto ipv6 snat ip6 to ip6 saddr',
            "ip saddr vmap @excepted4",
            "ip6 saddr vmap @excepted6",
            "ip daddr != @cluster4 snat ip to ip saddr map @snat4",
            "ip6 daddr != @cluster6 snat ip6 to ip6 saddr map @snat6",
        ),
        "pods get their egress IP",
    )
    yield NftChain(
        "verify_source",
        "type filter hook postrouting priority srcnat + 20; policy accept;",
        (
            f'oifname "{TUNNEL}" goto into_tunnel',
            f"{ours} == {_hex(marks.value)} jump verify_known",
            *(
                f"ct direction original ct original {ip} saddr @egress_pods{version} {ip} daddr != @cluster{version} "
                f"goto verify_source{version}"
                for version, ip in _FAMILIES.items()
            ),
        ),
        "last look: nothing leaves with a wrong source",
    )
    yield NftChain("into_tunnel", None, (f"{is_ours} {no_mark}", "accept"), "the tunnel looks up its own way")
    yield NftChain(
        "verify_known",
        None,
        (
            "ct direction reply accept",
            *(
                f"ct original {ip} saddr . {ip} saddr @allowed_pairs{version} accept"
                for version, ip in _FAMILIES.items()
            ),
        ),
        "nearly all that leaves, with one look-up; what else there is goes on",
    )
    for version, ip in _FAMILIES.items():
        yield NftChain(
            f"verify_source{version}",
            None,
            (
                f"ct original {ip} saddr . {ip} saddr @allowed_pairs{version} accept",
                f"ct original {ip} saddr vmap @excepted{version}",
                "counter name wrong_source drop",
            ),
            "the pod and the source must belong together",
        )
