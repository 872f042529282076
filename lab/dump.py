"""Everything the kernel knows about a host's network, as text for a test that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.host import Host

#: iptables-save is asked only where legacy iptables is in use, since asking would load its modules.
SCRIPT = """
show() { echo "--- $*"; "$@" 2>&1; }
show ip -d addr
show ip -4 rule
show ip -4 route show table all
show ip -6 rule
show ip -6 route show table all
show ip neigh
show nft list ruleset
if [ -s /proc/net/ip_tables_names ]; then show iptables-legacy-save -c; fi
if [ -s /proc/net/ip6_tables_names ]; then show ip6tables-legacy-save -c; fi
show sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding
show conntrack -L
show conntrack -L -f ipv6
show ss -tuanp
"""


def dump(host: Host) -> str:
    """Return the state of one host as text; never raises because a tool is missing or fails."""
    result = host.run(["sh", "-c", SCRIPT], check=False, timeout=20)
    return f"===== {host.name} ({host.netns})\n{result.stdout}{result.stderr}"
