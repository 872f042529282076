"""What every NAT backend owes. Packets are the business of the kernel tests; this is about state."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from egress_router.config.inputs import Problems, load_inputs
from egress_router.config.values import Family
from egress_router.redirect.destinations import parse_rules
from egress_router.redirect.values import Counters, Ruleset, Translation
from tests.redirect.contract.conftest import Backend

pytestmark = pytest.mark.root

RULES = """
80 tcp 203.0.113.25
53 udp 203.0.113.25
8080 tcp 203.0.113.26 80
8000-8010 tcp 203.0.113.26
9000-9010 tcp 203.0.113.26 7000-7010
443 tcp 2001:db8:113::25
8443 tcp 2001:db8:113::25 443
500-600 udp 2001:db8:113::26
203.0.113.27
2001:db8:113::27
"""
MANY = "".join(
    f"{port} {('tcp', 'udp')[port % 2]} 203.0.113.{port % 250 + 1} {port % 7 + 80}\n" for port in range(1, 400)
)
NAMES = """
443 tcp api.example.com
8080 tcp api.example.com 80
53 udp dns.example.com
8000-8003 tcp web.example.com
9000-9003 tcp web.example.com 7000-7003
80 tcp 203.0.113.25
fallback.example.com
"""
ONE, TWO, SIX = "203.0.113.25", "203.0.113.26", "2001:db8:113::25"
ANSWERS = [(), (ONE,), (ONE, TWO, "203.0.113.27", SIX), (SIX, "2001:db8:113::26"), (TWO,)]


def rules(text: str) -> Ruleset:
    if not text:
        return Ruleset()
    problems = Problems()
    found = parse_rules(load_inputs({"EGRESS_DESTINATION": text}), {}, problems, required=False, names=True)
    assert not problems.errors
    return found


def translation(text: str = RULES, *addresses: str) -> Translation:
    """The state for rules; every name in them has ``addresses``."""
    found = rules(text)
    return Translation(
        egress="macvlan0",
        cluster="eth0",
        pod_addresses={
            Family.IPV4: (ip_address("198.51.100.2"),),
            Family.IPV6: (ip_address("2001:db8:a:1::2"), ip_address("2001:db8:a:1::3")),
        },
        sources={Family.IPV4: ip_address("192.0.2.46"), Family.IPV6: ip_address("2001:db8:2::46")},
        rules=found,
        answers=dict.fromkeys(found.names, tuple(map(ip_address, addresses))),
        cluster_prefixes={
            Family.IPV4: (ip_network("198.51.100.0/27"), ip_network("198.51.100.0/24"), ip_network("192.0.2.53/32")),
            Family.IPV6: (ip_network("2001:db8:a:1::/64"),),
        },
    )


@pytest.mark.parametrize("text", [RULES, MANY, "203.0.113.27\n", ""], ids=["all forms", "many", "fallback", "none"])
def test_applied_state_has_no_drift_and_a_second_apply_changes_nothing(backend: Backend, text: str) -> None:
    desired = translation(text)
    assert backend.call("drift", desired), "an empty kernel is no drift: this check proves nothing"
    assert backend.call("apply", desired) is True
    assert backend.call("drift", desired) == []
    before = backend.rules()
    assert backend.call("apply", desired) is False
    assert backend.rules() == before


@pytest.mark.parametrize("sources", [(Family.IPV4,), (Family.IPV6,)])
def test_one_family(any_backend: Backend, sources: tuple[Family, ...]) -> None:
    text = "80 tcp 203.0.113.25\n" if sources == (Family.IPV4,) else "80 tcp 2001:db8:113::25\n"
    whole = translation(text)
    desired = replace(whole, sources={family: whole.sources[family] for family in sources})
    assert any_backend.call("apply", desired) is True
    assert any_backend.call("drift", desired) == []
    assert any_backend.call("apply", desired) is False


def test_remove_leaves_nothing(backend: Backend) -> None:
    backend.host.run(["iptables-legacy-save"])
    for save in ("iptables-legacy", "ip6tables-legacy"):
        for table in ("filter", "mangle", "nat"):
            # The first look registers a table; afterwards its empty form is what "nothing" looks like.
            backend.host.run([save, "-t", table, "-L", "-n"])
    before = backend.rules()
    backend.call("apply", translation())
    assert backend.rules() != before
    backend.call("remove")
    assert backend.rules() == before


def test_any_change_of_rules_ends_in_the_state_of_a_fresh_start(backend: Backend) -> None:
    names = "443 tcp api.example.com\n8080 tcp api.example.com 80\n203.0.113.27\n"
    states = [RULES, NAMES, names, MANY, "80 tcp 203.0.113.26\n", NAMES, "203.0.113.27\n", "", RULES]
    for text in states:
        desired = translation(text, ONE, TWO, SIX)
        assert backend.calls(("apply", desired), ("drift", desired))[1] == []
    changed = backend.rules()
    backend.call("remove")
    backend.call("apply", translation(states[-1]))
    assert sorted(backend.rules().splitlines()) == sorted(changed.splitlines())


TAMPERING = {
    "iptables": [
        "iptables-legacy -D EGRESSR-FORWARD 1",
        "iptables-legacy -A EGRESSR-FORWARD -j ACCEPT",
        "iptables-legacy -I FORWARD 1 -s 192.0.2.7 -j ACCEPT",
        "iptables-legacy -D FORWARD -j EGRESSR-FORWARD",
        "iptables-legacy -t nat -F EGRESSR-PREROUTING",
        "iptables-legacy -t nat -R EGRESSR-POSTROUTING 1 -j SNAT --to-source 192.0.2.47",
        "iptables-legacy -t nat -N EGRESSR-other",
        "iptables-legacy -t mangle -F EGRESSR-FORWARD",
        "ip6tables-legacy -t nat -F PREROUTING",
        "ip6tables-legacy -F EGRESSR-INPUT",
    ],
    "nftables": [
        "nft delete table inet egress_router",
        "nft flush chain inet egress_router forward",
        "nft add rule inet egress_router forward accept",
        "nft insert rule inet egress_router output accept",
        "nft add chain inet egress_router other",
        "nft delete element inet egress_router redirect4 { tcp . 80 }",
        "nft add element inet egress_router redirect4 { tcp . 81 : 203.0.113.99 . 81 }",
        "nft add element inet egress_router cluster4 { 203.0.113.0/24 }",
        "nft flush set inet egress_router lines4_tcp",
        "nft add chain inet egress_router forward { policy accept \\; }",
    ],
}


def test_tampering_is_seen_and_mended(backend: Backend) -> None:
    desired = translation()
    backend.call("apply", desired)
    clean = backend.rules()
    for command in TAMPERING[backend.name]:
        backend.host.run(["sh", "-c", command])
        drift = backend.call("drift", desired)
        assert drift, command
        assert backend.call("repair", desired) == drift, command
        assert backend.call("drift", desired) == [], command
        foreign = "-s 192.0.2.7" in command
        assert sorted(line for line in backend.rules().splitlines() if "192.0.2.7/32" not in line) == sorted(
            clean.splitlines()
        ), command
        assert ("192.0.2.7/32" in backend.rules()) == foreign, "a foreign rule was touched"
        if foreign:
            backend.host.run(["iptables-legacy", "-D", "FORWARD", "-s", "192.0.2.7", "-j", "ACCEPT"])


def test_names_have_no_drift_whatever_their_answers(any_backend: Backend) -> None:
    for addresses in ANSWERS:
        desired = translation(NAMES, *addresses)
        changed, drift, again, counters = any_backend.calls(
            ("apply", desired), ("drift", desired), ("apply", desired), ("counters", desired)
        )
        assert (changed, drift, again) == (True, [], False), addresses
        assert counters == {rule.line: Counters() for rule in desired.rules.all}


def test_another_answer_alone_ends_in_the_state_of_a_fresh_start(backend: Backend) -> None:
    backend.call("apply", translation(NAMES))
    for addresses in (*ANSWERS[1:], ANSWERS[2]):
        desired = translation(NAMES, *addresses)
        before, _, after = backend.calls(
            ("drift", desired), ("update_targets", desired, desired.rules.names), ("drift", desired)
        )
        assert before, "the answer before was the same"
        assert after == []
    changed = backend.rules()
    backend.calls(("remove",), ("apply", desired))
    assert sorted(backend.rules().splitlines()) == sorted(changed.splitlines())


def test_only_the_names_that_are_told_get_other_targets(any_backend: Backend) -> None:
    before, after = translation(NAMES, ONE), translation(NAMES, TWO)
    api = before.rules.names[0]
    assert str(api) == "api.example.com"
    mixed = replace(before, answers={**(before.answers or {}), api: (ip_address(TWO),)})
    assert any_backend.calls(("apply", before), ("update_targets", after, [api]), ("drift", mixed))[2] == []


def test_other_targets_keep_what_was_counted(backend: Backend) -> None:
    """The rule's own counter and that of what found no address are set by hand."""
    text = "443 tcp api.example.com\n80 tcp web.example.com\n"
    before, after = translation(text, ONE), translation(text, ONE, TWO)
    backend.call("apply", before)
    if backend.name == "iptables":
        match = "-p tcp -m tcp --dport 443"
        mark = before.rules.names[0].mark
        lines = [
            "*nat",
            ":EGRESSR-PREROUTING - [0:0]",
            ":EGRESSR-to-tcp-443 - [0:0]",
            "[0:0] -A EGRESSR-PREROUTING -p tcp -m tcp --dport 80 -g EGRESSR-to-tcp-80",
            f"[7:420] -A EGRESSR-PREROUTING {match} -g EGRESSR-to-tcp-443",
            f"-A EGRESSR-to-tcp-443 -j CONNMARK --set-xmark {mark:#x}/0xffffffff",
            f"[0:0] -A EGRESSR-to-tcp-443 {match} -j DNAT --to-destination {ONE}",
            f"[2:120] -A EGRESSR-to-tcp-443 {match} -j ACCEPT",
            "COMMIT",
        ]
        backend.host.run(["iptables-legacy-restore", "-c", "-n"], input="\n".join(lines) + "\n")
    else:
        table = "inet egress_router"
        counted = "443 counter packets 7 bytes 420 : goto name4_tcp_443"
        script = [
            f"delete element {table} named4_tcp {{ 443 }}",
            f"add element {table} named4_tcp {{ {counted} }}",
            f"flush chain {table} name4_tcp_443",
            f"add rule {table} name4_tcp_443 jump answer4_tcp_443",
            f"add rule {table} name4_tcp_443 counter packets 2 bytes 120 drop",
        ]
        backend.host.run(["nft", "-f", "-"], input="\n".join(script) + "\n")
    assert backend.call("drift", before) == []
    assert backend.call("counters", before)[1].connections == 5
    backend.call("update_targets", after, after.rules.names)
    assert backend.call("drift", after) == []
    assert backend.call("counters", after)[1].connections == 5
    more = translation(text + "81 tcp more.example.com\n", ONE)
    backend.call("apply", more)
    assert backend.call("counters", more)[1].connections == 5


