"""A router of a pair: its variables, what follows from them, what it hears, and when it is ready."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path

import pytest

from egress_router.config.inputs import Problems, load_inputs
from egress_router.config.values import Family, PortRange, Protocol
from egress_router.daemon.page.level import Level
from egress_router.daemon.page.view import RouterView, redacted
from egress_router.errors import PlatformError
from egress_router.manifests.pod import parse_pod
from egress_router.net.rtnetlink.values import LinkAddress, Observed
from egress_router.net.vrrp import Advert, parsed_advert
from egress_router.redirect.connections import Sieve
from egress_router.redirect.iptables_rules import iptables_tables
from egress_router.redirect.network_drift import network_drift
from egress_router.redirect.network_state import EGRESS_TABLE
from egress_router.redirect.nft_rules import nft_table
from egress_router.redirect.page import pair_row
from egress_router.redirect.pair.election import Election
from egress_router.redirect.pair.keepalived import Place, keepalived_conf, told_role
from egress_router.redirect.pair.lease import only_renewals
from egress_router.redirect.pair.state import PairState, Peer
from egress_router.redirect.pair.values import PairConfig, Role, advert_source, identity
from egress_router.redirect.plan import plan_network, plan_translation
from egress_router.redirect.run_config import parse_run
from egress_router.redirect.values import Mode, Redirect, Ruleset, RunConfig, Translation
from tests.redirect.unit.kernel_routes import apply, steps
from tests.redirect.unit.test_connections import CONNECTION
from tests.support.fake_loop import fake_loop
from tests.support.pods import BRIDGED, EGRESS, config

ENV = {
    "EGRESS_SOURCE": "192.0.2.46",
    "EGRESS_GATEWAY": "192.0.2.1",
    "EGRESS_DESTINATION": "80 tcp 203.0.113.25",
    "EGRESS_PAIR": "46",
}
MAC, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"


def parsed(**env: str) -> tuple[RunConfig | None, Problems]:
    problems = Problems()
    inputs = load_inputs({name: value for name, value in {**ENV, **env}.items() if value})
    return parse_run(inputs, problems), problems


def pair_of(**env: str) -> PairConfig:
    run, problems = parsed(**env)
    assert run is not None, problems.errors
    assert run.router.pair is not None
    return run.router.pair


def test_the_page_shows_a_standby_that_is_as_it_should_be() -> None:
    state = PairState(pair_of(), why="02:00:00:00:00:02 (169.254.0.2) has the address")
    row = pair_row(state)
    assert (row.name, row.level) == ("pair 46", Level.FINE)
    assert row.state == "standby: 02:00:00:00:00:02 (169.254.0.2) has the address"
    state.blocked = "somebody else has the address"
    assert pair_row(state).level is Level.CUT_OFF
    view = redacted(RouterView("redirect", 0.0, parts=[row]))
    assert (view.parts[0].name, view.parts[0].state) == ("pair", "fine")


def test_a_number_is_all_that_a_pair_needs() -> None:
    pair = pair_of()
    assert (pair.number, pair.priority, pair.interval, pair.address) == (46, 50, 0.15, None)
    assert parsed(EGRESS_PAIR="")[0].router.pair is None  # type: ignore[union-attr]


def test_without_a_health_port_nobody_can_tell_who_is_active() -> None:
    run, problems = parsed(EGRESS_HEALTH_PORT="off")
    assert run is not None
    assert "which router of the pair is active" in str(problems.warnings[0])
    assert not parsed()[1].warnings


def test_values() -> None:
    pair = pair_of(EGRESS_PAIR_PRIORITY="100", EGRESS_PAIR_INTERVAL="1s", EGRESS_PAIR_ADDRESS="192.0.2.47")
    assert (pair.priority, pair.interval, pair.address) == (100, 1.0, IPv4Address("192.0.2.47"))
    assert pair.sources == IPv4Network("192.0.2.47/32")
    assert pair_of(EGRESS_PAIR_INTERVAL="20ms").interval == 0.02


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("EGRESS_PAIR", "0", "is not a number from 1 to 255"),
        ("EGRESS_PAIR", "256", "is not a number from 1 to 255"),
        ("EGRESS_PAIR", "046", "is not a number from 1 to 255"),
        ("EGRESS_PAIR", "on", "is not a number from 1 to 255"),
        ("EGRESS_PAIR_PRIORITY", "101", "is not a number from 1 to 100"),
        ("EGRESS_PAIR_INTERVAL", "150", "tens of milliseconds from 20ms to 1000ms"),
        ("EGRESS_PAIR_INTERVAL", "15ms", "tens of milliseconds"),
        ("EGRESS_PAIR_INTERVAL", "155ms", "tens of milliseconds"),
        ("EGRESS_PAIR_INTERVAL", "2s", "tens of milliseconds"),
        ("EGRESS_PAIR_ADDRESS", "192.0.2.46", "is EGRESS_SOURCE itself"),
        ("EGRESS_PAIR_ADDRESS", "2001:db8::1", "is an IPv6 address"),
        ("EGRESS_PAIR_ADDRESS", "224.0.0.18", "a multicast address"),
        ("EGRESS_RUN_DIR", "run", "is not a path"),
        ("EGRESS_PAIR_PEERS", "192.0.2.46", "is EGRESS_SOURCE, which all of them share"),
        ("EGRESS_PAIR_PEERS", "-", "is neither an address nor a name"),
        ("EGRESS_PAIR_PEERS", "a " + " ".join(f"a{number}" for number in range(16)), "at most 16"),
    ],
)
def test_what_is_wrong_is_named(variable: str, value: str, said: str) -> None:
    run, problems = parsed(**{variable: value})
    assert run is None
    assert [(problem.variable, said in str(problem)) for problem in problems.errors] == [(variable, True)]


@pytest.mark.parametrize(
    "variable", ["EGRESS_PAIR_PRIORITY", "EGRESS_PAIR_INTERVAL", "EGRESS_PAIR_ADDRESS", "EGRESS_PAIR_PEERS"]
)
def test_settings_without_a_pair_are_a_mistake(variable: str) -> None:
    run, problems = parsed(EGRESS_PAIR="", **{variable: "100"})
    assert run is None
    assert "is not used without EGRESS_PAIR" in str(problems.errors[0])


def test_run_has_the_address_for_a_proxy_of_a_pair() -> None:
    """Beside it in the same pod, with a health port of its own; without a pair nobody need stay."""
    beside = {"EGRESS_ROUTER_MODE": "http-proxy", "EGRESS_DESTINATION": ""}
    run, problems = parsed(**beside, EGRESS_HEALTH_PORT="9912")
    assert run is not None, problems.errors
    assert run.router.pair is not None
    assert (run.router.mode, run.router.health_port, run.router.rules) == (Mode.HTTP_PROXY, 9912, Ruleset())
    run, problems = parsed(**beside)
    assert run is None
    assert "9909 is the port of the proxy in the same pod" in str(problems.errors[0])
    run, problems = parsed(**beside, EGRESS_PAIR="", EGRESS_HEALTH_PORT="9912")
    assert run is None
    assert "but for one beside a proxy of a pair, with EGRESS_PAIR" in str(problems.errors[0])
    run, problems = parsed(EGRESS_ROUTER_MODE="init")
    assert run is None
    assert "is not for a router that stays" in str(problems.errors[0])


@pytest.mark.parametrize("mode", ["init", "http-proxy", "dns-proxy"])
def test_an_init_container_may_be_of_a_pair(mode: str) -> None:
    """It sets up a standby; `run` in the same pod does the rest."""
    destinations = ENV["EGRESS_DESTINATION"] if mode == "init" else ""
    pod = parse_pod(load_inputs({**ENV, "EGRESS_ROUTER_MODE": mode, "EGRESS_DESTINATION": destinations}), Problems())
    assert pod.router is not None
    assert pod.router.pair is not None


def test_the_source_of_adverts_is_made_of_the_mac() -> None:
    pair = PairConfig(46)
    sources = {advert_source(pair, f"02:00:00:00:{high:02x}:{low:02x}") for high in range(8) for low in range(256)}
    assert len(sources) > 1880
    network = IPv4Network("169.254.192.0/18")
    assert all(item in network and item not in (network[0], network[-1]) for item in sources)
    assert advert_source(pair, MAC) == advert_source(pair, MAC) != advert_source(pair, OTHER)
    assert advert_source(replace(pair, address=IPv4Address("192.0.2.47")), MAC) == IPv4Address("192.0.2.47")


def test_a_pair_is_known_by_its_number_and_its_addresses() -> None:
    source, other = ip_address("192.0.2.46"), ip_address("2001:db8:2::46")
    found = {identity(PairConfig(number), sources) for number in (46, 47) for sources in ([source], [other, source])}
    assert len(found) == 4
    assert identity(PairConfig(46), [source, other]) == identity(PairConfig(46), [other, source])
    assert all(item.is_loopback and item.packed[1] for item in found)


def test_keepalived_is_told_who_we_are_and_nothing_about_the_address() -> None:
    pair = pair_of()
    text = keepalived_conf(
        pair, "macvlan0", IPv4Address("169.254.7.1"), IPv4Address("127.1.2.3"), Place(pair.directory / "pair")
    )
    lines = [line.strip() for line in text.splitlines()]
    for line in (
        "interface macvlan0",
        "virtual_router_id 46",
        "priority 200",
        "advert_int 0.15",
        "mcast_src_ip 169.254.7.1",
        "state BACKUP",
        "127.1.2.3/32 dev lo scope host no_track",
        "file /run/egress-router/pair/gateways",
        "weight -150",
    ):
        assert line in lines, line
    assert "192.0.2.46" not in text


@pytest.mark.parametrize(
    ("installed", "said"), [(True, "mount an emptyDir at /dev/null, or name another"), (False, "keepalived, by which")]
)
def test_what_keeps_keepalived_from_running_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool, said: str
) -> None:
    if installed:
        (tmp_path / "keepalived").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    election = Election(PairConfig(46, directory=Path("/dev/null")), fake_loop(), lambda *_: None)
    with pytest.raises(PlatformError, match=said):
        election.prepare("macvlan0", IPv4Address("169.254.7.1"), IPv4Address("127.1.2.3"))


def test_what_keepalived_could_not_be_told_is_told_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Else it would take an address that another machine has, and nobody would know why."""
    place = Place(tmp_path / "pair")
    election = Election(PairConfig(46, directory=tmp_path), fake_loop(), lambda *_: None)
    for _ in range(2):
        election.track(gateways=False, blocked=True)
    assert [record.getMessage() for record in caplog.records] == [
        "keepalived cannot be told 1 for blocked: No such file or directory"
    ]
    place.directory.mkdir()
    for file in (place.gateways, place.blocked):
        file.write_text("0\n")
    election.track(gateways=False, blocked=True)
    assert (place.gateways.read_text(), place.blocked.read_text()) == ("0\n", "1\n")
    election.track(gateways=False, blocked=False)
    assert place.blocked.read_text() == "0\n"


