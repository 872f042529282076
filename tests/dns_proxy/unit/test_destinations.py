"""The grammar of EGRESS_DNS_PROXY_DESTINATION and of the variables beside it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.inputs import Inputs, Problems, SourceText
from egress_router.config.values import Family, HostName, NameServer
from egress_router.dns_proxy.destinations import Destination, DnsProxyConfig, parse_dns_proxy
from egress_router.errors import ConfigurationError


def parse(text: str | None, source: str = "", **env: str) -> DnsProxyConfig:
    """Parse; ConfigurationError holds every problem."""
    variables = {f"EGRESS_{name}": value for name, value in env.items()} | {"EGRESS_SOURCE": source}
    if text is not None:
        variables["EGRESS_DNS_PROXY_DESTINATION"] = text
    problems = Problems()
    config = parse_dns_proxy(Inputs(variables), problems, required=True)
    problems.raise_if_any()
    assert config is not None
    return config


def problems_of(text: str | None, source: str = "", **env: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, source, **env)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("80 203.0.113.25", Destination(1, 80, ip_address("203.0.113.25"), 80)),
        ("8080 example.com 80", Destination(1, 8080, HostName("example.com"), 80)),
        ("5432\t_db.Example.COM", Destination(1, 5432, HostName("_db.example.com"), 5432)),
        ("5432 db", Destination(1, 5432, HostName("db"), 5432)),
        ("80 example.com.", Destination(1, 80, HostName("example.com."), 80)),
        ("6443 db.example.com 443 check", Destination(1, 6443, HostName("db.example.com"), 443, check=True)),
        ("6443 db.example.com CHECK\r", Destination(1, 6443, HostName("db.example.com"), 6443, check=True)),
        ("80 [2001:db8::25] 443", Destination(1, 80, ip_address("2001:db8::25"), 443)),
        ("80 2001:DB8::25", Destination(1, 80, ip_address("2001:db8::25"), 80)),
        ("80 bücher.example", Destination(1, 80, HostName("xn--bcher-kva.example"), 80)),
        ("80 cafe.ca # a name, not an address", Destination(1, 80, HostName("cafe.ca"), 80)),
        ("80 169.254.169.254", Destination(1, 80, ip_address("169.254.169.254"), 80)),
        ("80 check", Destination(1, 80, HostName("check"), 80)),
    ],
)
def test_forms(line: str, expected: Destination) -> None:
    assert parse(line).destinations == (expected,)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("80", "has no destination"),
        ("080 example.com", '"080" is not a port'),
        ("0 example.com", '"0" is not a port'),
        ("65536 example.com", '"65536" is not a port'),
        ("18446744073709551697 example.com", "is not a port"),
        ("80 example.com 0", '"0" is not a port'),
        ("80 example.com 443 check more", "has 5 words"),
        ("80 example.com chek", '"chek" is not a port'),
        ("80 tcp 203.0.113.25", "names a protocol"),
        ("80 999.1.1.1", "is not an IP address"),
        ("80 010.0.0.1", "leading zero"),
        ("80 1.2.3", "is not an IP address"),
        ("80 example.0x7f", "does not end in a number"),
        ("80 203.0.113.25/32", "neither an address nor a name"),
        ("80 http://example.com/", "a port is a word of its own"),
        ("80 example.com:443", "a port is a word of its own"),
        ("80 [2001:db8::25]:443", "a port is a word of its own"),
        ("80 [203.0.113.25]", "is not an IPv6 address in brackets"),
        ("80 2001:db8::g", "is not an IP address"),
        ("80 fe80::1%eth0", "zone index"),
        ("80 fe80::1", "link-local"),
        ("80 ::ffff:203.0.113.25", "IPv4-mapped"),
        ("80 0.0.0.0", "the unspecified address"),
        ("80 127.0.0.1", "a loopback address"),
        ("80 localhost", "this pod itself"),
        ("80 224.0.0.1", "a multicast address"),
        ("80 a..b", "neither an address nor a name"),
        ("80 -a.example", "neither an address nor a name"),
        ("80 *.example.com", "neither an address nor a name"),
        (f"80 {'a' * 64}.example", "neither an address nor a name"),
        (f"80 {'a.' * 127}", None),
        (f"80 {'a.' * 126}aa", "DNS allows 253"),
        ("80 192.0.2.46", "is EGRESS_SOURCE itself"),
        ("80 2001:db8::25", "EGRESS_SOURCE has no IPv6 address"),
    ],
)
def test_strict(line: str, says: str | None) -> None:
    if says is None:
        assert parse(line, "192.0.2.46")
        return
    (problem,) = problems_of(line, "192.0.2.46")
    assert says in problem
    assert problem.startswith("EGRESS_DNS_PROXY_DESTINATION line 1: ")


def test_all_problems_at_once_with_their_lines() -> None:
    text = "80 example.com\n\n# comment\n80 203.0.113.25\n81 1.2.3.4.5\nx y z q r\n"
    found = problems_of(text, DNS_PROXY_NAMESERVERS="ns.example", DNS_PROXY_IDLE_TIMEOUT="never", SHUTDOWN_GRACE="-1")
    assert len(found) == 7
    assert 'line 4: "80 203.0.113.25": listens on port 80, which line 1 does' in "\n".join(found)
    assert sum("line 6" in problem for problem in found) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "is not set"), ("", "has no destination"), ("# nothing\n", "has no destination")],
)
def test_nothing_is_an_error_in_the_mode_that_needs_it(text: str | None, says: str) -> None:
    (problem,) = problems_of(text)
    assert says in problem


def test_unset_is_fine_elsewhere() -> None:
    problems = Problems()
    assert parse_dns_proxy(Inputs({"EGRESS_SOURCE": "192.0.2.46"}), problems) is None
    assert problems.errors == []


def test_file_is_named_in_problems() -> None:
    variable = "EGRESS_DNS_PROXY_DESTINATION_FILE"
    inputs = Inputs({variable: "/x"}, {variable: SourceText(variable, "80 a_b.example\n81 ..\n")})
    problems = Problems()
    assert parse_dns_proxy(inputs, problems) is None
    assert [(problem.variable, problem.line) for problem in problems.errors] == [(variable, 2)]


def test_other_variables() -> None:
    config = parse(
        "80 example.com",
        "192.0.2.46/24, 2001:db8::46",
        DNS_PROXY_NAMESERVERS="203.0.113.53 [2001:db8::53]:5353,2001:db8::54",
        DNS_PROXY_IDLE_TIMEOUT="2h",
        DNS_PROXY_ACCESS_LOG="off",
        SHUTDOWN_GRACE="90s",
    )
    assert config.sources == {Family.IPV4: ip_address("192.0.2.46"), Family.IPV6: ip_address("2001:db8::46")}
    assert config.nameservers == (
        NameServer(ip_address("203.0.113.53")),
        NameServer(ip_address("2001:db8::53"), 5353),
        NameServer(ip_address("2001:db8::54")),
    )
    assert [str(server) for server in config.nameservers] == ["203.0.113.53", "[2001:db8::53]:5353", "[2001:db8::54]"]
    assert (config.idle_timeout, config.grace, config.access_log) == (7200, 90, False)
    assert parse("80 a.example").idle_timeout == 3600


@pytest.mark.parametrize("text", ["0", "25d", "1.5h", "1 h", "h", "01s", "2147484s"])
def test_durations_out_of_range(text: str) -> None:
    (problem,) = problems_of("80 a.example", DNS_PROXY_IDLE_TIMEOUT=text)
    assert "EGRESS_DNS_PROXY_IDLE_TIMEOUT" in problem


@given(st.text(alphabet=st.sampled_from("0189.:[]ab_-xn \t\n#é*/%,"), max_size=80) | st.text(max_size=60))
def test_no_text_makes_a_traceback_and_what_is_accepted_round_trips(text: str) -> None:
    problems = Problems()
    config = parse_dns_proxy(Inputs({"EGRESS_DNS_PROXY_DESTINATION": text}), problems, required=True)
    assert (config is None) == bool(problems.errors)
    if config is not None:
        again = parse("\n".join(str(item) for item in config.destinations))
        assert [str(item) for item in again.destinations] == [str(item) for item in config.destinations]


@given(st.text(max_size=40), st.text(max_size=20))
def test_no_other_value_makes_a_traceback(nameservers: str, duration: str) -> None:
    env = {"EGRESS_DNS_PROXY_NAMESERVERS": nameservers, "EGRESS_DNS_PROXY_IDLE_TIMEOUT": duration}
    parse_dns_proxy(Inputs(env | {"EGRESS_SOURCE": duration}), Problems(), required=True)


def test_the_health_port_gives_way_to_a_line() -> None:
    assert parse("80 a.example").health_port == 9909
    assert parse("80 a.example", HEALTH_PORT="off").health_port is None
    assert parse("9909 a.example").health_port is None
    assert parse("9909 a.example", HEALTH_PORT="9910").health_port == 9910
    (problem,) = problems_of("80 b.example\n9909 a.example", HEALTH_PORT="9909")
    assert "9909" in problem
    assert "is claimed by line 2 of EGRESS_DNS_PROXY_DESTINATION (9909 a.example 9909)" in problem
