"""Every grammar form carries real TCP and UDP, in both CNI shapes, both families, on both NAT backends."""

from __future__ import annotations

import pytest

from lab import Lab, NoReply
from tests.redirect.kernel.router import SOURCE4, SOURCE6, Router, assert_answered_by, assert_no_leak

pytestmark = pytest.mark.root


def serve(lab: Lab) -> None:
    """Start the external servers that RULES point to."""
    lab.echo("203.0.113.25", tcp=[80], udp=[53])
    lab.echo("203.0.113.26", tcp=[53, 80, 7000, 7010, 8000, 8010], udp=[7005])
    lab.echo("203.0.113.27", tcp=[12345], udp=[12345])
    lab.echo("2001:db8:113::25", tcp=[443])
    lab.echo("2001:db8:113::26", tcp=[443], udp=[500, 600])
    lab.echo("2001:db8:113::27", tcp=[12345], udp=[12345])


TCP = [
    (4, 80, "203.0.113.25", 80),
    (4, 8080, "203.0.113.26", 80),
    (4, 53, "203.0.113.26", 53),
    (4, 8000, "203.0.113.26", 8000),
    (4, 8010, "203.0.113.26", 8010),
    (4, 9000, "203.0.113.26", 7000),
    (4, 9010, "203.0.113.26", 7010),
    (4, 12345, "203.0.113.27", 12345),
    (6, 443, "2001:db8:113::25", 443),
    (6, 8443, "2001:db8:113::26", 443),
    (6, 12345, "2001:db8:113::27", 12345),
]
UDP = [
    (4, 53, "203.0.113.25", 53),
    (4, 9005, "203.0.113.26", 7005),
    (4, 12345, "203.0.113.27", 12345),
    (6, 500, "2001:db8:113::26", 500),
    (6, 600, "2001:db8:113::26", 600),
    (6, 12345, "2001:db8:113::27", 12345),
]


def test_every_form_carries_traffic(lab: Lab, backend: str) -> None:
    serve(lab)
    router = Router(lab, backend)
    node = lab.nodes[0]
    # Positive control: the servers answer a pod directly, with the node's address.
    assert_answered_by(lab.tcp(router.client, "203.0.113.25", 80), str(node.addresses[4]), "203.0.113.25", 80)
    assert_answered_by(lab.tcp(router.client, "2001:db8:113::25", 443), str(node.addresses[6]), "2001:db8:113::25", 443)

    with lab.capture() as capture:
        router.init()
        for family, port, server, to_port in TCP:
            source = SOURCE4 if family == 4 else SOURCE6
            assert_answered_by(router.tcp(port, family), source, server, to_port)
        for family, port, server, to_port in UDP:
            source = SOURCE4 if family == 4 else SOURCE6
            assert_answered_by(router.udp(port, family), source, server, to_port)
    assert_no_leak(capture)
    assert capture.owner_mac(SOURCE4) == router.macvlan_mac
    assert capture.owner_mac(SOURCE6) == router.macvlan_mac


def test_counters_tell_which_line_was_used(lab: Lab, backend: str) -> None:
    serve(lab)
    router = Router(lab, backend)
    # All packets are counted where all pass the rules.
    router.env["EGRESS_FLOW_OFFLOAD"] = "off"
    router.init()
    for _ in range(3):
        router.tcp(8080)
    router.tcp(9003 + 7)
    router.tcp(12345)
    router.udp(53)
    rows = {row["line"]: row for row in router.status()["destinations"]}
    connections = {line: row["connections"] for line, row in rows.items() if row["connections"]}
    assert connections == {3: 3, 7: 1, 12: 1, 4: 1}
    # A TCP echo is at least SYN, SYN+ACK, ACK, data both ways; UDP is one datagram each way.
    assert rows[3]["packets"] >= 15
    assert rows[3]["bytes"] > 15 * 40
    assert rows[4]["packets"] == 2
    assert rows[12]["packets"] >= 5
    assert rows[2]["packets"] == 0


def test_unlisted_ports_are_refused(lab: Lab, backend: str) -> None:
    serve(lab)
    router = Router(lab, backend, rules="80 tcp 203.0.113.25\n443 tcp 2001:db8:113::25\n")
    router.init()
    assert router.tcp(80).startswith(SOURCE4)
    assert router.tcp(443, 6).startswith(SOURCE6)
    for family in (4, 6):
        with pytest.raises(NoReply) as refused:
            router.tcp(81, family)
        assert refused.value.reason == "refused"


