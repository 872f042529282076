"""The DNS proxy router follows a name server whose answers change while it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab import Lab
from tests.dns_proxy.kernel.dns_proxy_pod import CLOSED, DnsProxyPod, echoes
from tests.support.endpoint import Endpoint

pytestmark = pytest.mark.root

ONE, TWO, THREE = "203.0.113.25", "203.0.113.26", "203.0.113.27"


@pytest.fixture
def shape() -> str:
    """One CNI shape is enough here: how packets leave is another test's question."""
    return "bridge"


@pytest.fixture
def servers(lab: Lab) -> Lab:
    """Three servers."""
    for server in (ONE, TWO, THREE):
        lab.echo(server, tcp=[80])
    return lab


def test_answers_that_change(servers: Lab, open_directory: Path) -> None:
    dns = servers.dns
    dns.set("example.com", rcode="NXDOMAIN")
    with DnsProxyPod(servers, open_directory, "80 example.com\n", families="4") as pod:
        assert pod.fails(80) in CLOSED

        dns.set("example.com", A=[ONE, TWO])
        pod.until_served_by(80, {ONE, TWO})

        dns.set("example.com", A=[ONE])
        pod.until_served_by(80, {ONE})
        with pod.hold(80) as held:
            dns.set("example.com", A=[TWO, THREE])
            pod.until_served_by(80, {TWO, THREE})
            # Neither the removal nor the reuse of its slot touches an open connection.
            assert echoes(held)

            for rcode in ("SERVFAIL", "NXDOMAIN"):
                dns.set("example.com", rcode=rcode)
                asked_twice = len(dns.queries) + 2
                pod.until(lambda asked_twice=asked_twice: len(dns.queries) >= asked_twice)  # type: ignore[misc]
                assert set(pod.served(80, 4)) == {TWO, THREE}, rcode

            dns.stop()
            assert set(pod.served(80, 4)) == {TWO, THREE}
            dns.start()
            dns.set("example.com", A=[ONE])
            pod.until_served_by(80, {ONE}, seconds=30)
            assert echoes(held)
    assert "stay in use" in pod.messages()


@pytest.mark.parametrize(
    "limits",
    [{"edns": False}, {"tcp": False}],
    ids=["over TCP, a server without EDNS", "over UDP with EDNS"],
)
def test_sixty_addresses(lab: Lab, open_directory: Path, limits: dict[str, Any]) -> None:
    many = [f"203.0.113.{last}" for last in range(101, 161)]
    for address in many:
        lab.echo(address, tcp=[80])
    lab.dns.set("many.example.com", A=many[:2])
    lab.dns.limits(**limits)
    with DnsProxyPod(lab, open_directory, "80 many.example.com\n", families="4") as pod:
        assert set(pod.served(80, 4)) == set(many[:2])
        lab.dns.set("many.example.com", A=many)
        pod.until(lambda: "many.example.com: 60 addresses" in pod.messages())
        # They take turns.
        assert set(pod.served(80, 120)) == set(many)
        lab.dns.set("many.example.com", A=many[-1:])
        pod.until(lambda: "many.example.com: 1 address " in pod.messages())
        assert pod.served(80, 5) == {many[-1]: 5}


def test_search_domains_and_name_servers(servers: Lab, open_directory: Path) -> None:
    dns = servers.dns
    dns.set("db.first.example", rcode="SERVFAIL")
    dns.set("db.second.example", A=[ONE])
    dns.set("www.example.com", A=[TWO])
    dns.set("www.example.com.second.example", A=[THREE])
    pod = DnsProxyPod(servers, open_directory, "80 db\n81 www.example.com 80\n82 www.example.com. 80\n", families="4")
    # As the C library does: what is unusable is passed over, line by line.
    pod.router.set_resolv_conf(
        f"nameserver dns.example.com\nnameserver {dns.address}:53\nsearch {'x' * 64}.example first.example "
        f"second.example\nnameserver {dns.address}\noptions ndots:5 timeout:1 attempts:2 rotate\n"
    )
    with pod:
        assert pod.served(80, 2) == {ONE: 2}
        assert pod.served(81, 2) == {TWO: 2}, "a name with a dot is asked as it is, whatever ndots says"
        assert not [query for query in dns.queries if query.name.startswith("www.example.com.")], "and only as it is"
        assert "db: 1 address (+203.0.113.25), answered as db.second.example." in pod.messages()
        assert (
            json.loads(Endpoint(pod.client, pod.address).get("/status")[1])["names"]["db"]["answered_as"]
            == "db.second.example."
        )
        assert pod.served(82, 2) == {TWO: 2}, "a trailing dot makes it absolute"
        dns.set("db.first.example", A=[TWO])
        pod.until_served_by(80, {TWO})
        dns.set("db.first.example", rcode="SERVFAIL")
        before = len(dns.queries)
        pod.until(lambda: len(dns.queries) > before + 6)
        assert pod.served(80, 2) == {TWO: 2}, "a name server in trouble must not lead to another host"