@pytest.mark.parametrize(
    ("line", "role"),
    [
        ('INSTANCE "router" MASTER 150', Role.ACTIVE),
        ('INSTANCE "router" BACKUP 50\n', Role.STANDBY),
        ('INSTANCE "router" FAULT 150', Role.FAULT),
        ('INSTANCE "router" STOP 150', Role.STANDBY),
        ('INSTANCE "router" MASTER_RX_LOWER_PRI 150', None),
        ('INSTANCE "other" MASTER 150', None),
        ('GROUP "router" MASTER 0', None),
        ("", None),
    ],
)
def test_roles_that_keepalived_tells(line: str, role: Role | None) -> None:
    assert told_role(line) is role


def advert(**wrong: int) -> bytes:
    """An Ethernet frame with an advert; a byte at a place may be wrong."""
    vrrp = struct.pack("!BBBBHH4s", 0x31, 46, 150, 1, 15, 0, bytes([127, 1, 2, 3]))
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(vrrp), 0, 0, 255, 112, 0, bytes([169, 254, 7, 1]), bytes([224, 0, 0, 18])
    )
    frame = bytearray(bytes.fromhex("01005e000012020000000001") + b"\x08\x00" + head + vrrp)
    for place, value in wrong.items():
        frame[int(place[1:])] = value
    return bytes(frame)


