"""Sections for clients: heads, names given to networks, what is refused, and who gets which lines."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from egress_router.config.inputs import Inputs, Problems
from egress_router.http_proxy.settings import HttpSettings
from egress_router.http_proxy.squid.config import SquidPlace, render_squid
from egress_router.http_proxy.squid.log_line import RuleAttributor
from egress_router.http_proxy.squid.log_line import parse as parse_raw
from egress_router.policy.clients import clients_of, for_client
from egress_router.policy.compile import compile_policy
from egress_router.policy.parse import VARIABLE, parse_policy
from egress_router.policy.shadowed import shadow_warnings
from tests.http_proxy.unit.strategies import parse

POLICY = """
[network office = 192.0.2.0/24, fd01::/48]
!10.0.0.0/8
www.example.com
[from 10.1.0.0/16, Office]
*.example.com
[FROM 10.1.2.0/24]
!secret.example.org
*
"""


def problems_of(text: str) -> tuple[list[tuple[int | None, str]], list[tuple[int | None, str]]]:
    problems = Problems()
    parse_policy(Inputs({VARIABLE: text}), problems)
    errors, warnings = problems.errors, problems.warnings
    return [(one.line, one.message) for one in errors], [(one.line, one.message) for one in warnings]


@pytest.mark.parametrize(
    ("client", "lines"),
    [
        ("10.9.9.9", [3, 4]),
        ("::1", [3, 4]),
        ("10.1.9.9", [3, 4, 6]),
        ("192.0.2.255", [3, 4, 6]),
        ("fd01:0:0:ffff::", [3, 4, 6]),
        ("fd01:0:1::", [3, 4]),
        ("10.1.2.0", [3, 4, 6, 8, 9]),
    ],
)
def test_a_client_has_the_lines_of_its_sections(client: str, lines: list[int]) -> None:
    assert [line.number for line in for_client(parse(POLICY), ip_address(client)).lines] == lines


def test_lines_for_everybody_may_follow() -> None:
    policy = parse("[from 10.1.0.0/16]\n*.a.com\n[from any]\n*.b.com\n*")
    assert [line.number for line in for_client(policy, ip_address("10.1.0.1")).lines] == [2, 4, 5]
    assert [line.number for line in for_client(policy, ip_address("10.2.0.1")).lines] == [4, 5]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[from]\na.com", 1, "has no network"),
        ("[from ]\na.com", 1, "has no network"),
        ("[]\na.com", 1, "is no head of a section"),
        ("[form 10.1.0.0/16]\na.com", 1, "is no head of a section"),
        ("[10.1.0.0/16]\na.com", 1, "is no head of a section"),
        ("[from 10.1.0.0/16\na.com", 1, "is no head of a section"),
        ("[from 10.1.0.0/16] a.com", 1, "is no head of a section"),
        ("[from 10.1.0.0/16][from 10.2.0.0/16]\na.com", 1, "is no head of a section"),
        ("[from [fd01::]/48]\na.com", 1, "is no head of a section"),
        ("[from 10.1.0.0/33]\na.com", 1, 'has "10.1.0.0/33", which has a prefix length that is not 0 to 32'),
        ("[from 10.1/16]\na.com", 1, 'has "10.1/16", which is not an IPv4 address or network'),
        ("[from fe80::1%eth0]\na.com", 1, 'has "fe80::1%eth0", which is not an IPv6 address or network'),
        ("[from ofice]\na.com", 1, 'has "ofice", which is no network and not named above'),
        (
            "[from office]\na.com\n[network office = 10.0.0.0/8]",
            1,
            'has "office", which is no network and not named above',
        ),
        ("[from any, 10.0.0.0/8]\na.com", 1, 'has networks beside "any"'),
        ("[network any = 10.0.0.0/8]\na.com", 1, 'has "any" for a name'),
        ("[network 10 = 10.0.0.0/8]\na.com", 1, 'has "10" for a name'),
        ("[network a =]\na.com", 1, "has no network"),
        ("[network a 10.0.0.0/8]\na.com", 1, "is no head of a section"),
        ("[network a = 10.0.0.0/8]\n[network A = 10.0.0.0/8]\n[from a]\na.com", 2, 'names "a", as line 1 does'),
        ("*\n[from 10.0.0.0/8]\na.com", 1, "is not the last line"),
        ("[from 10.0.0.0/8]\n*\na.com\n", 2, "is not the last line"),
        ("[from any]\n*\n[from 10.0.0.0/8]\na.com\n", 2, "is not the last line"),
    ],
)
def test_what_is_wrong_with_a_head(text: str, line: int, message: str) -> None:
    assert (line, message) in problems_of(text)[0]


def test_what_is_refused_is_for_nobody() -> None:
    """Lines below a head that is wrong are not taken for lines of everybody: their own problems come out, too."""
    errors, _ = problems_of("a.com\n[from x.y]\n*\n[from 10.0.0.0/8]\nfoo bar\n")
    assert [line for line, _ in errors] == [2, 5]


def test_what_is_hardly_meant() -> None:
    _, warnings = problems_of(
        "[network a = 10.1.0.1/16]\n[network b = 10.2.0.0/16]\na.com\n[from b]\n[from fd01::1/48]\n*"
    )
    assert warnings == [
        (1, "has bits set behind its length; 10.1.0.0/16 is used"),
        (5, "has bits set behind its length; fd01::/48 is used"),
        (1, 'names networks "a", which no head has'),
        (4, "has no line: its clients may do nothing more by it"),
    ]


def test_addresses_in_brackets_are_no_heads() -> None:
    assert [str(line.target) for line in parse("[2001:db8::1]\n[2001:db8:1::]:443\n[::ffff:10.0.0.1]").lines]


def test_warnings_know_sections() -> None:
    text = "www.a.com\n[from 10.1.0.0/16]\nwww.a.com\nwww.b.com\n[from 10.2.0.0/16]\nwww.b.com\n"
    text += "[from 10.1.2.0/24]\nwww.b.com"
    found = [(one.line, one.message) for one in shadow_warnings(parse(text))]
    assert found == [
        (3, "can never match, since line 1 matches first"),
        (8, "can never match, since line 4 matches first"),
    ]


def test_closed_addresses_open_in_the_section_alone() -> None:
    compiled = compile_policy(parse("[from 10.1.0.0/16]\n127.0.0.1:9000\n*\n[from 10.2.0.0/16]\n*"))
    (rule,) = [rule for rule in compiled.rules if rule.branch is None]
    assert rule.ports.ranges == ((9000, 9000),)
    assert [line.number for line in rule.addresses] == [0]


@pytest.mark.parametrize("wrong", ["overlaps", "lines"])
def test_sections_that_overlap_too_much_are_refused(wrong: str) -> None:
    if wrong == "overlaps":
        # Each /24 is in another selection of ten sections.
        text = "\n".join(
            f"[from {' '.join(f'10.0.{number}.0/24' for number in range(256) if number >> bit & 1)}]\n*.a{bit}.com"
            for bit in range(8)
        )
        text += "\n[from 10.0.0.0/17]\nb.com\n[from 10.0.0.0/16]\nc.com"
    else:
        names = "\n".join(f"a{number}.com" for number in range(1000))
        heads = "\n".join(f"[from 10.0.{number}.0/24]\nb{number}.com" for number in range(150))
        text = f"{heads}\n[from any]\n{names}"
    (error,) = problems_of(text)[0]
    assert "has sections whose networks overlap" in error[1]


def test_squid_has_clients_of_the_families_it_listens_on() -> None:
    compiled = compile_policy(parse("[from 10.1.0.0/16, fd01::/48]\na.com\n[from fd02::/48]\nb.com"))
    conf = render_squid(compiled, HttpSettings(), SquidPlace(ipv6=False))["squid.conf"]
    assert "fd01" not in conf
    # Nobody can come from there.
    assert "b.com" not in [
        word for line in conf.splitlines() if line.startswith("http_access") for word in line.split()
    ]
    # Where servers are reached by IPv4 alone, clients may come by IPv6.
    settings = HttpSettings(sources=(ip_address("192.0.2.46"),))
    assert "fd02::-fd02::ffff:ffff:ffff:ffff:ffff" in render_squid(compiled, settings, SquidPlace())["squid.conf"]


def test_the_log_names_the_line_of_the_client() -> None:
    policy = parse("[from 10.1.0.0/16]\nwww.a.com\n[from 10.2.0.0/16]\n!*.a.com\n*")
    compiled = compile_policy(policy)
    attributor = RuleAttributor(policy, compiled)

    def line(client: str, rule: str, server: str = "203.0.113.25") -> object:
        raw = parse_raw(f"1700000000.123 512 7 40000 {client} GET www.a.com 80 200 {rule} - {server} - - TCP_MISS -")
        assert raw
        return attributor.decision(raw).members["line"]

    allowing = next(number for number, rule in enumerate(compiled.rules, start=1) if rule.names == ("www.a.com",))
    denying = next(number for number, rule in enumerate(compiled.rules, start=1) if rule.names == (".a.com",))
    assert line("10.1.0.5", str(allowing)) == 2
    assert line("10.2.0.5", str(denying), "-") == 4
    assert line("10.3.0.5", "default", "-") is None


def test_as_many_sections_as_documented() -> None:
    heads = [f"[from 10.{number // 256}.{number % 256}.0/24]\na{number}.com" for number in range(501)]
    assert problems_of("\n".join(heads[:500])) == ([], [])
    assert problems_of("\n".join(heads))[0] == [(1001, "is one more than 500 sections")]


def test_groups_are_few() -> None:
    clients = clients_of(parse("\n".join(f"[from 10.0.{number}.0/24]\na{number}.com" for number in range(100))))
    assert len(clients.groups) == 101
    assert len(clients.branches) == 101
