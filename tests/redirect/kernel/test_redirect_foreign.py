"""What others have put into the pod's network survives: rules, tables, routes and counters, byte for byte."""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
from pathlib import Path

import pytest

from egress_router.redirect.iptables_rules import PREFIX
from lab import Host, Lab
from tests.redirect.kernel.router import SOURCE4, SOURCE6, Router

pytestmark = pytest.mark.root

RULES = "80 tcp 203.0.113.25\n443 tcp 2001:db8:113::25\n"
OTHER_RULES = "80 tcp 203.0.113.25\n443 tcp 2001:db8:113::25\n8000-9000 udp 203.0.113.25\n203.0.113.26\n"

#: One rule of many kinds in every table, counters that are not zero, an own chain, and other policies than ACCEPT.
IPTABLES = """
*raw
:PREROUTING ACCEPT [11:1100]
:OUTPUT ACCEPT [12:1200]
[1:100] -A PREROUTING -i lo -p udp -m udp --dport 9 -j CT --notrack
COMMIT
*mangle
:PREROUTING ACCEPT [21:2100]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [22:2200]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:mine - [0:0]
[2:200] -A PREROUTING -i nowhere -j mine
[3:300] -A mine -p tcp -m tcp --dport 9 -m comment --comment "somebody else's; EGRESSR-" -j MARK --set-xmark 0x1/0xff
[4:400] -A FORWARD -o nowhere -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1000
COMMIT
*nat
:PREROUTING ACCEPT [31:3100]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:mesh - [0:0]
[5:500] -A PREROUTING -p tcp -m tcp --dport 15001 -j mesh
[6:600] -A mesh -p tcp -j REDIRECT --to-ports 15006
[7:700] -A OUTPUT -d {server} -p tcp -m tcp --dport 9 -m owner --uid-owner 1337 -j RETURN
COMMIT
*filter
:INPUT ACCEPT [41:4100]
:FORWARD DROP [42:4200]
:OUTPUT ACCEPT [43:4300]
:EGRESS-mine - [0:0]
[8:800] -A INPUT -p tcp -m multiport --dports 9,10 -j EGRESS-mine
[9:900] -A EGRESS-mine -m conntrack --ctstate INVALID -j DROP
[10:1000] -A OUTPUT -p udp -m udp --dport 9 -m limit --limit 5/min -j REJECT
COMMIT
"""
NFT = """
table inet foreign {
    counter seen { packets 5 bytes 500 }
    set ports { type inet_service; flags interval; elements = { 9, 20-30 } }
    map ways { type inet_service : verdict; elements = { 9 : drop } }
    chain incoming {
        type filter hook input priority -5; policy accept;
        tcp dport @ports counter packets 7 bytes 700 accept comment "inet egress_router"
        tcp dport vmap @ways
    }
}
table ip egress_router {
    chain forward {
        type filter hook forward priority 5; policy accept;
        ip daddr 203.0.113.99 counter packets 3 bytes 30
    }
}
table netdev egress { chain nothing { }; }
"""
ROUTES = [
    "route add 203.0.113.192/26 via {gateway4} dev eth0 onlink metric 7 mtu 1400",
    "-6 route add 2001:db8:113:9::/64 via {gateway6} dev eth0 onlink metric 7",
    "route add blackhole 203.0.113.128/32",
    "route add 203.0.113.129/32 dev lo table 100",
    "route add 203.0.113.130/32 dev lo table 14602",
    "-6 route add 2001:db8:113::130/128 dev lo table 100",
    "rule add from 203.0.113.129 lookup 100 pref 14599",
    "rule add fwmark 0x14600 to 203.0.113.129 lookup 100 pref 14610",
    "-6 rule add from 2001:db8:113::129 lookup 100 pref 100",
]


