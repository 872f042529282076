"""``plan`` and ``explain`` in every form of output."""

from __future__ import annotations

import pytest

from tests.cli.unit.conftest import ROUTER, CommandLine

PROXY = {"EGRESS_SOURCE": "192.0.2.46", "EGRESS_HTTP_PROXY_DESTINATION": "*"}
BOTH = {**ROUTER, "EGRESS_SOURCE": "192.0.2.46/24 2001:db8:2::46/64", "EGRESS_GATEWAY": "192.0.2.1,2001:db8:2::1"}


def test_plan_as_text(cli: CommandLine) -> None:
    result = cli("plan", "--pod", "sample")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "egress interface macvlan0, cluster interface eth0"
    assert "address 192.0.2.46/32 dev macvlan0" in lines
    assert "line 2: 8080 tcp 203.0.113.26 80, leaving with 192.0.2.46" in lines


def test_plan_as_json(cli: CommandLine) -> None:
    plan = cli("plan", "--pod", "sample", "-o", "json", env=BOTH).json
    assert plan["sources"] == ["192.0.2.46/24", "2001:db8:2::46/64"]
    assert plan["cluster_interface"] == "eth0"
    assert plan["destinations"][1] == {
        "line": 2,
        "protocol": "tcp",
        "ports": [8080, 8080],
        "address": "203.0.113.26",
        "to_ports": [80, 80],
    }


def test_plan_as_nft(cli: CommandLine) -> None:
    script = cli("plan", "--pod", "sample", "-o", "nft").out
    assert script.startswith(
        "add table inet egress_router\ndelete table inet egress_router\ntable inet egress_router {\n"
    )
    assert "tcp . 8080 : 203.0.113.26 . 80" in script


def test_plan_as_iptables(cli: CommandLine) -> None:
    script = cli("plan", "--pod", "sample", "-o", "iptables").out
    assert script.startswith("# IPv4: iptables-restore --noflush\n*filter\n")
    assert "# IPv6: ip6tables-restore --noflush\n" in script
    assert script.count("COMMIT\n") >= 4
    assert "--to-destination 203.0.113.26:80" in script


def test_plan_takes_a_sample_pod_for_files(cli: CommandLine) -> None:
    path = cli.file(
        "".join(f'{name}="{value}"\n'.replace("\n", "\\n", value.count("\n")) for name, value in ROUTER.items())
    )
    result = cli("plan", "--env-file", path, env={})
    assert result.status == 0
    assert "10.128.0.10" in result.out


def test_plan_of_the_proxies(cli: CommandLine) -> None:
    env = {**PROXY, "EGRESS_DNS_PROXY_DESTINATION": "8080 example.com 80"}
    squid = cli("plan", "-o", "squid", env=env)
    assert (squid.status, squid.err) == (0, "")
    assert "# squid.conf\n" in squid.out
    haproxy = cli("plan", "-o", "haproxy", env=env)
    assert (haproxy.status, haproxy.err) == (0, "")
    assert "example.com" in haproxy.out
    for output in ("squid", "haproxy"):
        result = cli("plan", "-o", output)
        assert result.status == 2
        assert "to plan" in result.err


def test_plan_of_a_proxy_container(cli: CommandLine) -> None:
    result = cli("plan", "--pod", "sample", env=PROXY)
    assert result.status == 2
    assert "nothing to plan; -o squid" in result.err


def test_explain_asks_as_clients_do(cli: CommandLine) -> None:
    """An international name in ASCII; the cache manager's path is closed on any host."""
    env = {"EGRESS_HTTP_PROXY_DESTINATION": "!bücher.example\n*"}
    for target in ("http://bücher.example/", "BÜCHER.example.:443", "xn--bcher-kva.example:80"):
        assert 'denied by line 1 "!bücher.example"' in cli("explain", target, env=env).out
    assert "allowed by line 2" in cli("explain", "http://free.fr:8080/squid-internal-mgr", env=env).out
    assert "cache manager" in cli("explain", "http://free.fr:8080/squid-internal-mgr/info", env=env).out
    wrong = cli("explain", "http://\u2603\u200d.example/", env=env)
    assert (wrong.status, "is not a host name" in wrong.err) == (2, True)


def test_explain_names_the_line(cli: CommandLine) -> None:
    result = cli("explain", "8080/TCP")
    assert (result.status, result.err) == (0, "")
    assert result.out == (
        'IPv4 tcp port 8080: line 2 "8080 tcp 203.0.113.26 80" sends it to 203.0.113.26:80, '
        "leaving with 192.0.2.46 by 192.0.2.1\n"
    )


def test_explain_without_a_protocol_tells_all(cli: CommandLine) -> None:
    rows = cli("explain", "80", "-o", "json", env=BOTH).json
    assert [(row["family"], row["protocol"], row["line"]) for row in rows] == [
        (4, "tcp", 1),
        (4, "udp", 3),
        (4, "sctp", 3),
        (6, "tcp", None),
        (6, "udp", None),
        (6, "sctp", None),
    ]
    assert rows[0] == {
        "family": 4,
        "protocol": "tcp",
        "port": 80,
        "line": 1,
        "rule": "80 tcp 203.0.113.25",
        "address": "203.0.113.25",
        "name": None,
        "to_port": 80,
        "source": "192.0.2.46",
    }