def test_an_advert_is_read() -> None:
    wanted = Advert(MAC, IPv4Address("169.254.7.1"), 46, 150, (IPv4Address("127.1.2.3"),))
    assert parsed_advert(advert()) == wanted
    assert parsed_advert(advert() + bytes(10)) == wanted


@pytest.mark.parametrize(
    "wrong", [{"_12": 0x86}, {"_14": 0x65}, {"_14": 0x44}, {"_22": 254}, {"_23": 17}, {"_34": 0x21}, {"_37": 3}]
)
def test_what_is_no_advert_is_not_taken_for_one(wrong: dict[str, int]) -> None:
    """Another EtherType, version or header length, one that a router has passed on, UDP, VRRP 2, cut addresses."""
    assert parsed_advert(advert(**wrong)) is None


@pytest.mark.parametrize("length", range(46))
def test_what_is_cut_is_no_advert(length: int) -> None:
    assert parsed_advert(advert()[:length]) is None


# What follows for the kernel

PORT = PortRange(80, 80)
REDIRECT = Redirect(1, Protocol.TCP, PORT, ip_address("203.0.113.25"), PORT)

HOLDS = config(pair=PairConfig(46), mode=Mode.LEGACY, rules=Ruleset((REDIRECT,)))
STANDBY = replace(HOLDS, holds=False)


