"""What the policy grammar takes, refuses and warns of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.inputs import Inputs, Problems, SourceText
from egress_router.http_proxy.config import parse_http_settings
from egress_router.policy.parse import VARIABLE, parse_policy
from egress_router.policy.shadowed import shadowed_lines
from egress_router.policy.values import Anything, Block, Name, Ports, from_number
from tests.http_proxy.unit.strategies import parse


def errors(text: str) -> list[tuple[int | None, str]]:
    problems = Problems()
    assert parse_policy(Inputs({VARIABLE: text}), problems) is None
    return [(problem.line, problem.message) for problem in problems.errors]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("example.com", Name("example.com")),
        ("EXAMPLE.com.", Name("example.com")),
        ("*.example.com", Name("example.com", subdomains=True)),
        (".example.com", Name("example.com", subdomains=True)),
        ("abc.de", Name("abc.de")),
        ("cafe.ca", Name("cafe.ca")),
        ("under_score.example", Name("under_score.example")),
        ("_dmarc.example", Name("_dmarc.example")),
        ("bücher.example", Name("xn--bcher-kva.example")),
        ("*.BÜCHER。example", Name("xn--bcher-kva.example", subdomains=True)),
        ("xn--bcher-kva.example", Name("xn--bcher-kva.example")),
        ("1e100.net", Name("1e100.net")),
        ("localhost", Name("localhost")),
        ("1.2.3.4", Block(0xFFFF01020304, 0xFFFF01020304)),
        ("10.42.253.0/24", Block(0xFFFF0A2AFD00, 0xFFFF0A2AFDFF)),
        ("::ffff:1.2.3.4", Block(0xFFFF01020304, 0xFFFF01020304)),
        ("2001:db8::1", Block(0x20010DB8 << 96 | 1, 0x20010DB8 << 96 | 1)),
        ("[2001:db8::1]", Block(0x20010DB8 << 96 | 1, 0x20010DB8 << 96 | 1)),
        ("2001:db8::/32", Block(0x20010DB8 << 96, (0x20010DB9 << 96) - 1)),
        ("*", Anything()),
    ],
)
def test_targets(text: str, target: object) -> None:
    (line,) = parse(text).lines
    assert line.target == target


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("example.com:443,8443", ((443, 443), (8443, 8443))),
        ("[2001:db8::/32]:443", ((443, 443),)),
        ("10.0.0.0/8:80-90,85-100", ((80, 100),)),
        ("*:443", ((443, 443),)),
        ("example.com", ((1, 65535),)),
    ],
)
def test_ports(text: str, ports: tuple[tuple[int, int], ...]) -> None:
    assert parse(text).lines[0].ports == Ports(ports)


@pytest.mark.parametrize(
    "text",
    [
        *("1.2.3.4-1.2.3.9", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.0/255.0.0.0", "foo bar", "127.1", "0x7f.1", "1.2.3"),
        *(
            "2130706433",
            "010.0.0.1",
            "1.2.3.4.5",
            "::1/129",
            "fe80::1%eth0",
            "[::1",
            "[::1]x",
            "a..b",
            "a.*.b",
            "*a.com",
        ),
        *(
            "-a.com",
            "a-.com",
            "a b",
            "!",
            "!!a",
            "a.com:",
            "a.com:0",
            "a.com:65536",
            "a.com:http",
            "a.com:9-8",
            "a.com:080",
        ),
        *(
            "a/b",
            "http://a.com/",
            "a@b",
            '"a"',
            "x" * 64 + ".com",
            ".".join(["abcdefg"] * 40),
            "2001:db8::/32:443:",
            ".",
        ),
        *("0.0.0.0", "::", "255.255.255.255", "*.", "**", "a.com,b.com", "münchen_", "a\u202eb.com", "\x00"),
    ],
)
def test_refused(text: str) -> None:
    assert [line for line, _ in errors(text)] == [1]


def test_everything_is_reported_at_once() -> None:
    text = "*\r\n10.0.0.0/33\n\n# fine\ngood.example # too\n  foo bar\n1.2.3.4-1.2.3.9\r\n"
    assert [line for line, _ in errors(text)] == [2, 6, 7, 1]


@pytest.mark.parametrize("env", [{}, {VARIABLE: ""}, {VARIABLE: "  \n# only a comment\n"}])
def test_unset_and_empty(env: dict[str, str]) -> None:
    problems = Problems()
    assert parse_policy(Inputs(env), problems, required=True) is None
    assert len(problems.errors) == 1
    problems = Problems()
    parse_policy(Inputs(env), problems)
    assert len(problems.errors) == (VARIABLE in env)


def test_from_a_file() -> None:
    file = VARIABLE + "_FILE"
    problems = Problems()
    inputs = Inputs({file: "/etc/policy"}, {file: SourceText(file, "a.com\nfoo bar\n")})
    assert parse_policy(inputs, problems) is None
    assert [(problem.variable, problem.line) for problem in problems.errors] == [(file, 2)]


def test_host_bits_are_a_warning() -> None:
    problems = Problems()
    policy = parse_policy(Inputs({VARIABLE: "10.1.2.3/8"}), problems)
    assert policy
    assert isinstance(block := policy.lines[0].target, Block)
    assert str(from_number(block.first)) == "10.0.0.0"
    assert ["10.0.0.0/8" in warning.message for warning in problems.warnings] == [True]


@pytest.mark.parametrize(
    ("text", "shadowed"),
    [
        ("*.a.com\nx.a.com", [(2, (1,))]),
        ("x.a.com\n*.a.com", []),
        ("!a.com:443\na.com:80\na.com:80,443", [(3, (1, 2))]),
        ("10.0.0.0/9\n10.128.0.0/9\n!10.0.0.0/8", [(3, (1, 2))]),
        ("10.0.0.0/9\n!10.0.0.0/8", []),
        ("a.com\n*\n", []),
        ("::/0\n!1.2.3.4", []),
        ("0.0.0.0/0\n!1.2.3.4:80", [(2, (1,))]),
    ],
)
def test_shadowed(text: str, shadowed: list[tuple[int, tuple[int, ...]]]) -> None:
    assert [(line.number, earlier) for line, earlier in shadowed_lines(parse(text))] == shadowed


def test_too_many_port_lists_are_refused() -> None:
    text = "\n".join(f"10.0.0.{number % 250 + 1}:{number + 1}" for number in range(300))
    assert [message for _, message in errors(text)] == ["has 300 different port lists on address lines"]


def test_too_much_alternation_is_refused() -> None:
    text = "\n".join(f"10.0.{number // 250}.{number % 250 + 1}\n!n{number}.com" for number in range(3000))
    assert "between denied names" in errors(text)[0][1]
    text = "\n".join(f"n{number}.com\n!10.0.{number // 250}.{number % 250 + 1}" for number in range(1500))
    assert "alternates 2999 times" in errors(text)[0][1]
    assert len(parse("\n".join(f"{'!' * (number % 2)}n{number}.com" for number in range(9000))).lines) == 9000


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    problems = Problems()
    policy = parse_policy(Inputs({VARIABLE: text}), problems, required=True)
    assert (policy is None) == bool(problems.errors)


def test_settings() -> None:
    problems = Problems()
    env = {
        "EGRESS_HTTP_PROXY_PORT": "3128",
        "EGRESS_HTTP_PROXY_CONNECT_PORTS": "443,8443",
        "EGRESS_HTTP_PROXY_MAX_CLIENTS": "100",
        "EGRESS_HTTP_PROXY_WORKERS": "3",
        "EGRESS_HTTP_PROXY_ACCESS_LOG": "OFF",
        "EGRESS_SHUTDOWN_GRACE": "5s",
        "EGRESS_SOURCE": "192.0.2.46/24 2001:db8:2::46",
    }
    settings = parse_http_settings(Inputs(env), problems)
    assert not problems.errors
    assert (settings.port, settings.max_clients, settings.access_log, settings.grace) == (3128, 100, False, 5.0)
    assert settings.workers == 3
    assert parse_http_settings(Inputs({"EGRESS_HTTP_PROXY_WORKERS": "Auto"}), problems).workers is None
    assert str(settings.connect_ports) == "443,8443"
    assert [str(source) for source in settings.sources] == ["192.0.2.46", "2001:db8:2::46"]
    bad = dict.fromkeys(env, "x")
    parse_http_settings(Inputs(bad), problems)
    assert sorted(problem.variable for problem in problems.errors) == sorted(env)


@pytest.mark.parametrize(
    ("env", "port", "errors", "warnings"),
    [
        ({}, 9909, 0, 0),
        ({"EGRESS_HEALTH_PORT": "off"}, None, 0, 0),
        ({"EGRESS_HTTP_PROXY_PORT": "9909"}, None, 0, 1),
        ({"EGRESS_HTTP_PROXY_PORT": "9909", "EGRESS_HEALTH_PORT": "9909"}, None, 1, 0),
        ({"EGRESS_HEALTH_PORT": "8080"}, None, 1, 0),
    ],
)
def test_the_health_port_gives_way_to_the_proxys(
    env: dict[str, str], port: int | None, errors: int, warnings: int
) -> None:
    problems = Problems()
    assert parse_http_settings(Inputs(env), problems).health_port == port
    assert (len(problems.errors), len(problems.warnings)) == (errors, warnings)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://foo.com/", "is a URL"),
        ("!https://foo.com", "is a URL"),
        ("foo.com/path", "has a / although it is no network"),
        ("10.0.0.0/x", "prefix length"),
    ],
)
def test_what_is_pasted_from_a_browser_is_named(text: str, words: str) -> None:
    ((line, message),) = errors(text)
    assert (line, words in message) == (1, True)
