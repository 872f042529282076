"""What a node does when it shuts down, without an agent, which may have ended before: nothing answers for its egress
IPs any more, and to others it is down. See systemd.unit(5), nft(8).

A kernel that is on its way down, for seconds or, when something hangs, for hours, goes on answering ARP for the egress
IPs, pings and the tunnel. As long as it does, other nodes lead pods there, its addresses go to nobody else, and whoever
has asked for one of them keeps the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from ipaddress import IPv6Address
from pathlib import Path

from egress_router.config.files import read_regular
from egress_router.egressip.node.nft_rules import ND_TARGET
from egress_router.errors import TryAgainError
from egress_router.net.nft.script import remove_script, replace_script
from egress_router.net.nft.values import NftChain, NftSet, NftTable
from egress_router.net.process import run_tool

LEAVE = "egress_leave"
_MOST_BYTES = 1 << 24
#: Stands in the place of the control socket's suffix.
LEAVE_SUFFIX = ".leave.nft"
#: What is in the way while it is loaded.
PROBLEM = (
    f"this node leaves: table inet {LEAVE} is loaded, so nothing answers for its egress IPs, and other nodes take it "
    "for down; `systemctl start egress-router-leave`, or a boot, ends that"
)


def leave_script(host_ip: str, ips: Collection[str]) -> str:
    """Return the script for nft: no answers for the egress IPs ``ips`` by ARP and neighbour discovery, no ARP request
    that names one of them as its sender, and no answer to pings of ``host_ip``, straight or through the tunnel, by
    which agents and controllers tell who is up.
    """
    fours = dict.fromkeys(sorted(ip for ip in ips if ":" not in ip))
    sixes = dict.fromkeys(sorted(ip for ip in ips if ":" in ip))
    targets: dict[str, str | None] = {f"0x{int(IPv6Address(ip)):032x}": None for ip in sixes}
    echo = (
        f"ip6 daddr {host_ip} icmpv6 type echo-request drop"
        if ":" in host_ip
        else f"ip daddr {host_ip} icmp type echo-request drop"
    )
    inet = NftTable(
        f"inet {LEAVE}",
        (
            NftSet("set", "egress_ips6", ("type ipv6_addr",), sixes, "egress IPs"),
            NftSet("set", "nd_targets", (f"typeof {ND_TARGET}",), targets, "the same as targets of solicitations"),
        ),
        (
            NftChain(
                "input",
                "type filter hook input priority filter - 10; policy accept;",
                (f"icmpv6 type nd-neighbor-solicit {ND_TARGET} @nd_targets drop", echo),
                "egress IPs are not answered for, and this node looks down",
            ),
            NftChain(
                "output",
                "type filter hook output priority filter - 10; policy accept;",
                ("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 saddr @egress_ips6 drop",),
                "nor called here by a question of ours",
            ),
        ),
    )
    arp = NftTable(
        f"arp {LEAVE}",
        (NftSet("set", "egress_ips4", ("type ipv4_addr",), fours, "egress IPs"),),
        (
            NftChain(
                "input",
                "type filter hook input priority filter - 10; policy accept;",
                ("arp daddr ip @egress_ips4 drop",),
                "egress IPs are not answered for",
            ),
            NftChain(
                "output",
                "type filter hook output priority filter - 10; policy accept;",
                ("arp saddr ip @egress_ips4 drop",),
                "nor called here by a question of ours",
            ),
        ),
    )
    return replace_script(inet) + replace_script(arp)


def leaves() -> bool:
    """Return whether the script is loaded. Raises ToolFailed."""
    return f"table inet {LEAVE}" in run_tool(["nft", "list", "tables"]).splitlines()


def kept_script(socket: Path) -> str:
    """Return the script that the agent with that control socket keeps. Raises TryAgainError when there is none."""
    path = socket.with_suffix(LEAVE_SUFFIX)
    try:
        return read_regular(path, _MOST_BYTES).decode()
    except OSError as error:
        raise TryAgainError(f"there is no script {path}: {error.strerror}; an agent of this node writes it") from error


def leave_unit(socket: Path) -> str:
    """Return the systemd unit that loads the script of the agent with that control socket at a shutdown: before
    containers, the kubelet and the network stop. Started again, it takes all back.
    """
    script = socket.with_suffix(LEAVE_SUFFIX)
    remove = f"{remove_script(f'inet {LEAVE}')}{remove_script(f'arp {LEAVE}')}".replace("\n", "; ")
    return f"""\
[Unit]
Description=Leave the egress IPs to other nodes at a shutdown
# Stopped in the opposite order, so before any of these.
After=network.target kubelet.service crio.service containerd.service docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft '{remove.rstrip("; ")}'
ExecStop=/bin/sh -c '[ ! -e {script} ] || exec /usr/sbin/nft -f {script}'
TimeoutStopSec=10

[Install]
WantedBy=multi-user.target
"""


class LeaveFile:
    """The script, kept with the addresses of now, for whoever shuts the node down."""

    def __init__(self, socket: Path, host_ip: str, log: Callable[[str], None]) -> None:
        self._path = socket.with_suffix(LEAVE_SUFFIX)
        self._host_ip = host_ip
        self._log = log
        self._written = ""

    def keep(self, ips: Collection[str]) -> None:
        """Write the script for these addresses unless it is written. What fails is logged, and tried again at the next
        call.
        """
        script = leave_script(self._host_ip, ips)
        if script == self._written:
            return
        try:
            hidden = self._path.with_name(f".{self._path.name}.new")
            hidden.write_text(script)
            hidden.replace(self._path)
            self._written = script
        except OSError as error:
            self._log(f"a shutdown of this node will go on answering for egress IPs: {self._path}: {error.strerror}")