def with_address(observed: Observed) -> Observed:
    return replace(
        observed,
        addresses=(*observed.addresses, *(LinkAddress(EGRESS, source) for source in HOLDS.sources.values())),
    )


def test_a_standby_has_neither_the_address_nor_a_way_out() -> None:
    network = plan_network(STANDBY, BRIDGED, EGRESS)
    assert not network.present_addresses
    out = [route for route in network.present_routes if route.interface == EGRESS]
    # For the reverse path filter: to where adverts come from, and nothing is sent.
    assert [str(route.destination) for route in out] == ["169.254.192.0/18"]
    ways = [route for route in network.present_routes if route.table == EGRESS_TABLE]
    assert {route.type for route in ways} == {"unreachable"}
    assert replace(network, held=True) == plan_network(HOLDS, BRIDGED, EGRESS)


def test_what_a_standby_must_not_have_is_drift() -> None:
    network = plan_network(STANDBY, BRIDGED, EGRESS)
    settled = apply(steps(network, BRIDGED), BRIDGED)
    assert network_drift(network, settled).lines() == []
    found = network_drift(network, with_address(settled)).lines()
    assert found == [f"+ address {source} dev {EGRESS}" for source in HOLDS.sources.values()]
    # And the one that has it misses it.
    assert (
        f"- address {HOLDS.sources[Family.IPV4]} dev {EGRESS}"
        in network_drift(replace(network, held=True), settled).lines()
    )


def test_address_and_ways_out_of_a_pair_end_by_themselves() -> None:
    """IPv4's routes go with their address, IPv6's have an end of their own."""
    network = plan_network(HOLDS, BRIDGED, EGRESS)
    assert {item.lifetime for item in network.addresses} == {1}
    assert {route.lifetime for route in network.egress_routes(Family.IPV6)} == {1}
    assert {route.lifetime for route in network.egress_routes(Family.IPV4)} == {None}
    alone = plan_network(config(), BRIDGED, EGRESS)
    assert {item.lifetime for item in alone.addresses} == {route.lifetime for route in alone.routes} == {None}


def translation(*, holds: bool) -> Translation:
    wanted = replace(HOLDS, holds=holds)
    return plan_translation(wanted, plan_network(wanted, BRIDGED, EGRESS), {})


def test_nftables_of_a_standby_differ_by_elements_alone() -> None:
    """Elements are changed in a moment, however many rules there are."""
    active, standby = nft_table(translation(holds=True)), nft_table(translation(holds=False))
    assert active.chains == standby.chains
    names = {one.name for one, other in zip(active.sets, standby.sets, strict=True) if one != other}
    assert {"source4", "source6"} <= names <= {"source4", "source6", "pod4", "pod6"}
    assert all(not item.elements for item in standby.sets if item.name in names)
    guard = next(chain for chain in standby.chains if chain.name == "guard")
    assert any("ip saddr != @source4 counter drop" in rule for rule in guard.rules)


@pytest.mark.parametrize("family", list(Family))
def test_iptables_of_a_standby_let_nothing_but_adverts_out(family: Family) -> None:
    tables = {table.name: table for table in iptables_tables(translation(holds=False), family)}
    out = [str(rule) for rule in tables["mangle"].chains["EGRESSR-POSTROUTING"]]
    adverts = ["-s 169.254.192.0/18 -d 224.0.0.18/32 -p 112 -j RETURN"] if family is Family.IPV4 else []
    assert out == [*adverts, "-j DROP"]
    assert str(tables["filter"].chains["EGRESSR-GUARD"][-1]) == "-j DROP"
    assert not [hook for hook in tables["nat"].hooks if hook[0] == "PREROUTING"]