def test_where_answers_are_not_known_any_will_do_but_nothing_else(backend: Backend) -> None:
    backend.call("apply", translation(NAMES, ONE, TWO, SIX))
    unknown = replace(translation(NAMES), answers=None)
    assert backend.call("drift", unknown) == []
    command = {
        "iptables": "iptables-legacy -t nat -D EGRESSR-PREROUTING 1",
        "nftables": "nft flush chain inet egress_router name4_tcp_443",
    }[backend.name]
    backend.host.run(["sh", "-c", command])
    assert backend.call("drift", unknown) != []


def test_names_that_were_tampered_with_are_mended(backend: Backend) -> None:
    desired = translation(NAMES, ONE, TWO, SIX)
    backend.call("apply", desired)
    commands = {
        "iptables": [
            "iptables-legacy -t nat -F EGRESSR-to-tcp-443",
            "iptables-legacy -t nat -R EGRESSR-to-tcp-443 1 -j CONNMARK --set-xmark 0x1/0xffffffff",
            "ip6tables-legacy -F EGRESSR-LATE",
        ],
        "nftables": [
            "nft flush chain inet egress_router answer4_tcp_443",
            "nft add rule inet egress_router answer6_tcp_443 drop",
            "nft delete element inet egress_router named4_udp { 53 }",
        ],
    }
    for command in commands[backend.name]:
        backend.host.run(["sh", "-c", command])
        drift = backend.call("drift", desired)
        assert drift, command
        assert backend.call("repair", desired) == drift, command
        assert backend.call("drift", desired) == [], command


