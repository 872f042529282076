"""Both backends send every connection where the configuration says, and count it by its line."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given

from egress_router.config.values import Family, Protocol
from egress_router.net.nft.listing import parse_table
from egress_router.net.nft.script import table_text
from egress_router.net.nft.values import NftTable
from egress_router.redirect.iptables_rules import PREFIX, iptables_tables
from egress_router.redirect.nft_rules import nft_table
from egress_router.redirect.values import Ruleset, Translation
from tests.redirect.unit.walk import Walk, by_nft, by_rules, dnat_target
from tests.support.examples import examples
from tests.support.strategies import rulesets


def translation(rules: Ruleset) -> Translation:
    return Translation(
        egress="macvlan0",
        cluster="eth0",
        pod_addresses={Family.IPV4: (ip_address("10.128.0.5"),), Family.IPV6: (ip_address("2001:db8:c::5"),)},
        sources={Family.IPV4: ip_address("192.0.2.46"), Family.IPV6: ip_address("2001:db8:2::46")},
        rules=rules,
        cluster_prefixes={Family.IPV4: (ip_network("10.128.0.0/23"),), Family.IPV6: (ip_network("2001:db8:c::/64"),)},
    )


def interesting_ports(rules: Ruleset) -> list[int]:
    ports = {1, 65535}
    for rule in rules.redirects:
        ports |= {rule.ports.first - 1, rule.ports.first, rule.ports.last, rule.ports.last + 1}
    return sorted(ports & set(range(1, 65536)))


@examples(12)
@given(rulesets(max_size=10, widest_shift=50))
def test_every_port_goes_where_the_rules_say(rules: Ruleset) -> None:
    desired = translation(rules)
    nft = nft_table(desired)
    for family in Family:
        nat = iptables_tables(desired, family)[2]
        mangle = iptables_tables(desired, family)[1]
        top = nat.chains.get(f"{PREFIX}PREROUTING", ())
        for protocol in Protocol:
            for port in interesting_ports(rules):
                expected = by_rules(rules, family, protocol, port)
                assert by_nft(nft, family, protocol, port) == expected
                walk = Walk(nat.chains, str(protocol), port)
                walk.run(top)
                assert len(walk.leaves) == (expected is not None)
                assert [dnat_target(leaf, port) for leaf in walk.leaves] == ([expected] if expected else [])
                owner = [
                    r.line for r in rules.redirects if (r.family, r.protocol) == (family, protocol) and port in r.ports
                ]
                count = Walk(mangle.chains, str(protocol), port)
                assert not count.run(mangle.chains.get(f"{PREFIX}COUNT", ()))
                assert [leaf.line for leaf in count.leaves] == owner


@examples(12)
@given(rulesets(max_size=6, widest_shift=20))
def test_nft_text_is_read_back_as_the_same_table(rules: Ruleset) -> None:
    table: NftTable = nft_table(translation(rules))
    assert parse_table(table_text(table)) == table


def test_read_as_nft_lists_it() -> None:
    """`nft -s list table` breaks long element lists and shows the counters that elements inherit."""
    listing = """\
table inet egress_router {
	map redirect4_tcp {
		type inet_service : ipv4_addr
		flags interval
		counter
		elements = { 8000-8010 counter : 203.0.113.26,
			     9000-9010 counter : 203.0.113.27 }
	}

	set lines4_tcp {
		type inet_service
		flags interval
		counter
		elements = { 80 counter, 8000-8010 counter }
	}

	set empty {
		type ipv4_addr
	}

	chain guard {
		type filter hook postrouting priority srcnat + 10; policy accept;
		oifname "macvlan0" ip saddr != 192.0.2.46 counter drop
	}

	chain count4 {
	}
}
"""  # noqa: E101
    table = parse_table(listing)
    assert table.name == "inet egress_router"
    assert [(item.kind, item.name, item.header) for item in table.sets] == [
        ("map", "redirect4_tcp", ("type inet_service : ipv4_addr", "flags interval", "counter")),
        ("set", "lines4_tcp", ("type inet_service", "flags interval", "counter")),
        ("set", "empty", ("type ipv4_addr",)),
    ]
    assert [item.elements for item in table.sets] == [
        {"8000-8010": "203.0.113.26", "9000-9010": "203.0.113.27"},
        {"80": None, "8000-8010": None},
        {},
    ]
    assert [(chain.name, chain.hook is None, chain.rules) for chain in table.chains] == [
        ("guard", False, ('oifname "macvlan0" ip saddr != 192.0.2.46 counter drop',)),
        ("count4", True, ()),
    ]