def test_adverts_are_not_translated() -> None:
    for table in iptables_tables(translation(holds=True), Family.IPV4):
        for name in ("EGRESSR-POSTROUTING", "EGRESSR-GUARD"):
            rules = [str(rule) for rule in table.chains.get(name, ())]
            assert not rules or any("-p 112" in rule for rule in rules[:3]), (table.name, name)
    chain = next(chain for chain in nft_table(translation(holds=True)).chains if chain.name == "postrouting")
    assert chain.rules[0] == 'oifname "macvlan0" ip saddr 169.254.192.0/18 ip daddr 224.0.0.18 ip protocol 112 accept'


def test_a_standby_goes_on_with_no_connection() -> None:
    """Its client's next packet is answered with a reset; what is not translated is a process's in the pod."""
    mine = replace(CONNECTION, port=80, reply_address=ip_address("203.0.113.25"))
    for holds, stale in ((True, False), (False, True)):
        assert Sieve(translation(holds=holds)).stale(mine) is stale
        assert not Sieve(translation(holds=holds)).stale(replace(mine, translated=False))


ADDRESS_IS_THERE, ADDRESS_IS_GONE, ROUTE_IS_THERE = 20, 21, 24
IFA_LOCAL = 2


def notice(type_: int, port: int, address: str = "192.0.2.46") -> bytes:
    """A notice of the kernel: netlink(7), rtnetlink(7)."""
    body = bytes(12)
    if type_ != ROUTE_IS_THERE:
        packed = ip_address(address).packed
        body = bytes(8) + struct.pack("=HH", 4 + len(packed), IFA_LOCAL) + packed
    return struct.pack("=IHHII", 16 + len(body), type_, 0, 0, port) + body


@pytest.mark.parametrize(
    ("notices", "only"),
    [
        ([notice(ADDRESS_IS_THERE, 7), notice(ROUTE_IS_THERE, 7)], True),
        ([notice(ADDRESS_IS_THERE, 0)], True),
        ([notice(ADDRESS_IS_THERE, 0, "192.0.2.47")], False),
        ([notice(ADDRESS_IS_THERE, 0, "2001:db8:2::46")], False),
        ([notice(ADDRESS_IS_GONE, 0)], False),
        ([notice(ADDRESS_IS_GONE, 8)], False),
        ([notice(ROUTE_IS_THERE, 8)], False),
        ([notice(ADDRESS_IS_THERE, 7), notice(ROUTE_IS_THERE, 0)], False),
    ],
)
def test_renewals_are_no_reason_to_look_at_the_network(notices: list[bytes], only: bool) -> None:
    """It would be one ten times a second; whatever anybody else does is."""
    assert only_renewals(b"".join(notices), 7, {ip_address("192.0.2.46")}) is only


# When it is ready


def test_the_reason_of_a_take_over_is_named() -> None:
    state = PairState(PairConfig(46))
    assert state.last_heard(10.0) == "nobody else is active"
    for heard, said in (
        (9.5, f"no advert of {OTHER} (169.254.7.2) for 0.50 s"),
        (9.9, f"{OTHER} (169.254.7.2) has the lower priority 50"),
        (float("-inf"), f"{OTHER} (169.254.7.2) has stopped"),
    ):
        state.peers[OTHER] = Peer("169.254.7.2", 50, heard)
        assert state.last_heard(10.0) == said


def test_readiness_follows_the_role() -> None:
    state = PairState(PairConfig(46))
    assert state.reasons(10.0) == ["standby: nobody has the address yet"]
    state.peers[OTHER] = Peer("169.254.7.2", 150, 9.9)
    assert state.reasons(10.0) == [f"standby: {OTHER} (169.254.7.2) has the address"]
    assert state.reasons(11.0) == ["standby: nobody has the address yet"]
    state.role = Role.ACTIVE
    assert state.reasons(11.0) == ["it takes the address over"]
    state.holding = True
    assert state.reasons(11.0) == []
    assert state.reasons(10.0) == [f"two are active: {OTHER} (169.254.7.2) is, too"]
    state.role, state.holding, state.blocked = Role.FAULT, False, "x has 192.0.2.46"
    assert state.reasons(10.0) == ["it does not take the address: x has 192.0.2.46"]
    state.blocked = ""
    assert state.reasons(11.0) == ["standby: it cannot take the address; nobody has it"]
    state.peers[OTHER] = Peer("169.254.7.2", 150, 11.0, ours=False)
    assert state.reasons(11.0)[0] == f"{OTHER} uses EGRESS_PAIR=46 for another EGRESS_SOURCE"
