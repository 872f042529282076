"""What keeps pods' traffic in from the boot of a node until its agent's tables stand. See nft(8), systemd.unit(5)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import collapse_addresses, ip_network

from egress_router.egressip.node.state import NOT_OUTSIDE, Network
from egress_router.net.nft.script import replace_script
from egress_router.net.nft.values import NftChain, NftSet, NftTable

GUARD = "egress_guard"
#: Where the unit looks for the script.
GUARD_FILE = "/etc/egress-router/guard.nft"


def guard_script(cluster: Iterable[Network]) -> str:
    """Return the script of the guard: nothing that starts in the cluster networks leaves them through this node.

    It needs to know nothing but the networks. Answers to connections from outside pass, and so does what the node
    itself sends. The agent removes it in the transaction that loads its own tables.
    """
    networks = list(cluster)
    sets: list[NftSet] = []
    for version, address in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        own = [network for network in networks if network.version == version]
        everything = [*own, *(ip_network(text) for text in NOT_OUTSIDE[version])]
        for name, values, comment in (("cluster", own, "pods"), ("inside", everything, "where they may go")):
            # Collapsed, since nft refuses intervals that overlap.
            elements = dict.fromkeys(str(network) for network in collapse_addresses(values))  # type: ignore[type-var]
            sets.append(NftSet("set", f"{name}{version}", (f"type {address}", "flags interval"), elements, comment))
    rules = (
        "ct direction reply accept",
        "ip saddr @cluster4 ip daddr != @inside4 counter drop",
        "ip6 saddr @cluster6 ip6 daddr != @inside6 counter drop",
    )
    hook = "type filter hook forward priority filter - 10; policy accept;"
    chain = NftChain("leave", hook, rules, "until the agent's tables stand no pod leaves")
    return replace_script(NftTable(f"inet {GUARD}", tuple(sets), (chain,)))


def guard_unit() -> str:
    """Return the systemd unit that loads the script: before the kubelet, which does not start without it, and not when
    the agent's tables are there.
    """
    return f"""\
[Unit]
Description=Keep pods' traffic in until the egress IP agent's tables stand
DefaultDependencies=no
After=local-fs.target nftables.service
Wants=network-pre.target
Before=network-pre.target kubelet.service crio.service containerd.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecCondition=/bin/sh -c '! nft list table inet egress_node >/dev/null 2>&1'
ExecStart=/usr/sbin/nft -f {GUARD_FILE}

[Install]
WantedBy=multi-user.target
RequiredBy=kubelet.service
"""