OF_OTHERS = {
    "iptables": [
        "iptables-legacy -t nat -N theirs",
        "iptables-legacy -t nat -A theirs -j ACCEPT",
        "iptables-legacy -t nat -A theirs",
        "iptables-legacy -t nat -A PREROUTING -s 192.0.2.9 -j theirs",
        "iptables-legacy -P INPUT DROP",
    ],
    "nftables": ["nft add table inet theirs", "nft add chain inet theirs c"],
}


#: Enough for a process that stays to have a child do the work.
MANY_MORE = MANY + "".join(f"{port} tcp 203.0.113.9\n" for port in range(20000, 20200))


@pytest.mark.parametrize("text", [RULES, MANY_MORE], ids=["all forms", "many"])
def test_a_process_that_stays_mends_the_same_and_leaves_alone_what_others_have(backend: Backend, text: str) -> None:
    """It remembers what it has seen, and must not take that for what is there."""
    tampering = TAMPERING[backend.name] if text == RULES else TAMPERING[backend.name][::5]
    commands = [*OF_OTHERS[backend.name], *tampering, tampering[0]]
    results = backend.stay(translation(text), commands)
    for command, (drift, mended, after) in zip(commands, results, strict=True):
        assert mended == drift, command
        assert after == [], command
    for command, (drift, *_) in zip(commands, results, strict=True):
        assert bool(drift) == (command not in OF_OTHERS[backend.name]), command
    rules = backend.rules()
    if backend.name == "iptables":
        for line in ("-A theirs -j ACCEPT", "-A theirs", "-A PREROUTING -s 192.0.2.9/32 -j theirs", ":INPUT DROP "):
            assert line in rules
        assert ("-s 192.0.2.7/32" in rules) == (text == RULES), "a foreign rule was touched"
    else:
        assert "table inet theirs" in rules


