"""Redirect rules: every form that is read, every rule that is refused, with the text that says so."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.inputs import Inputs, Problems, SourceText
from egress_router.config.values import Family, HostName, Interface, PortRange, Protocol
from egress_router.redirect.destinations import (
    EXPECTED_ADDRESS,
    EXPECTED_DESTINATION,
    EXPECTED_HOST,
    EXPECTED_LINE,
    EXPECTED_RUN,
    parse_rules,
)
from egress_router.redirect.values import Fallback, NamedFallback, NamedRedirect, Redirect, Ruleset
from tests.support.examples import examples
from tests.support.strategies import TEXTS, numberless, rulesets

SOURCES: dict[Family, Interface] = {
    Family.IPV4: ip_interface("192.0.2.46/24"),
    Family.IPV6: ip_interface("2001:db8:2::46/64"),
}
NOBODY = "is a name: nobody looks it up again once the router is set up"
OCTAL = "a part has a leading zero, which some programs read as octal"
EXPECTED_RANGE = "a number from 1 to 65535 without leading zeros, or two of them as FIRST-LAST"


def parse(
    text: str, sources: dict[Family, Interface] | None = None, *, required: bool = True, names: bool = False
) -> tuple[Ruleset, list[str]]:
    problems = Problems()
    inputs = Inputs({"EGRESS_DESTINATION": text})
    rules = parse_rules(inputs, SOURCES if sources is None else sources, problems, required=required, names=names)
    return rules, [str(problem).removeprefix("EGRESS_DESTINATION ") for problem in problems.errors]


def redirect(line: int, protocol: Protocol, ports: str, address: str, to_ports: str | None = None) -> Redirect:
    def range_of(text: str) -> PortRange:
        first, _, last = text.partition("-")
        return PortRange(int(first), int(last or first))

    return Redirect(line, protocol, range_of(ports), ip_address(address), range_of(to_ports or ports))


def test_every_form() -> None:
    text = (
        "80 tcp 203.0.113.25            # same port there\n"
        "8080\ttcp\t203.0.113.26\t80\r\n"
        "\r\n"
        "# 1 tcp 203.0.113.1\n"
        "53 UDP 203.0.113.27\n"
        "53 Tcp 203.0.113.27\n"
        "8000-8010 tcp 203.0.113.26\n"
        "  9000-9010 tcp 203.0.113.26 7000-7010  \n"
        "443 tcp 2001:db8:113::25\n"
        "443 sctp 2001:DB8:113:0::25 444\n"
        "443 tcp 203.0.113.25 443\n"
        "203.0.113.27\n"
        "2001:db8:113::27 # the other family\n"
    )
    rules, problems = parse(text)
    assert problems == []
    assert rules.redirects == (
        redirect(1, Protocol.TCP, "80", "203.0.113.25"),
        redirect(2, Protocol.TCP, "8080", "203.0.113.26", "80"),
        redirect(5, Protocol.UDP, "53", "203.0.113.27"),
        redirect(6, Protocol.TCP, "53", "203.0.113.27"),
        redirect(7, Protocol.TCP, "8000-8010", "203.0.113.26"),
        redirect(8, Protocol.TCP, "9000-9010", "203.0.113.26", "7000-7010"),
        redirect(9, Protocol.TCP, "443", "2001:db8:113::25"),
        redirect(10, Protocol.SCTP, "443", "2001:db8:113::25", "444"),
        redirect(11, Protocol.TCP, "443", "203.0.113.25"),
    )
    assert rules.fallbacks == (
        Fallback(12, ip_address("203.0.113.27")),
        Fallback(13, ip_address("2001:db8:113::27")),
    )


@pytest.mark.parametrize("text", ["1-65535 tcp 203.0.113.1", "1 tcp 203.0.113.1 65535", "65535 tcp 203.0.113.1 1"])
def test_ends_of_the_port_space(text: str) -> None:
    assert parse(text) == parse(text, {})
    assert parse(text)[1] == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("0443 tcp 203.0.113.25", f'"0443 tcp 203.0.113.25": "0443" is not a port ({EXPECTED_RANGE})'),
        ("0 tcp 203.0.113.25", f'"0 tcp 203.0.113.25": "0" is not a port ({EXPECTED_RANGE})'),
        ("65536 tcp 203.0.113.25", f'"65536 tcp 203.0.113.25": "65536" is not a port ({EXPECTED_RANGE})'),
        (
            "18446744073709551617 tcp 203.0.113.25",
            f'"18446744073709551617 tcp 203.0.113.25": "18446744073709551617" is not a port ({EXPECTED_RANGE})',
        ),
        ("80 tcp 203.0.113.25 080", f'"80 tcp 203.0.113.25 080": "080" is not a port ({EXPECTED_RANGE})'),
        ("80 tcp 203.0.113.25 0", f'"80 tcp 203.0.113.25 0": "0" is not a port ({EXPECTED_RANGE})'),
        ("90-80 tcp 203.0.113.25", f'"90-80 tcp 203.0.113.25": "90-80" ends before it starts ({EXPECTED_RANGE})'),
        (
            "80 tcp 010.0.0.1",
            f'"80 tcp 010.0.0.1": "010.0.0.1" is not an IP address: {OCTAL} ({EXPECTED_ADDRESS})',
        ),
        ("80 tcp 999.1.1.1", f'"80 tcp 999.1.1.1": "999.1.1.1" is not an IP address ({EXPECTED_ADDRESS})'),
        (
            "80 tcp 203.0.113.0/33",
            f'"80 tcp 203.0.113.0/33": "203.0.113.0/33" is not an IP address ({EXPECTED_ADDRESS})',
        ),
        ("80 tcp example.com", f'"80 tcp example.com": "example.com" {NOBODY} ({EXPECTED_RUN})'),
        ("example.com", f'"example.com" {NOBODY} ({EXPECTED_RUN})'),
        ("80 tcp exa_mple-.com", f'"80 tcp exa_mple-.com": "exa_mple-.com" is not an IP address ({EXPECTED_ADDRESS})'),
        ("80 icmp 203.0.113.25", '"80 icmp 203.0.113.25": "icmp" is not a protocol (one of tcp, udp, sctp)'),
        ("80", f'"80" has 1 word ({EXPECTED_LINE})'),
        ("80 tcp", f'"80 tcp" has 2 words ({EXPECTED_LINE})'),
        ("80 tcp 203.0.113.25 80 80", f'"80 tcp 203.0.113.25 80 80" has 5 words ({EXPECTED_LINE})'),
        (
            "80-89 tcp 203.0.113.25 80",
            '"80-89 tcp 203.0.113.25 80" maps 10 ports to 1 (as many ports on the right as on the left)',
        ),
        (
            "80 tcp 203.0.113.25 80-81",
            '"80 tcp 203.0.113.25 80-81" maps 1 port to 2 (as many ports on the right as on the left)',
        ),
        (
            "80 tcp 224.0.0.1",
            f'"80 tcp 224.0.0.1": "224.0.0.1" cannot be a destination: it is a multicast address ({EXPECTED_HOST})',
        ),
        (
            "80 tcp ::1",
            f'"80 tcp ::1": "::1" cannot be a destination: it is a loopback address ({EXPECTED_HOST})',
        ),
        ("0.0.0.0", f'"0.0.0.0" cannot be a destination: it is the unspecified address ({EXPECTED_HOST})'),
        ("fe80::1", f'"fe80::1" cannot be a destination: it is link-local ({EXPECTED_HOST})'),
        ("192.0.2.46", f'"192.0.2.46" is EGRESS_SOURCE itself ({EXPECTED_HOST})'),
        ("80 tcp \x1b[2J", f'"80 tcp \\x1b[2J": "\\x1b[2J" is not an IP address ({EXPECTED_ADDRESS})'),
    ],
)
def test_one_bad_line(line: str, problem: str) -> None:
    rules, problems = parse(f"# first\n{line}\n")
    assert problems == [f"line 2: {problem}"]
    assert rules == Ruleset()


def test_all_problems_of_a_line_and_of_all_lines() -> None:
    _, problems = parse("0 icmp 1.2.3 65536\n80 tcp 203.0.113.25\n70000\n")
    assert [problem.partition(" (")[0] for problem in problems] == [
        'line 1: "0 icmp 1.2.3 65536": "0" is not a port',
        'line 1: "0 icmp 1.2.3 65536": "icmp" is not a protocol',
        'line 1: "0 icmp 1.2.3 65536": "1.2.3" is not an IP address',
        'line 1: "0 icmp 1.2.3 65536": "65536" is not a port',
        'line 3: "70000" is not an IP address',
    ]


def test_a_family_without_source() -> None:
    only4 = {Family.IPV4: SOURCES[Family.IPV4]}
    _, problems = parse("80 tcp 203.0.113.25\n80 tcp 2001:db8::1\n2001:db8::1", only4)
    assert [problem.partition(" (")[0] for problem in problems] == [
        'line 2: "80 tcp 2001:db8::1": "2001:db8::1" is IPv6, but EGRESS_SOURCE has no IPv6 address',
        'line 3: "2001:db8::1" is IPv6, but EGRESS_SOURCE has no IPv6 address',
    ]


@pytest.mark.parametrize("text", ["", " \n\t\r\n", "# comment\n  # another"])
def test_no_rule(text: str) -> None:
    assert parse(text)[1] == [f"EGRESS_DESTINATION: has no rule ({EXPECTED_LINE})"]
    assert parse(text, required=False) == (Ruleset(), [])


def test_unset() -> None:
    problems = Problems()
    assert parse_rules(Inputs({}), SOURCES, problems, required=True) == Ruleset()
    assert [str(problem) for problem in problems.errors] == [f"EGRESS_DESTINATION: is not set ({EXPECTED_LINE})"]
    assert parse_rules(Inputs({}), SOURCES, Problems(), required=False) == Ruleset()


def test_problems_of_a_file_name_the_file_variable() -> None:
    problems = Problems()
    env = {"EGRESS_DESTINATION_FILE": "/rules"}
    files = {"EGRESS_DESTINATION_FILE": SourceText("EGRESS_DESTINATION_FILE", "80 tcp 203.0.113.1\n80 tcp x")}
    parse_rules(Inputs(env, files), SOURCES, problems, required=True)
    assert [(problem.variable, problem.line) for problem in problems.errors] == [("EGRESS_DESTINATION_FILE", 2)]


def test_fallback_that_is_not_last() -> None:
    _, problems = parse("203.0.113.27\n80 tcp 203.0.113.25\n0 tcp 203.0.113.25\n2001:db8::1\n81 tcp 2001:db8::2")
    assert [problem.partition(" (")[0] for problem in problems] == [
        'line 2: "80 tcp 203.0.113.25" stands after the fallback of line 1',
        'line 3: "0 tcp 203.0.113.25": "0" is not a port',
        'line 3: "0 tcp 203.0.113.25" stands after the fallback of line 1',
        'line 5: "81 tcp 2001:db8::2" stands after the fallback of line 4',
    ]


def test_two_fallbacks_of_one_family() -> None:
    _, problems = parse("203.0.113.27\n2001:db8::1\n203.0.113.28\n203.0.113.27")
    assert problems == [
        'line 3: "203.0.113.28" is a second IPv4 fallback, line 1 is one (one per family)',
        'line 4: "203.0.113.27" is a second IPv4 fallback, line 1 is one (one per family)',
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["80 tcp", "80 tcp"], {2: (80, 1)}),
        (["80 tcp", "80 udp", "80 sctp"], {}),
        (["80-90 tcp", "90-99 tcp"], {2: (90, 1)}),
        (["80-90 tcp", "91-99 tcp"], {}),
        (["85 tcp", "80-90 tcp"], {2: (85, 1)}),
        (["1-65535 tcp", "1 tcp", "65535 tcp"], {2: (1, 1), 3: (65535, 1)}),
        # The third stands inside of the second; the second reaches back to the first.
        (["80 tcp", "70-90 tcp", "85-86 tcp"], {2: (80, 1), 3: (85, 2)}),
        # A wide last line does not hide that the second claims what the first does.
        (["10-20 tcp", "15-25 tcp", "1-100 tcp"], {2: (15, 1), 3: (10, 1)}),
        (["5 tcp", "4 tcp", "3 tcp", "1-9 tcp", "1-9 tcp"], {4: (3, 3), 5: (1, 4)}),
    ],
)
def test_overlaps_name_both_lines(lines: list[str], expected: dict[int, tuple[int, int]]) -> None:
    _, problems = parse("\n".join(f"{line} 203.0.113.1" for line in lines))
    assert problems == [
        f'line {line}: "{lines[line - 1]} 203.0.113.1" claims tcp port {port}, which line {owner} claims '
        "(one line per protocol and port)"
        for line, (port, owner) in expected.items()
    ]


def test_the_same_port_of_both_families() -> None:
    assert parse("80 tcp 203.0.113.1\n80 tcp 2001:db8:113::1")[1] == []


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 12), st.sampled_from(["tcp", "udp"])), max_size=12))
def test_overlaps_are_all_found(claims: list[tuple[int, int, str]]) -> None:
    text = "\n".join(f"{first}-{first + more} {protocol} 203.0.113.1" for first, more, protocol in claims)
    problems = Problems()
    parse_rules(Inputs({"EGRESS_DESTINATION": text}), {}, problems, required=False)
    owner: dict[tuple[str, int], int] = {}
    expected = []
    for line, (first, more, protocol) in enumerate(claims, start=1):
        shared = [port for port in range(first, first + more + 1) if (protocol, port) in owner]
        for port in range(first, first + more + 1):
            owner.setdefault((protocol, port), line)
        if shared:
            expected.append(
                (line, f"claims {protocol} port {shared[0]}, which line {owner[protocol, shared[0]]} claims")
            )
    assert sorted((p.line or 0, p.message) for p in problems.errors) == expected


def test_many_overlapping_ranges_take_no_time_that_grows_with_their_width() -> None:
    """Ten thousand claims of nearly all ports; looking at each port of each would take minutes."""
    text = "\n".join(f"{first}-{65535 - first} tcp 203.0.113.1" for first in range(1, 10001))
    rules, problems = parse(text)
    assert len(problems) == 9999
    assert len(rules.redirects) == 10000


@examples(60)
@given(rulesets())
def test_what_is_accepted_round_trips(rules: Ruleset) -> None:
    text = str(rules)
    again, problems = parse(text, required=False)
    assert problems == []
    assert numberless(again) == numberless(rules)
    assert str(again) == text


@given(text=TEXTS, sources=st.sampled_from([SOURCES, {}, {Family.IPV4: SOURCES[Family.IPV4]}]))
def test_no_text_makes_a_traceback_and_what_is_accepted_is_sound(text: str, sources: dict[Family, Interface]) -> None:
    rules, problems = parse(text, sources)
    assert all(problem.isprintable() for problem in problems)
    claimed: set[tuple[Family, Protocol, int]] = set()
    for rule in rules.redirects:
        assert len(rule.ports) == len(rule.to_ports)
        assert 1 <= rule.ports.first <= rule.ports.last <= 65535
        assert 1 <= rule.to_ports.first <= rule.to_ports.last <= 65535
        ports = {(rule.family, rule.protocol, port) for port in range(rule.ports.first, rule.ports.last + 1)}
        assert problems or not claimed & ports
        claimed |= ports
    if problems:
        return
    assert len({fallback.family for fallback in rules.fallbacks}) == len(rules.fallbacks)
    assert all(f.line > r.line for f in rules.fallbacks for r in rules.redirects)
    assert numberless(parse(str(rules), sources)[0]) == numberless(rules)


def test_names_where_they_are_kept_looked_up() -> None:
    text = "443 tcp API.Example.com\n8000-8001 udp db 53-54\n80 tcp 203.0.113.25\nb\u00fccher.example.\n"
    rules, problems = parse(text, names=True)
    assert problems == []
    assert rules.named == (
        NamedRedirect(1, Protocol.TCP, PortRange(443, 443), HostName("api.example.com"), PortRange(443, 443)),
        NamedRedirect(2, Protocol.UDP, PortRange(8000, 8001), HostName("db"), PortRange(53, 54)),
    )
    assert rules.named_fallback == NamedFallback(4, HostName("xn--bcher-kva.example."))
    assert [rule.line for rule in rules.all] == [1, 2, 3, 4]
    assert [str(name) for name in rules.names] == ["api.example.com", "db", "xn--bcher-kva.example."]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("80 tcp 203.0.113.256", f'"203.0.113.256" is not an IP address ({EXPECTED_DESTINATION})'),
        ("80 tcp 1.2.3.x4.5", '"1.2.3.x4.5" is not an address, and a name does not end in a number'),
        ("80 tcp 2001:db8::25::", f'"2001:db8::25::" is not an IP address ({EXPECTED_DESTINATION})'),
        ("80 tcp -a.example.com", f'"-a.example.com" is neither an address nor a name ({EXPECTED_DESTINATION})'),
        ("80 tcp localhost", f'"localhost" is this pod itself (RFC 6761) ({EXPECTED_DESTINATION})'),
        ("1-1001 tcp a.example 2-1002", "maps 1001 ports to other ones of a name, 1000 are the most"),
        ("80 tcp a.example\n80 tcp 203.0.113.25", "claims tcp port 80, which line 1 claims"),
        ("80 tcp 2001:db8:113::25\n80 tcp a.example", "claims tcp port 80, which line 1 claims"),
        ("80-90 tcp a.example\n85 tcp b.example", "claims tcp port 85, which line 1 claims"),
        ("a.example\n2001:db8:113::25", "is a second IPv6 fallback, line 1 is one"),
        ("203.0.113.25\na.example", "is a second IPv4 fallback, line 1 is one"),
        ("a.example\nb.example", "is a second IPv4 fallback, line 1 is one"),
        ("a.example\n80 tcp b.example", "stands after the fallback of line 1"),
    ],
)
def test_bad_lines_with_names(text: str, problem: str) -> None:
    _, problems = parse(text, names=True)
    assert len(problems) == 1
    assert problem in problems[0]
