"""The router's variables: defaults, choices, and every problem with the text that says so."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.inputs import ROUTER, Inputs, Problems
from egress_router.config.settings import EXPECTED_SOURCE
from egress_router.config.values import Family, family_of
from egress_router.errors import Problem
from egress_router.net.rtnetlink.values import MacvlanMode
from egress_router.redirect.config import parse_router
from egress_router.redirect.values import Backend, Fallback, Mode, RouterConfig, Ruleset
from tests.support.strategies import ADDRESSES, ANY_TEXT, NUMBERS, TEXTS

BASE = {"EGRESS_SOURCE": "192.0.2.46", "EGRESS_GATEWAY": "192.0.2.1", "EGRESS_DESTINATION": "203.0.113.27"}
DUAL = {**BASE, "EGRESS_SOURCE": "192.0.2.46/24,2001:db8:2::46/64", "EGRESS_GATEWAY": "192.0.2.1 2001:db8:2::1"}
EXPECTED_GATEWAY = "an address such as 192.0.2.1, one per family of EGRESS_SOURCE"


def parse(**env: str | None) -> tuple[RouterConfig | None, Problems]:
    problems = Problems()
    wanted = {key: value for key, value in {**BASE, **env}.items() if value is not None}
    return parse_router(Inputs(wanted), problems), problems


def parsed(**env: str | None) -> RouterConfig:
    config, problems = parse(**env)
    assert config is not None, [str(problem) for problem in problems.errors]
    assert problems.errors == []
    return config


def texts(found: list[Problem]) -> list[str]:
    return [str(problem) for problem in found]


def errors(**env: str | None) -> list[str]:
    config, problems = parse(**env)
    assert config is None
    return texts(problems.errors)


def test_defaults() -> None:
    assert parsed() == RouterConfig(
        mode=Mode.LEGACY,
        sources={Family.IPV4: ip_interface("192.0.2.46/32")},
        gateways={Family.IPV4: ip_address("192.0.2.1")},
        rules=Ruleset((), (Fallback(1, ip_address("203.0.113.27")),)),
        backend=Backend.AUTO,
        interface=None,
        parent_interface=None,
        host_netns=None,
        macvlan_mode=MacvlanMode.BRIDGE,
        cluster_cidrs=(),
        dad=True,
    )


def test_everything_set() -> None:
    config = parsed(
        EGRESS_ROUTER_MODE=" Init ",
        EGRESS_NAT_BACKEND="NFTables",
        EGRESS_INTERFACE=" net1 ",
        EGRESS_PARENT_INTERFACE="bond0.100",
        EGRESS_HOST_NETNS="/host/ns/net",
        EGRESS_MACVLAN_MODE="private",
        EGRESS_CLUSTER_CIDRS="10.128.0.0/14, 172.30.0.0/16\n2001:db8:c::/48 10.128.0.0/14",
        EGRESS_DAD="Off",
    )
    assert config.mode is Mode.INIT
    assert config.backend is Backend.NFTABLES
    assert (config.interface, config.parent_interface, config.host_netns) == ("net1", "bond0.100", "/host/ns/net")
    assert config.macvlan_mode is MacvlanMode.PRIVATE
    assert config.cluster_cidrs == tuple(map(ip_network, ("10.128.0.0/14", "172.30.0.0/16", "2001:db8:c::/48")))
    assert config.dad is False


@pytest.mark.parametrize("separator", [" ", ",", ", ", "\n", "\t", " ,\r\n"])
def test_both_families(separator: str) -> None:
    source = f"192.0.2.46/24{separator}2001:db8:2::46/64"
    config = parsed(EGRESS_SOURCE=source, EGRESS_GATEWAY=f"2001:db8:2::1{separator}192.0.2.1")
    assert config.sources == {
        Family.IPV4: ip_interface("192.0.2.46/24"),
        Family.IPV6: ip_interface("2001:db8:2::46/64"),
    }
    assert config.gateways == {Family.IPV4: ip_address("192.0.2.1"), Family.IPV6: ip_address("2001:db8:2::1")}


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (None, f"is not set ({EXPECTED_SOURCE})"),
        (" ", f"is not set ({EXPECTED_SOURCE})"),
        (",", f'"," has no address ({EXPECTED_SOURCE})'),
        ("999.1.1.1", f'"999.1.1.1" is not an IP address ({EXPECTED_SOURCE})'),
        ("192.0.2.46/33", f'"192.0.2.46/33": "/33" is not a prefix length from /1 to /32 ({EXPECTED_SOURCE})'),
        ("192.0.2.46/0", f'"192.0.2.46/0": "/0" is not a prefix length from /1 to /32 ({EXPECTED_SOURCE})'),
        ("224.0.0.5", f'"224.0.0.5" cannot be a source: it is a multicast address ({EXPECTED_SOURCE})'),
        ("127.0.0.1/8", f'"127.0.0.1/8": "127.0.0.1" cannot be a source: it is a loopback address ({EXPECTED_SOURCE})'),
        ("0.0.0.0", f'"0.0.0.0" cannot be a source: it is the unspecified address ({EXPECTED_SOURCE})'),
        ("255.255.255.255", f'"255.255.255.255" cannot be a source: it is the broadcast address ({EXPECTED_SOURCE})'),
        ("::", f'"::" cannot be a source: it is the unspecified address ({EXPECTED_SOURCE})'),
        ("ff02::1", f'"ff02::1" cannot be a source: it is a multicast address ({EXPECTED_SOURCE})'),
        ("fe80::46", f'"fe80::46" cannot be a source: it is link-local ({EXPECTED_SOURCE})'),
        (
            "192.0.2.0/24",
            (
                '"192.0.2.0/24": "192.0.2.0" is the address of the network 192.0.2.0/24, not of a host '
                f"({EXPECTED_SOURCE})"
            ),
        ),
        (
            "192.0.2.255/24",
            f'"192.0.2.255/24": "192.0.2.255" is the broadcast address of 192.0.2.0/24 ({EXPECTED_SOURCE})',
        ),
        ("192.0.2.46 192.0.2.46", '"192.0.2.46 192.0.2.46" has two IPv4 addresses (one of each family)'),
        ("192.0.2.46 x", f'"192.0.2.46 x": "x" is not an IP address ({EXPECTED_SOURCE})'),
    ],
)
def test_unusable_source(source: str | None, problem: str) -> None:
    assert errors(EGRESS_SOURCE=source) == [f"EGRESS_SOURCE: {problem}"]


@pytest.mark.parametrize("source", ["192.0.2.0/31", "192.0.2.0/32", "192.0.2.0", "192.0.2.255/23", "192.0.2.3/31"])
def test_source_at_the_end_of_a_short_network(source: str) -> None:
    assert parsed(EGRESS_SOURCE=source, EGRESS_GATEWAY="192.0.2.9").sources == {Family.IPV4: ip_interface(source)}


@pytest.mark.parametrize(
    ("gateway", "problem"),
    [
        (None, f"is not set ({EXPECTED_GATEWAY})"),
        (", ,", f'", ," has no address ({EXPECTED_GATEWAY})'),
        ("192.0.2.1/24", f'"192.0.2.1/24" is not an IP address ({EXPECTED_GATEWAY})'),
        ("gw.example.com", f'"gw.example.com" is not an IP address ({EXPECTED_GATEWAY})'),
        ("192.0.2.46", f'"192.0.2.46" is EGRESS_SOURCE itself ({EXPECTED_GATEWAY})'),
        ("0.0.0.0", f'"0.0.0.0" cannot be a gateway: it is the unspecified address ({EXPECTED_GATEWAY})'),
        ("224.0.0.1", f'"224.0.0.1" cannot be a gateway: it is a multicast address ({EXPECTED_GATEWAY})'),
        ("127.0.0.1", f'"127.0.0.1" cannot be a gateway: it is a loopback address ({EXPECTED_GATEWAY})'),
        (
            "192.0.2.1 2001:db8::1",
            f'"192.0.2.1 2001:db8::1" has an IPv6 address, but EGRESS_SOURCE has none ({EXPECTED_GATEWAY})',
        ),
        ("192.0.2.1 192.0.2.2", '"192.0.2.1 192.0.2.2" has two IPv4 addresses (one of each family)'),
    ],
)
def test_unusable_gateway(gateway: str | None, problem: str) -> None:
    assert errors(EGRESS_GATEWAY=gateway) == [f"EGRESS_GATEWAY: {problem}"]


@pytest.mark.parametrize(
    ("gateway", "problem"),
    [
        ("192.0.2.0", '"192.0.2.0" is the address of the network 192.0.2.0/24, not of a host'),
        ("192.0.2.255", '"192.0.2.255" is the broadcast address of 192.0.2.0/24'),
    ],
)
def test_gateway_that_is_no_host_of_the_network(gateway: str, problem: str) -> None:
    """The kernel would refuse it half-way (fib_check_nh: only unicast gateways)."""
    found = errors(EGRESS_SOURCE="192.0.2.46/24", EGRESS_GATEWAY=gateway)
    assert found == [f"EGRESS_GATEWAY: {problem} ({EXPECTED_GATEWAY})"]


def test_gateway_of_one_family_is_missing() -> None:
    assert errors(**{**DUAL, "EGRESS_GATEWAY": "192.0.2.1"}) == [
        f'EGRESS_GATEWAY: "192.0.2.1" has no IPv6 address, but EGRESS_SOURCE has one ({EXPECTED_GATEWAY})'
    ]


def test_gateway_outside_of_the_network_is_a_warning() -> None:
    config, problems = parse(EGRESS_SOURCE="192.0.2.46/28", EGRESS_GATEWAY="192.0.2.1")
    assert config is not None
    assert texts(problems.warnings) == [
        'EGRESS_GATEWAY: "192.0.2.1" is outside of EGRESS_SOURCE\'s network 192.0.2.32/28'
    ]


@pytest.mark.parametrize(
    ("source", "gateway"),
    [("192.0.2.46/24", "192.0.2.1"), ("192.0.2.46", "198.51.100.1"), ("2001:db8:2::46/64", "fe80::1")],
)
def test_no_warning_for_what_is_usual(source: str, gateway: str) -> None:
    destination = "2001:db8:113::27" if ":" in source else "203.0.113.27"
    _, problems = parse(EGRESS_SOURCE=source, EGRESS_GATEWAY=gateway, EGRESS_DESTINATION=destination)
    assert texts(problems.errors + problems.warnings) == []


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("EGRESS_ROUTER_MODE", "proxy", '"proxy" is not known (one of init, legacy, http-proxy, dns-proxy)'),
        ("EGRESS_NAT_BACKEND", "nft", '"nft" is not known (one of auto, iptables, nftables)'),
        ("EGRESS_MACVLAN_MODE", "source", '"source" is not known (one of private, vepa, bridge, passthru)'),
        ("EGRESS_DAD", "no", '"no" is not known (on or off)'),
        ("EGRESS_INTERFACE", "eth*", '"eth*" is not an interface name (1 to 15 letters, digits and _ . - @)'),
        ("EGRESS_PARENT_INTERFACE", "a b", '"a b" is not an interface name (1 to 15 letters, digits and _ . - @)'),
        ("EGRESS_HOST_NETNS", "proc/1", '"proc/1" is not an absolute path (such as /proc/1/ns/net)'),
        (
            "EGRESS_CLUSTER_CIDRS",
            "10.128.0.0/14 10.1.2.3/14",
            (
                '"10.128.0.0/14 10.1.2.3/14": "10.1.2.3/14" has bits set behind its prefix; write 10.0.0.0/14 '
                "(prefixes such as 10.128.0.0/14)"
            ),
        ),
        ("EGRESS_CLUSTER_CIDRS", "0.0.0.0/0", '"0.0.0.0/0" is everything (the cluster\'s prefixes)'),
        ("EGRESS_CLUSTER_CIDRS", "::/0", '"::/0" is everything (the cluster\'s prefixes)'),
        (
            "EGRESS_CLUSTER_CIDRS",
            "192.0.2.1",
            (
                '"192.0.2.1": "192.0.2.1/32" is on the egress side, by EGRESS_SOURCE or EGRESS_GATEWAY '
                "(the cluster's prefixes)"
            ),
        ),
    ],
)
def test_bad_choice(variable: str, value: str, problem: str) -> None:
    assert errors(**{variable: value}) == [f"{variable}: {problem}"]


def test_the_egress_network_is_no_cluster_prefix() -> None:
    assert len(errors(**DUAL, EGRESS_CLUSTER_CIDRS="192.0.2.0/24 2001:db8:2::/64")) == 2
    assert parsed(**DUAL, EGRESS_CLUSTER_CIDRS="192.0.0.0/16").cluster_cidrs == (ip_network("192.0.0.0/16"),)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("destination", [None, "", "# nothing\n"])
def test_rules_are_needed_where_they_are_used(mode: Mode, destination: str | None) -> None:
    if mode.redirects:
        found = errors(EGRESS_ROUTER_MODE=mode, EGRESS_DESTINATION=destination)
        assert [text.partition(" (")[0] for text in found] == [
            f"EGRESS_DESTINATION: {'is not set' if destination is None else 'has no rule'}"
        ]
    else:
        assert parsed(EGRESS_ROUTER_MODE=mode, EGRESS_DESTINATION=destination).rules == Ruleset()


@pytest.mark.parametrize("text", ["20", "20s"])
@pytest.mark.parametrize("mode", ["init", "legacy"])
def test_a_successor_is_waited_for(mode: str, text: str) -> None:
    assert parsed(EGRESS_ROUTER_MODE=mode, EGRESS_HANDOVER=text).handover == 20
    assert parsed(EGRESS_ROUTER_MODE=mode, EGRESS_HANDOVER="0", EGRESS_DAD="off").handover == 0


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        ({"EGRESS_ROUTER_MODE": "http-proxy", "EGRESS_DESTINATION": None}, "is for a redirect router"),
        ({"EGRESS_ROUTER_MODE": "dns-proxy", "EGRESS_DESTINATION": None}, "is for a redirect router"),
        ({"EGRESS_ROUTER_MODE": "legacy", "EGRESS_PAIR": "46"}, "is for a router without EGRESS_PAIR"),
        ({"EGRESS_DAD": "off"}, "needs EGRESS_DAD=on: two routers would have the address at once"),
    ],
)
def test_a_successor_that_nobody_would_hear(env: dict[str, str | None], problem: str) -> None:
    (found,) = errors(EGRESS_HANDOVER="20", **env)
    assert "EGRESS_HANDOVER" in found
    assert problem in found


def test_unknown_mode_makes_no_other_problem() -> None:
    """Whether rules are needed is not known then."""
    assert len(errors(EGRESS_ROUTER_MODE="htp-proxy", EGRESS_DESTINATION=None)) == 1


def test_bad_source_makes_no_other_problem() -> None:
    found = errors(EGRESS_SOURCE="192.0.2.46 2001:db8:2::x", EGRESS_DESTINATION="80 tcp 2001:db8::1\n203.0.113.1")
    assert [text.partition(":")[0] for text in found] == ["EGRESS_SOURCE"]


@pytest.mark.parametrize("mode", [Mode.HTTP_PROXY, Mode.DNS_PROXY])
def test_rules_that_nobody_uses_are_checked_and_warned_of(mode: Mode) -> None:
    _, problems = parse(EGRESS_ROUTER_MODE=mode)
    assert texts(problems.warnings) == [f"EGRESS_DESTINATION: is not used with EGRESS_ROUTER_MODE={mode}"]
    assert len(errors(EGRESS_ROUTER_MODE=mode, EGRESS_DESTINATION="0 tcp 203.0.113.1")) == 1


def test_all_problems_at_once() -> None:
    found = errors(
        EGRESS_SOURCE="192.0.2.46/33",
        EGRESS_GATEWAY="999.1.1.1",
        EGRESS_DESTINATION="80 tcp 203.0.113.1\n80 tcp 203.0.113.2\n0443 tcp x:\n",
        EGRESS_ROUTER_MODE="x",
        EGRESS_NAT_BACKEND="x",
        EGRESS_INTERFACE="/",
        EGRESS_PARENT_INTERFACE="/",
        EGRESS_HOST_NETNS="x",
        EGRESS_MACVLAN_MODE="x",
        EGRESS_CLUSTER_CIDRS="x",
        EGRESS_DAD="x",
    )
    assert sorted(text.partition(":")[0] for text in found) == [
        "EGRESS_CLUSTER_CIDRS",
        "EGRESS_DAD",
        "EGRESS_DESTINATION line 2",
        "EGRESS_DESTINATION line 3",
        "EGRESS_DESTINATION line 3",
        "EGRESS_GATEWAY",
        "EGRESS_HOST_NETNS",
        "EGRESS_INTERFACE",
        "EGRESS_MACVLAN_MODE",
        "EGRESS_NAT_BACKEND",
        "EGRESS_PARENT_INTERFACE",
        "EGRESS_ROUTER_MODE",
        "EGRESS_SOURCE",
    ]


ENVS = st.fixed_dictionaries(
    {},
    optional={
        **{name: ANY_TEXT for name in ROUTER if not name.endswith("_FILE")},
        "EGRESS_SOURCE": st.lists(st.one_of(ADDRESSES, st.tuples(ADDRESSES, NUMBERS).map("/".join)), max_size=3).map(
            ",".join
        ),
        "EGRESS_GATEWAY": st.one_of(
            st.lists(ADDRESSES, max_size=3).map(" ".join), st.sampled_from(["192.0.2.1", "2001:db8:2::1", ","])
        ),
        "EGRESS_DESTINATION": TEXTS,
        "EGRESS_CLUSTER_CIDRS": st.one_of(ANY_TEXT, st.tuples(ADDRESSES, NUMBERS).map("/".join)),
    },
)


@given(ENVS)
def test_no_environment_makes_a_traceback_and_what_is_accepted_is_sound(env: dict[str, str]) -> None:
    problems = Problems()
    config = parse_router(Inputs(env), problems)
    assert all(str(problem).isprintable() for problem in problems.errors + problems.warnings)
    assert (config is None) == bool(problems.errors)
    if config is not None:
        assert config.sources
        assert config.sources.keys() == config.gateways.keys()
        addresses = [r.address for r in config.rules.redirects] + [f.address for f in config.rules.fallbacks]
        assert {family_of(address) for address in addresses} <= config.sources.keys()
        assert config.mode is Mode.LEGACY or not config.rules.names