def test_a_pod_of_its_own_leaves_with_the_source(lab: Lab, backend: str) -> None:
    """The seed: entering the pod, all its traffic leaves with EGRESS_SOURCE."""
    serve(lab)
    router = Router(lab, backend)
    with lab.capture() as capture:
        router.init()
        assert_answered_by(lab.tcp(router.host, "203.0.113.25", 80), SOURCE4, "203.0.113.25", 80)
        assert_answered_by(lab.tcp(router.host, "2001:db8:113::25", 443), SOURCE6, "2001:db8:113::25", 443)
    assert_no_leak(capture)


def test_proxy_modes_set_up_the_network_half_only(lab: Lab, backend: str) -> None:
    serve(lab)
    router = Router(lab, backend)
    with lab.capture() as capture:
        router.init(EGRESS_ROUTER_MODE="http-proxy", EGRESS_DESTINATION=None)
        assert_answered_by(lab.tcp(router.host, "203.0.113.25", 80), SOURCE4, "203.0.113.25", 80)
        with pytest.raises(NoReply):
            router.tcp(80, timeout=1)
        server = lab.echo(router.host.addresses[4], tcp=[8080], host=router.host)
        assert router.tcp(8080).startswith(str(router.client.addresses[4]))
        server.close()
    assert_no_leak(capture)
    assert router.host.sysctl("net.ipv4.conf.eth0.forwarding") == "0"
    assert router.host.sysctl("net.ipv4.conf.macvlan0.forwarding") == "0"
    assert router.host.sysctl("net.ipv4.ip_unprivileged_port_start") == "0"


def test_clients_of_other_subnets_and_dns_keep_working(make_lab: object, shape: str, backend: str) -> None:
    lab = make_lab(nodes=2, shape=shape)  # type: ignore[operator]
    serve(lab)
    lab.dns.set("service.example", A=["203.0.113.25"])
    router = Router(lab, backend)
    far = lab.pod("far", node=1)
    query = ["dig", "+short", "+time=1", "+tries=3", "service.example"]
    assert router.host.run(query).stdout.split() == ["203.0.113.25"]
    for rp_filter in (0, 1, 2):
        router.host.sysctl("net.ipv4.conf.all.rp_filter", rp_filter)
        with lab.capture() as capture:
            router.init()
            assert_answered_by(router.tcp(80, client=far), SOURCE4, "203.0.113.25", 80)
            assert_answered_by(router.tcp(443, 6, client=far), SOURCE6, "2001:db8:113::25", 443)
            assert_answered_by(router.udp(53, client=far), SOURCE4, "203.0.113.25", 53)
            assert router.host.run(query).stdout.split() == ["203.0.113.25"]
        assert_no_leak(capture)


def test_one_family_leaves_and_the_other_one_still_asks_its_nameserver(lab: Lab, backend: str) -> None:
    """IPv6 alone leaves; the nameserver of the cluster has an IPv4 address; nothing leaves by IPv4."""
    serve(lab)
    lab.dns.set("service.example", AAAA=["2001:db8:113::25"])
    router = Router(lab, backend, rules="443 tcp 2001:db8:113::25\n")
    with lab.capture() as capture:
        router.init(EGRESS_SOURCE=SOURCE6, EGRESS_GATEWAY="2001:db8:2::1")
        query = ["dig", "+short", "+time=1", "+tries=3", "service.example", "AAAA"]
        assert router.host.run(query).stdout.split() == ["2001:db8:113::25"]
        assert_answered_by(router.tcp(443, 6), SOURCE6, "2001:db8:113::25", 443)
        with pytest.raises(NoReply):
            lab.tcp(router.host, "203.0.113.25", 80, timeout=1)
    assert_no_leak(capture)


def test_a_foreign_policy_rule_among_our_priorities_is_left_alone(lab: Lab) -> None:
    router = Router(lab, "nftables", rules="80 tcp 203.0.113.25\n")
    router.host.run(["ip", "rule", "add", "priority", "14605", "lookup", "main"])
    router.init()
    assert "nothing changed" in router.init().stderr
    assert "14605:\tfrom all lookup main" in router.host.run(["ip", "rule"]).stdout
    assert router.status()["state"] == "ok"
