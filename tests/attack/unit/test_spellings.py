"""Values that end up in scripts, configuration files and paths: what is no plain one is refused with its name."""

from __future__ import annotations

import re
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.inputs import Inputs, Problems
from egress_router.config.run_dir import parse_run_dir
from egress_router.egressip.node.cluster_networks import cluster_networks
from egress_router.egressip.node.guard import guard_script
from tests.cli.unit.conftest import CommandLine, cli

__all__ = ["cli"]

NO_CLUSTER = {
    "fe80::%x/64": "zone",
    "2001:db8::%eth0/64": "zone",
    "0.0.0.0/0": "every address",
    "::/0": "every address",
    "0.0.0.0/1,128.0.0.0/1": "every IPv4 address together",
    "::/1 8000::/1": "every IPv6 address together",
    "224.0.0.0/4": "multicast",
    "239.1.2.3": "multicast",
    "ff00::/8": "multicast",
    "ff02::1": "multicast",
    "127.0.0.0/8": "loopback",
    "127.0.0.1": "loopback",
    "::1": "loopback",
    "10.128.0.1/14": "bits set behind its prefix",
    "2001:db8::1/64": "bits set behind its prefix",
    "10.0.0.0/255.0.0.0": "not a prefix length",
    "10.0.0.0/08": "not a prefix length",
    "10.0.0.0/33": "not a prefix length",
    "10.0.0.0/-1": "not a prefix length",
    "10.0.0.0/": "not a prefix length",
    "10.0.0.0/1e1": "not a prefix length",
    "010.0.0.0/8": "leading zero",
    "::ffff:10.0.0.0/104": "IPv4-mapped",
    "10.0.0.0/٨": "not a prefix length",
    "١٠.0.0.0/8": "not an IP address",
    "pods": "not an IP address",
    "}; flush ruleset; #": "not an IP address",
    "": "names no network",
    " , ": "names no network",
}


@pytest.mark.parametrize("text", NO_CLUSTER)
def test_a_cluster_network_that_is_none(text: str, cli: CommandLine) -> None:
    option = cli("node", "guard", "--cluster", text, env={})
    variable = cli("node", "guard", env={"EGRESS_CLUSTER_NETWORKS": text or " "})
    assert (option.status, variable.status) == (2, 78)
    for result, name in ((option, "--cluster: "), (variable, "EGRESS_CLUSTER_NETWORKS: ")):
        assert result.out == ""
        assert name in result.err
        assert NO_CLUSTER[text] in result.err


def test_all_of_them_are_told_together(cli: CommandLine) -> None:
    result = cli("node", "guard", "--cluster", "0.0.0.0/0,10.0.0.1/8", "--cluster", "ff00::/8", env={})
    assert result.status == 2
    assert result.err.count("--cluster: ") == 3


@pytest.mark.parametrize("text", ["10.128.0.0/14,172.30.0.0/16", "10.0.0.0/8 10.1.0.0/16", "2001:db8::/32,fe80::/64"])
def test_cluster_networks(text: str, cli: CommandLine) -> None:
    """One inside of another is fine: nodes may stand in a network that holds the pods' one."""
    result = cli("node", "guard", "--cluster", text, env={})
    assert (result.status, result.err) == (0, "")
    assert_disjoint(result.out)


@given(
    st.lists(st.one_of(st.text(max_size=12), st.from_regex(r"[0-9a-f.:]{1,20}/[0-9]{1,3}", fullmatch=True)), max_size=4)
)
def test_no_text_writes_a_script_that_nft_refuses(texts: list[str]) -> None:
    problems = Problems()
    networks = cluster_networks(texts, "--cluster", problems)
    if not problems.errors:
        assert_disjoint(guard_script(networks))


def assert_disjoint(script: str) -> None:
    for elements in re.findall(r"elements = \{([^}]*)\}", script):
        found = [ip_network(text.strip()) for text in elements.split(",")]
        assert not [(a, b) for a in found for b in found if a is not b and a.overlaps(b)]


RUN_DIRS = (
    "run",
    "./run",
    "~/run",
    "/",
    "//",
    "/run//x",
    "/run/../etc",
    "/run/.",
    "/run/a b",
    "/run/a\tb",
    "/run/a\nb",
    '/run/"x"',
    "/run/'x'",
    "/run/#x",
    "/run/$HOME",
    "/run/%s",
    "/run/{{x}}",
    "/run/x;y",
    "/run/x\\y",
    "/run/\x00",
    "/run/ü",
    "/run/" + "x" * 400,
)
PODS = {
    "http-proxy": {"EGRESS_HTTP_PROXY_DESTINATION": "*"},
    "dns-proxy": {"EGRESS_DNS_PROXY_DESTINATION": "80 example.com"},
    "router": {"EGRESS_SOURCE": "192.0.2.46", "EGRESS_GATEWAY": "192.0.2.1", "EGRESS_DESTINATION": "203.0.113.25"},
}