def foreign(pod: Host) -> list[str]:
    """Everything that is not ours, counters included."""
    found = []
    for save in ("iptables-legacy-save", "ip6tables-legacy-save"):
        lines = pod.run([save, "-c"]).stdout.splitlines()
        # A chain of ours, a rule in it, or a jump to it; comments hold the time.
        ours = re.compile(rf"^#|^:{PREFIX}|-A {PREFIX}| -j {PREFIX}")
        # Packets that no rule ended are counted at the policy; there are always some.
        found += [re.sub(r"^(:.*) \[.*", r"\1", line) for line in lines if not ours.search(line)]
    found += re.sub(
        r"table inet egress_router \{\n.*?^}\n", "", pod.run(["nft", "list", "ruleset"]).stdout, flags=re.S | re.M
    ).splitlines()
    for family in ("-4", "-6"):
        found += [line for line in pod.ip(f"{family} rule").splitlines() if "proto 146" not in line]
        found += [line for line in pod.ip(f"{family} route show table all").splitlines() if "proto 146" not in line]
    return found


def difference(before: list[str], after: list[str]) -> list[str]:
    return [f"- {line}" for line in before if line not in after] + [f"+ {line}" for line in after if line not in before]


#: What the kernel adds for the new address and with IPv6 forwarding, and the defaults that ours takes the place of.
EXPECTED = re.compile(
    r"^[+] (local|multicast) .* dev macvlan0 |^[+] anycast |^[+] 2001:db8:2::46 dev macvlan0 proto kernel"
    r"|^- default .* dev eth0"
)


def test_what_others_made_survives(lab: Lab, backend: str) -> None:
    lab.echo("203.0.113.25", tcp=[80])
    lab.echo("2001:db8:113::25", tcp=[443])
    router = Router(lab, backend, rules=RULES)
    pod = router.host
    for command, server in (
        ("iptables-legacy-restore", "203.0.113.99/32"),
        ("ip6tables-legacy-restore", "2001:db8:113::99/128"),
    ):
        pod.run([command, "-c"], input=IPTABLES.replace("{server}", server))
    pod.nft(NFT)
    gateways = {
        f"gateway{family}": re.search(r"via (\S+)", pod.ip(f"-{family} route show default"))[1]  # type: ignore[index]
        for family in (4, 6)
    }
    for line in ROUTES:
        pod.ip(line.format(**gateways))
    before = foreign(pod)
    assert any("203.0.113.99" in line for line in before)
    assert any("2001:db8:113:9::/64" in line for line in before)
    assert foreign(pod) == before  # positive control: nothing counts by itself

    router.init()
    first = foreign(pod)
    assert [line for line in difference(before, first) if not EXPECTED.search(line)] == []
    router.init()
    assert foreign(pod) == first
    router.init(EGRESS_DESTINATION=OTHER_RULES)
    assert foreign(pod) == first
    router.init()
    assert foreign(pod) == first

    # And ours works beside it.
    if backend == "nftables":
        # The foreign FORWARD policy is not ours to change.
        for command in ("iptables-legacy", "ip6tables-legacy"):
            pod.run([command, "-P", "FORWARD", "ACCEPT"])
    assert router.tcp(80).startswith(SOURCE4)
    assert router.tcp(443, 6).startswith(SOURCE6)


def test_others_may_change_the_tables_at_the_same_time(lab: Lab) -> None:
    """No rule of theirs is lost, none of their calls fails, and neither does ours."""
    router = Router(lab, "iptables", rules=RULES)
    pod, count = router.host, 150
    append = "iptables-legacy -w 5 -A INPUT -p tcp -m tcp --dport $i -j RETURN"
    script = f"i=1000; while [ $i -lt {1000 + count} ]; do {append} || exit 1; i=$((i + 1)); done"
    other = pod.popen(["sh", "-c", script])
    rules, runs = (RULES, OTHER_RULES), 0
    while other.poll() is None or runs < 2:
        router.init(EGRESS_DESTINATION=rules[runs % 2])
        runs += 1
    assert other.returncode == 0
    saved = pod.run(["iptables-legacy-save", "-t", "filter"]).stdout
    assert len(re.findall(r"^-A INPUT -p tcp -m tcp --dport 1\d{3} -j RETURN$", saved, flags=re.M)) == count


def test_the_lock_of_iptables_is_waited_for(lab: Lab, tmp_path: Path) -> None:
    router = Router(lab, "iptables", rules=RULES)
    command = [sys.executable, "-m", "egress_router", "init"]
    with (tmp_path / "xtables.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = router.host.popen(command, env={**router.env, "XTABLES_LOCKFILE": lock.name})
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(2)
    assert waiting.wait(10) == 0