def test_hosts_of_the_pod(servers: Lab, open_directory: Path) -> None:
    """hostAliases of the pod are in /etc/hosts."""
    servers.dns.set("db.example.com", A=[THREE])
    servers.dns.set("www.example.com", A=[THREE])
    pod = DnsProxyPod(servers, open_directory, "80 db.example.com\n81 alias 80\n82 www.example.com 80\n", families="4")
    pod.router.set_hosts(
        f"127.0.0.1 localhost\n{ONE} DB.example.com db # comment\n{TWO} alias\nnonsense www.example.com\n"
    )
    with pod:
        assert pod.served(80, 2) == {ONE: 2}
        assert pod.served(81, 2) == {TWO: 2}
        assert pod.served(82, 2) == {THREE: 2}, "the control"
        assert {query.name for query in servers.dns.queries} == {"www.example.com"}
        pod.router.set_hosts(f"127.0.0.1 localhost\n{TWO} db.example.com\n{TWO} alias\n")
        pod.until_served_by(80, {TWO})


def test_name_servers_of_the_variable(servers: Lab, open_directory: Path) -> None:
    servers.dns.set("example.com", A=[ONE])
    nameserver = str(servers.dns.address)
    pod = DnsProxyPod(servers, open_directory, "80 example.com\n", families="4", DNS_PROXY_NAMESERVERS=nameserver)
    pod.router.set_resolv_conf("# no name server here\n")
    with pod:
        # The init container did not know of this one: it is asked through the gateway, on the LAN.
        assert pod.served(80, 2) == {ONE: 2}


def test_addresses_that_must_not_be_used(servers: Lab, open_directory: Path) -> None:
    pod = DnsProxyPod(servers, open_directory, "80 rebind.example.com\n", families="4")
    own = pod.address
    servers.dns.set("rebind.example.com", A=["127.0.0.1", "169.254.169.254", "0.0.0.0", own, "192.0.2.46", ONE])
    with pod:
        assert pod.served(80, 10) == {ONE: 10}
        assert f"{own} is not used: it is an address of this pod" in pod.messages()
        assert "127.0.0.1 is not used: it is a loopback address" in pod.messages()


def test_addresses_that_carry_an_ipv4_address(servers: Lab, open_directory: Path) -> None:
    """A translator or tunnel on the way would make 127.0.0.1, the metadata service or the pod itself of these."""
    six = "2001:db8:113::25"
    servers.echo(six, tcp=[80])
    pod = DnsProxyPod(servers, open_directory, "80 rebind.example.com\n", families="46")
    hexadecimal = "".join(f"{int(part):02x}" for part in pod.address.split("."))
    own = f"{hexadecimal[:4]}:{hexadecimal[4:]}"
    refused = [
        "64:ff9b::127.0.0.1",
        "64:ff9b:1::169.254.169.254",
        "2002:7f00:1::1",
        "::169.254.169.254",
        "::ffff:0:127.0.0.1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "2001:db8:113::5efe:127.0.0.1",
        "fd00:ec2::254",
        f"64:ff9b::{own}",
    ]
    servers.dns.set("rebind.example.com", A=["0.1.2.3"], AAAA=[*refused, six])
    with pod:
        assert pod.served(80, 12) == {six: 12}
        assert pod.messages().count("is not used") == len(refused) + 1
        assert "127.0.0.1 inside" in pod.messages()


def test_health_checks_are_opt_in(servers: Lab, open_directory: Path) -> None:
    """An address where nobody listens costs a retry without a check, and nothing with one."""
    servers.dns.set("example.com", A=[ONE, "203.0.113.99"])
    servers.echo("203.0.113.99", tcp=[9])
    with DnsProxyPod(servers, open_directory, "80 example.com\n81 example.com 80 check\n", families="4") as pod:
        assert pod.served(80, 6) == {ONE: 6}
        pod.until(lambda: any(entry["retries"] != "0" for entry in pod.access_log()))
        pod.until(lambda: "is DOWN" in pod.messages())
        assert pod.served(81, 6) == {ONE: 6}
        pod.until(lambda: len([entry for entry in pod.access_log() if entry["port"] == 81]) == 6)
        assert {entry["retries"] for entry in pod.access_log() if entry["port"] == 81} == {"0"}

        # The slot of the dead address is known as down; what moves into it is not.
        servers.dns.set("example.com", A=[ONE, TWO])
        pod.until_served_by(80, {ONE, TWO})
        assert set(pod.served(81, 4)) == {ONE, TWO}
