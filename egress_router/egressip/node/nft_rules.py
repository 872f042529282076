"""A node's state → nft scripts: the whole tables, or only what changed. See nft(8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address

from egress_router.egressip.node.guard import GUARD
from egress_router.egressip.node.state import (
    DROPS,
    MARK_MASK,
    MARK_SHIFT,
    NOT_OUTSIDE,
    OWN_SLOT,
    TUNNEL,
    TUNNEL_PORT,
    TUNNEL_ZONE,
    Gateway,
    NodeSettings,
    NodeState,
)

TABLE = "egress_node"
#: Protocols whose connections begin and end, and break when their other end sees another address.
_CONNECTED = "{ tcp, sctp, dccp }"
#: Sets of the ARP table.
_ARP_SETS = ("here", "quiet")
#: How long late replies are kept from a pod whose connections were cut and whose address may have become another's.
_RECENT = "10s"
#: Ways whose names are words of nft.
_CHAIN = {"drop": "dropped"}
_KEEP = 0xFFFFFFFF ^ MARK_MASK
#: Set or map → element → value ("" in a set).
Elements = dict[str, dict[str, str]]

_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
#: The target of a neighbour solicitation (RFC 4861, section 4.3).
_ND_TARGET = "@th,64,128"


def mark_of(slot: int) -> int:
    """Return the mark of a slot."""
    return slot << MARK_SHIFT


def elements(state: NodeState) -> Elements:
    """Return what the tables' sets and maps hold."""
    found: Elements = {}
    for version in (4, 6):

        def ours(texts: Iterable[str], version: int = version) -> dict[str, str]:
            return {text: "" for text in texts if (":" in text) == (version == 6)}

        found[f"pods{version}"] = ours(state.pods)
        found[f"held{version}"] = ours(state.assigned)
        found[f"egress{version}"] = ours(state.egress)
        found[f"served{version}"] = ours(state.translations)
        found[f"peers{version}"] = ours(state.peers)
        found[f"allowed{version}"] = {f"{pod} . {state.translations[pod]}": "" for pod in ours(state.translations)}
        found[f"snat{version}"] = {pod: state.translations[pod] for pod in ours(state.translations)}
        found[f"way{version}"] = {
            pod: f"goto {_CHAIN.get(state.ways[pod], state.ways[pod])}" for pod in ours(state.ways)
        }
        found[f"far{version}"] = ours(pod for pod, way in state.ways.items() if _is_far(way, pod in state.translations))
    found["stay"] = {_hex(mark_of(slot)): f"goto to_{slot}" for slot in sorted({h.slot for h in state.gateways})}
    found["stay"][_hex(mark_of(OWN_SLOT))] = "goto own"
    leaving = {_hex(mark_of(slot)) for slot in state.draining}
    found["keep"] = {mark: verdict for mark, verdict in found["stay"].items() if mark not in leaving}
    found["here"] = {text: "" for text in state.assigned if ":" not in text}
    found["quiet"] = {text: "" for text in state.arp_suppressed if ":" not in text}
    found["quiet6"] = {f"0x{int(IPv6Address(text)):032x}": "" for text in state.arp_suppressed if ":" in text}
    return found


def _is_far(way: str, has_own: bool) -> bool:
    """Tell whether a pod's flows are looked up among those of the tunnel. Where there is no way, those that go on by
    the holder they have: this node if it translates the pod.
    """
    return way.startswith("to_") or (way == "drop" and not has_own)