def test_names_are_shown_and_not_looked_up(cli: CommandLine) -> None:
    text = "443 tcp api.example.com 8443\nfallback.example.com"
    env = {**ROUTER, "EGRESS_ROUTER_MODE": "legacy", "EGRESS_DESTINATION": text}
    told = cli("explain", "443/tcp", env=env)
    assert (told.status, told.err) == (0, "")
    assert told.out.startswith(
        'IPv4 tcp port 443: line 1 "443 tcp api.example.com 8443" sends it to one of the IPv4 addresses of '
        "api.example.com, port 8443 ("
    )
    assert told.out.endswith("leaving with 192.0.2.46 by 192.0.2.1\n")
    row = cli("explain", "53/udp", "-o", "json", env=env).json[0]
    assert (row["line"], row["name"], row["address"], row["to_port"]) == (2, "fallback.example.com", None, 53)
    plan = cli("plan", "--pod", "sample", env=env)
    assert "line 1: 443 tcp api.example.com 8443, every address of api.example.com, as `egress-router run`" in plan.out
    found = cli("plan", "--pod", "sample", "-o", "json", env=env).json["destinations"]
    assert [item["name"] for item in found] == ["api.example.com", "fallback.example.com"]
    assert "2 redirect rules; ok" in cli("check", env=env).out
    refused = cli("check", env={**env, "EGRESS_ROUTER_MODE": "init"})
    assert refused.status == 78
    assert "`egress-router run` takes names" in refused.err


def test_explain_says_what_is_refused(cli: CommandLine) -> None:
    result = cli("explain", "81/tcp", env={**ROUTER, "EGRESS_DESTINATION": "80 tcp 203.0.113.25"})
    assert result.out == "IPv4 tcp port 81: no line claims it and there is no fallback: refused\n"


def test_explain_of_the_proxies(cli: CommandLine) -> None:
    env = {**PROXY, "EGRESS_HTTP_PROXY_DESTINATION": "!perdu.com\n*", "EGRESS_DNS_PROXY_DESTINATION": "80 example.com"}
    denied = cli("explain", "http://perdu.com/", env=env)
    assert (denied.status, denied.err) == (0, "")
    assert denied.out.startswith("perdu.com port 80: denied")
    assert cli("explain", "free.fr:443", "-o", "json", env=env).json[0]["decision"] == "allowed"
    assert "example.com" in cli("explain", "80", env=env).out


@pytest.mark.parametrize("target", ["0/tcp", "65536", "0443/tcp", "http", "80/icmp", "80/", "-1", "80/tcp/x", "٨٠"])
def test_explain_of_what_is_no_port(cli: CommandLine, target: str) -> None:
    result = cli("explain", "--", target)
    assert result.status == 2
    assert result.err.startswith("egress-router: ")


def test_explain_of_other_modes(cli: CommandLine) -> None:
    result = cli("explain", "80/tcp", env={**ROUTER, "EGRESS_ROUTER_MODE": "dns-proxy"})
    assert result.status == 2
    assert "no EGRESS_DESTINATION to explain a port with" in result.err


@pytest.mark.parametrize("words", [["plan", "--pod", "sample"], ["explain", "80"], ["status"]])
def test_bad_variables(cli: CommandLine, words: list[str]) -> None:
    result = cli(*words, env={**ROUTER, "EGRESS_SOURCE": "x"})
    assert result.status == 78
    assert "EGRESS_SOURCE" in result.err
    assert result.out == ""


@pytest.mark.parametrize("words", [["plan", "--pod", "sample"], ["explain", "80"]])
def test_warnings_come_once(cli: CommandLine, words: list[str]) -> None:
    result = cli(*words, env={**ROUTER, "EGRESS_SORCE": "x"})
    assert result.status == 0
    assert result.err.count("EGRESS_SORCE") == 1


def test_explain_by_client_and_by_name(cli: CommandLine) -> None:
    policy = "www.example.com\n[from 10.1.0.0/16]\n*.example.com"
    env = {"EGRESS_HTTP_PROXY_DESTINATION": policy}
    told = cli("explain", "http://a.example.com/", env=env).out.splitlines()
    assert [line.partition(": ")[0] for line in told] == [
        "a.example.com port 80, for all other clients",
        'a.example.com port 80, for clients of line 2 "[from 10.1.0.0/16]"',
    ]
    assert "allowed by line 3" in cli("explain", "http://a.example.com/", "--client", "10.1.2.3", env=env).out
    assert "no line matches" in cli("explain", "http://a.example.com/", "--client", "10.2.2.3", env=env).out
    assert cli("explain", "http://a.example.com/", "--client", "10.2.2", env=env).status == 2
    env = {"EGRESS_TLS_PROXY_DESTINATION": policy, "EGRESS_SOURCE": "192.0.2.46"}
    rows = cli("explain", "https://a.example.com/", "--client", "10.1.2.3", "-o", "json", env=env).json
    assert [(row["decision"], row["line"], row["by_name"], row["clients"]) for row in rows] == [
        ("allowed", 3, True, "client 10.1.2.3")
    ]
    assert "an address, not a name" in cli("explain", "https://192.0.2.1/", "--client", "10.1.2.3", env=env).out
    assert "nothing listens for TLS on port 444" in cli("explain", "www.example.com:444", env=env).out