def test_counters_name_every_line(any_backend: Backend) -> None:
    desired = translation()
    any_backend.call("apply", desired)
    counters = any_backend.call("counters", desired)
    assert counters == {rule.line: Counters() for rule in desired.rules.all}


def test_unchanged_rules_keep_their_counters(backend: Backend) -> None:
    """Counters are set by hand, in the place where the backend's first line is counted."""
    before, after = translation("80 tcp 203.0.113.25\n81 tcp 203.0.113.25\n"), translation("80 tcp 203.0.113.25\n")
    backend.call("apply", before)
    if backend.name == "iptables":
        rule = "-A EGRESSR-PREROUTING -p tcp -m tcp --dport {} -j DNAT --to-destination 203.0.113.25"
        lines = [
            "*nat",
            ":EGRESSR-PREROUTING - [0:0]",
            f"[7:420] {rule.format(80)}",
            f"[0:0] {rule.format(81)}",
            "COMMIT",
        ]
        backend.host.run(["iptables-legacy-restore", "-c", "-n"], input="\n".join(lines) + "\n")
    else:
        element = "tcp . 80 counter packets 7 bytes 420 : 203.0.113.25 . 80"
        backend.host.run(["nft", "delete", "element", "inet", "egress_router", "redirect4", "{ tcp . 80 }"])
        backend.host.run(["nft", "add", "element", "inet", "egress_router", "redirect4", f"{{ {element} }}"])
    assert backend.call("drift", before) == []
    assert backend.call("counters", before)[1].connections == 7
    assert backend.call("apply", after) is True
    assert backend.call("counters", after)[1].connections == 7