def replace_script(settings: NodeSettings, state: NodeState, mtu: int) -> str:
    """Return the script that makes our tables anew in one transaction, whatever was there."""
    have = elements(state)
    lines = [f"table inet {TABLE} {{}}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    lines += [f"  counter {name} {{}}" for name in DROPS]
    for version in (4, 6):
        lines += _sets(version, settings, have)
    # To nft 1.0 the target of a solicitation is raw bytes, which cannot be compared with an ipv6_addr.
    lines += [line.replace("type @", "typeof @") for line in _set("quiet6", _ND_TARGET, have["quiet6"])]
    for name in ("stay", "keep"):
        lines += _map(name, "mark : verdict", have[name])
    for holder in state.gateways:
        lines += _holder_chain(holder)
    lines += _chains(settings, mtu)
    lines += ["}", f"table arp {TABLE} {{}}", f"delete table arp {TABLE}", f"table arp {TABLE} {{"]
    for name in _ARP_SETS:
        lines += _set(name, "ipv4_addr", have[name])
    lines += [
        "  chain answer {",
        "    type filter hook input priority filter; policy accept;",
        # The kernel answers for all its addresses on all interfaces (ip-sysctl, arp_ignore); IPv6 does not.
        f'    iifname != "{settings.interface}" arp daddr ip @here drop',
        "    arp daddr ip @quiet drop",
        "  }",
        "}",
    ]
    # What kept everything in since the boot goes in the same transaction.
    lines += [f"table inet {GUARD} {{}}", f"delete table inet {GUARD}"]
    return "\n".join(lines) + "\n"


def change_script(before: NodeState, after: NodeState) -> str:
    """Return the script that turns the tables of one state into those of another, empty when nothing differs."""
    old, new = elements(before), elements(after)
    first: list[str] = []
    last: list[str] = []
    gone = {h.slot for h in before.gateways} - {h.slot for h in after.gateways}
    for holder in after.gateways:
        if holder.slot not in {h.slot for h in before.gateways}:
            first += [f"add chain inet {TABLE} to_{holder.slot}"]
            first += [f"add rule inet {TABLE} to_{holder.slot} {rule.strip()}" for rule in _holder_chain(holder)[1:-1]]
    for name in new:
        where = f"{'arp' if name in _ARP_SETS else 'inet'} {TABLE} {name}"
        removed = {key: value for key, value in old[name].items() if new[name].get(key) != value}
        added = {key: value for key, value in new[name].items() if old[name].get(key) != value}
        if removed:
            first.append(f"delete element {where} {{ {', '.join(_items(removed))} }}")
        if added:
            last.append(f"add element {where} {{ {', '.join(_items(added))} }}")
    last += [f"delete chain inet {TABLE} to_{slot}" for slot in sorted(gone)]
    return "".join(f"{line}\n" for line in [*first, *last])


def recent_script(pods: Iterable[str]) -> str:
    """Return the script that keeps late replies from these pods for a while, empty when there are none."""
    by_set: dict[str, list[str]] = {}
    for pod in sorted(pods):
        by_set.setdefault(f"recent{6 if ':' in pod else 4}", []).append(f"{pod} timeout {_RECENT}")
    return "".join(f"add element inet {TABLE} {name} {{ {', '.join(items)} }}\n" for name, items in by_set.items())


def _items(values: Mapping[str, str]) -> list[str]:
    return [f"{key} : {value}" if value else key for key, value in sorted(values.items())]


def _set(name: str, type_: str, values: Mapping[str, str], flags: str = "") -> list[str]:
    body = [f"    elements = {{ {', '.join(_items(values))} }}"] if values else []
    return [f"  set {name} {{", f"    type {type_}", *([f"    {flags}"] if flags else []), *body, "  }"]


def _map(name: str, type_: str, values: Mapping[str, str]) -> list[str]:
    return ["  map" + line[5:] if line.startswith("  set") else line for line in _set(name, type_, values)]


def _sets(version: int, settings: NodeSettings, have: Elements) -> list[str]:
    address = _TYPES[version]
    inside = dict.fromkeys([str(net) for net in settings.cluster if net.version == version], "")
    inside.update(dict.fromkeys(NOT_OUTSIDE[version], ""))
    lines = _set(f"cluster{version}", address, inside, "flags interval; auto-merge")
    lines += _set(f"pods{version}", address, have[f"pods{version}"], "flags interval")
    for name in ("held", "egress", "served", "peers", "far"):
        lines += _set(f"{name}{version}", address, have[f"{name}{version}"])
    lines += _set(f"recent{version}", address, {}, "flags timeout")
    lines += _set(f"allowed{version}", f"{address} . {address}", have[f"allowed{version}"])
    lines += _map(f"snat{version}", f"{address} : {address}", have[f"snat{version}"])
    lines += _map(f"way{version}", f"{address} : verdict", have[f"way{version}"])
    return lines


def _holder_chain(holder: Gateway) -> list[str]:
    return [f"  chain to_{holder.slot} {{", *_marking(mark_of(holder.slot)), "  }"]


def _marking(mark: int) -> list[str]:
    return [
        f"    ct mark set ct mark & {_hex(_KEEP)} | {_hex(mark)}",
        f"    meta mark set meta mark & {_hex(_KEEP)} | {_hex(mark)}",
        "    accept",
    ]


def _hex(value: int) -> str:
    return f"0x{value:08x}"


def _chains(settings: NodeSettings, mtu: int) -> list[str]:
    """The rules. Each packet meets a fixed number of them, however many pods and namespaces there are.

    The guard takes our mark off what enters the tunnel: the VXLAN device looks up the way of its own packets with the
    mark of what is inside, and would be led to itself.

    Packets that belong to no connection (a late RST, say) are translated by nobody, so they are dropped at the door.

    A late reply to a connection that was cut would make a connection the other way round, whose replies, the pod's own
    packets, are translated by nobody. So nothing from outside opens a connection straight to such a pod, except a SYN
    and an echo request, which are no replies; nor to one that was such a pod until just now (`recent`).

    What has no connection of its own (UDP, ICMP) moves when its holder drains: `keep` lacks that holder, so the pod's
    way counts. The entry at the pod's node stays, so replies by the former holder still belong to it. But an entry that
    translates, because this node was the holder, cannot be led elsewhere. Hence such packets are looked up in a zone of
    their own while the pod leaves by the tunnel. Only the direction out of the pod has that zone: replies to the egress
    IP find the entry that translates, replies from the tunnel's other end the one that does not.

    Where a packet goes is judged after services have led it to their endpoints: the external address of a service with
    endpoints inside is inside, and an endpoint outside is outside.

    A container network may give pods the address of their node towards other nodes, so a packet that is passed on must
    not reach the tunnel or the agent of a node: it would count as that node's. And what starts behind this node with an
    address of the cluster that is no pod's of this node is no pod's that anybody knows; a pod of another node comes by
    the tunnel.
    """
    unknown = "accept" if settings.pass_unknown else "counter name unknown_pod drop"
    # TCP headers without options take 20 bytes, IPv4 headers 20 and IPv6 headers 40.
    clamp4, clamp6 = mtu - 40, mtu - 60
    return f"""
  chain own {{
{chr(10).join(_marking(mark_of(OWN_SLOT)))}
  }}
  chain normal {{
    accept
  }}
  chain dropped {{
    counter name no_way drop
  }}
  chain refuse {{
    counter name refused
    meta l4proto tcp reject with tcp reset
    reject
  }}
  chain leave4 {{
    meta l4proto {_CONNECTED} ct mark & {_hex(MARK_MASK)} vmap @stay
    ct mark & {_hex(MARK_MASK)} vmap @keep
    ip saddr vmap @way4
    {unknown}
  }}
  chain leave6 {{
    meta l4proto {_CONNECTED} ct mark & {_hex(MARK_MASK)} vmap @stay
    ct mark & {_hex(MARK_MASK)} vmap @keep
    ip6 saddr vmap @way6
    {unknown}
  }}
  chain tunnelled {{
    ct state invalid,untracked counter name tunnel_no_connection drop
    ip daddr @cluster4 counter name tunnel_inside drop
    ip6 daddr @cluster6 counter name tunnel_inside drop
    fib daddr type != unicast counter name tunnel_inside drop
    ip saddr @served4 accept
    ip6 saddr @served6 accept
    counter name tunnel_untranslated drop
  }}
  chain late {{
    meta l4proto {{ icmp, icmpv6 }} accept
    tcp flags & (syn | ack) == syn accept
    counter name late_reply drop
  }}
  chain zone {{
    type filter hook prerouting priority raw; policy accept;
    meta l4proto {_CONNECTED} accept
    ip saddr @far4 ip daddr != @cluster4 ct original zone set {TUNNEL_ZONE}
    ip6 saddr @far6 ip6 daddr != @cluster6 ct original zone set {TUNNEL_ZONE}
  }}
  chain arrive {{
    type filter hook prerouting priority mangle - 5; policy accept;
    iifname "{TUNNEL}" goto tunnelled
    ct state invalid,untracked ip saddr @egress4 ip daddr != @cluster4 counter name no_connection drop
    ct state invalid,untracked ip6 saddr @egress6 ip6 daddr != @cluster6 counter name no_connection drop
    ct state new ip daddr @egress4 ip saddr != @cluster4 goto late
    ct state new ip6 daddr @egress6 ip6 saddr != @cluster6 goto late
    ct state new ip daddr @recent4 ip saddr != @cluster4 goto late
    ct state new ip6 daddr @recent6 ip6 saddr != @cluster6 goto late
    ct state new iifname != "lo" ip daddr @held4 goto refuse
    ct state new iifname != "lo" ip6 daddr @held6 goto refuse
  }}
  chain choose {{
    type filter hook prerouting priority dstnat + 5; policy accept;
    ct direction original ip saddr @pods4 ip daddr != @cluster4 goto leave4
    ct direction original ip6 saddr @pods6 ip6 daddr != @cluster6 goto leave6
    ct direction original ip saddr @cluster4 ip daddr != @cluster4 goto elsewhere
    ct direction original ip6 saddr @cluster6 ip6 daddr != @cluster6 goto elsewhere
  }}
  chain elsewhere {{
    iifname "{TUNNEL}" accept
    ip saddr @served4 counter name forged_source drop
    ip6 saddr @served6 counter name forged_source drop
    iifname {{ "lo", "{settings.interface}" }} accept
    {unknown}
  }}
  chain forge {{
    type filter hook forward priority mangle - 5; policy accept;
    udp dport {{ {TUNNEL_PORT}, {settings.probe_port} }} ip daddr @peers4 counter name forged_node drop
    udp dport {{ {TUNNEL_PORT}, {settings.probe_port} }} ip6 daddr @peers6 counter name forged_node drop
  }}
  chain listen {{
    type filter hook input priority filter - 5; policy accept;
    icmpv6 type nd-neighbor-solicit {_ND_TARGET} @quiet6 drop
    udp dport {TUNNEL_PORT} ip saddr != @peers4 counter name tunnel_stranger drop
    udp dport {TUNNEL_PORT} ip6 saddr != @peers6 counter name tunnel_stranger drop
    udp dport {settings.probe_port} ip saddr @pods4 counter name forged_node drop
    udp dport {settings.probe_port} ip6 saddr @pods6 counter name forged_node drop
  }}
  chain clamp {{
    type filter hook forward priority mangle; policy accept;
    ct mark & {_hex(MARK_MASK)} == 0 iifname != "{TUNNEL}" return
    ct mark & {_hex(MARK_MASK)} == {_hex(mark_of(OWN_SLOT))} return
    tcp flags & (syn | rst) == syn meta nfproto ipv4 tcp option maxseg size set {clamp4}
    tcp flags & (syn | rst) == syn meta nfproto ipv6 tcp option maxseg size set {clamp6}
  }}
  chain translate {{
    type nat hook postrouting priority srcnat - 5; policy accept;
    oifname "{TUNNEL}" meta nfproto ipv4 snat ip to ip saddr
    oifname "{TUNNEL}" meta nfproto ipv6 snat ip6 to ip6 saddr
    ip daddr != @cluster4 snat ip to ip saddr map @snat4
    ip6 daddr != @cluster6 snat ip6 to ip6 saddr map @snat6
  }}
  chain guard {{
    type filter hook postrouting priority srcnat + 20; policy accept;
    oifname "{TUNNEL}" meta mark set meta mark & {_hex(_KEEP)} accept
    ct direction original ct original ip saddr @egress4 ip daddr != @cluster4 goto guard4
    ct direction original ct original ip6 saddr @egress6 ip6 daddr != @cluster6 goto guard6
  }}
  chain guard4 {{
    ct original ip saddr . ip saddr @allowed4 accept
    counter name wrong_source drop
  }}
  chain guard6 {{
    ct original ip6 saddr . ip6 saddr @allowed6 accept
    counter name wrong_source drop
  }}
""".strip("\n").splitlines()