@pytest.mark.parametrize("pod", PODS)
@pytest.mark.parametrize("text", RUN_DIRS)
def test_a_run_directory_that_is_none_is_found_before_deployment(text: str, pod: str, cli: CommandLine) -> None:
    if "\x00" not in text:
        result = cli("check", env={**PODS[pod], "EGRESS_RUN_DIR": text})
        assert result.status == 78, result.out
        assert "EGRESS_RUN_DIR: " in result.err
    problems = Problems()
    parse_run_dir(Inputs({"EGRESS_RUN_DIR": text}), problems, 65)
    assert [problem.variable for problem in problems.errors] == ["EGRESS_RUN_DIR"]


@pytest.mark.parametrize("text", ["/run/egress-router", "/run/egress-router/", "/var/lib/a_b.c@d+e/1"])
def test_run_directories(text: str) -> None:
    problems = Problems()
    assert str(parse_run_dir(Inputs({"EGRESS_RUN_DIR": text}), problems, 65)) == text.rstrip("/")
    assert problems.errors == []


@pytest.mark.parametrize("length", [65, 66])
def test_a_run_directory_of_the_dns_proxy_leaves_room_for_its_sockets(length: int, cli: CommandLine) -> None:
    path = "/" + "x" * (length - 1)
    result = cli("check", env={**PODS["dns-proxy"], "EGRESS_RUN_DIR": path})
    assert result.status == (0 if length == 65 else 78)
    assert len(f"{'x' * 65}/dns-proxy/haproxy-999999.sock.4194304.tmp") <= 107


FORMS = ("{}", "{}/tcp", "http://example.com:{}/", "example.com:{}", "http://{}/", "[::{}]:80", "1.2.3.{}:80")


@pytest.mark.parametrize("digits", [6, 5_000, 100_000])
@pytest.mark.parametrize("form", FORMS)
def test_numbers_of_thousands_of_digits(form: str, digits: int, cli: CommandLine) -> None:
    for variables in PODS.values():
        result = cli("explain", form.format("9" * digits), env=variables)
        assert result.status in (0, 2), result.err
        assert len(result.err) < 2000
        assert "Traceback" not in result.err


@pytest.mark.parametrize("digits", [6, 5_000, 100_000])
def test_numbers_of_thousands_of_digits_in_lists(digits: int, cli: CommandLine) -> None:
    number = "9" * digits
    lines = [f"{number} tcp 203.0.113.25", f"80-{number} tcp 203.0.113.25", f"80 tcp 203.0.113.25 {number}"]
    lines += [f"80 tcp 203.0.113.{number}", f"80 tcp 203.0.113.25/{number}", f"{number} example.com", f"80 x {number}"]
    lines += [f"example.com:{number}", f"10.0.0.0/{number}", f"[2001:db8::{number}]:80", f"2001:db8::/{number}"]
    ours = {"EGRESS_SOURCE": "192.0.2.46", "EGRESS_GATEWAY": "192.0.2.1"}
    for name in ("EGRESS_DESTINATION", "EGRESS_HTTP_PROXY_DESTINATION", "EGRESS_DNS_PROXY_DESTINATION"):
        result = cli("check", env={**ours, name: "\n".join(lines)})
        assert result.status == 78
        assert "Traceback" not in result.err
    for name in ("HEALTH_PORT", "SHUTDOWN_GRACE", "HTTP_PROXY_PORT", "CHECK", "SOURCE"):
        result = cli("check", env={**PODS["http-proxy"], **PODS["router"], f"EGRESS_{name}": number})
        assert result.status == 78
        assert f"EGRESS_{name}: " in result.err


@pytest.mark.parametrize("target", ["\x1b[2J", "\x1b]0;title\x07", "a\rb:80", "http://\x1b[2J/", "x\u202ey:80"])
def test_nothing_that_was_typed_controls_the_terminal(target: str, cli: CommandLine) -> None:
    for variables in PODS.values():
        result = cli("explain", target, env=variables)
        assert result.status in (0, 2)
        assert all(character.isprintable() for character in (result.err + result.out).replace("\n", ""))
