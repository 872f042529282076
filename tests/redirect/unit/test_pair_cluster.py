"""A pair that elects between its pods: its settings, the rules that follow, and who gives way to whom."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from unittest.mock import MagicMock, Mock

import pytest

from egress_router.config.values import Family
from egress_router.errors import PlatformError
from egress_router.net.rtnetlink.values import Link
from egress_router.net.vrrp import Advert
from egress_router.redirect import run
from egress_router.redirect.desired import desired_sample
from egress_router.redirect.iptables_rules import iptables_tables
from egress_router.redirect.nft_rules import nft_table
from egress_router.redirect.pair.holder import UNANSWERED, Holder
from egress_router.redirect.pair.keepalived import Place, keepalived_conf
from egress_router.redirect.pair.pair import PRESS_SECONDS, SETTLE_SECONDS, SPLIT_SECONDS, Pair
from egress_router.redirect.pair.state import Twin
from egress_router.redirect.pair.values import ElectionNetwork, PairConfig, Role
from egress_router.redirect.plan import plan_network, plan_translation
from egress_router.redirect.values import Fallback, Mode, Ruleset, Translation
from tests.redirect.unit.test_pair import MAC, OTHER, pair_of, parsed
from tests.support.fake_loop import FakeClock, fake_loop
from tests.support.pods import BRIDGED, EGRESS, config

CLUSTER = {"EGRESS_PAIR_NETWORK": "cluster", "EGRESS_PAIR_PEERS": "shop-peers.egress.svc"}
PAIR = PairConfig(46, peers=("shop-peers",), network=ElectionNetwork.CLUSTER)
HIGHER, LOWER = "02:00:00:00:00:ff", "02:00:00:00:00:00"


def test_its_settings() -> None:
    pair = pair_of(**CLUSTER)
    assert pair.by_cluster
    assert pair.port == 9913
    assert pair_of(**CLUSTER, EGRESS_PAIR_PORT="7000").port == 7000
    assert not pair_of(EGRESS_PAIR_NETWORK="egress").by_cluster
    assert not pair_of().by_cluster


@pytest.mark.parametrize(
    ("variable", "env", "said"),
    [
        ("EGRESS_PAIR_NETWORK", {"EGRESS_PAIR_NETWORK": "lan"}, "is neither egress nor cluster"),
        ("EGRESS_PAIR_PORT", {**CLUSTER, "EGRESS_PAIR_PORT": "0"}, "is not a port"),
        ("EGRESS_PAIR_PEERS", {"EGRESS_PAIR_NETWORK": "cluster"}, "is not set, and EGRESS_PAIR_NETWORK is cluster"),
        ("EGRESS_PAIR_NETWORK", {**CLUSTER, "EGRESS_DAD": "off"}, "needs duplicate address detection"),
        ("EGRESS_PAIR_ADDRESS", {**CLUSTER, "EGRESS_PAIR_ADDRESS": "192.0.2.47"}, "is for adverts in the egress net"),
        ("EGRESS_HEALTH_PORT", {**CLUSTER, "EGRESS_HEALTH_PORT": "off"}, "is off, and the peers are looked for"),
        ("EGRESS_PAIR_PORT", {**CLUSTER, "EGRESS_DESTINATION": "9913 udp 203.0.113.25"}, "is claimed by line 1"),
    ],
)
def test_what_cannot_be_is_named(variable: str, env: dict[str, str], said: str) -> None:
    run, problems = parsed(**env)
    assert run is None
    assert [(problem.variable, said in str(problem)) for problem in problems.errors] == [(variable, True)]


def test_keepalived_speaks_to_us_and_minds_the_egress_interface() -> None:
    text = keepalived_conf(
        PAIR, "egress-pair", IPv4Address("169.254.193.1"), IPv4Address("127.1.2.3"), Place(PAIR.directory), "macvlan0"
    )
    assert "    interface egress-pair\n" in text
    assert "    track_interface {\n        macvlan0\n    }\n" in text


# What follows for the kernel

RULES = Ruleset((), (Fallback(1, IPv4Address("203.0.113.25")),))


def translation(*, holds: bool, pair: PairConfig = PAIR) -> Translation:
    wanted = config(pair=pair, mode=Mode.LEGACY, rules=RULES, holds=holds)
    return plan_translation(wanted, plan_network(wanted, BRIDGED, EGRESS), {})


@pytest.mark.parametrize("holds", [False, True])
def test_adverts_pass_by_their_own_interface_alone(holds: bool) -> None:
    """What leaves by the egress interface is translated, or dropped, whatever it is."""
    chains = {chain.name: chain.rules for chain in nft_table(translation(holds=holds)).chains}
    mine = 'oifname "egress-pair" ip saddr 169.254.192.0/18 ip daddr 224.0.0.18 ip protocol 112 accept'
    assert chains["guard"][0] == mine
    assert 'iifname "egress-pair" ip daddr 224.0.0.18 ip protocol 112 accept' in chains["input"]
    for rules in chains.values():
        assert not [rule for rule in rules if "protocol 112" in rule and EGRESS in rule]
    for table in iptables_tables(translation(holds=holds), Family.IPV4):
        rules_of = {name: [str(rule) for rule in rules] for name, rules in table.chains.items()}
        adverts = [(name, rule) for name, found in rules_of.items() for rule in found if "-p 112" in rule]
        if table.name == "filter":
            assert {name for name, _ in adverts} == {"EGRESSR-INPUT", "EGRESSR-GUARD"}
            assert all("-i egress-pair" in rule or "-o egress-pair" in rule for _, rule in adverts)
        else:
            assert not adverts


def test_no_fallback_claims_what_the_peers_send() -> None:
    wanted = translation(holds=True)
    (chain,) = [item for item in nft_table(wanted).chains if item.name == "redirect4"]
    assert chain.rules[-2:][0] == "udp dport 9913 return"
    nat = next(item for item in iptables_tables(wanted, Family.IPV4) if item.name == "nat")
    rules = [str(rule) for rule in nat.chains["EGRESSR-PREROUTING"]]
    assert [rule for rule in rules if "udp" in rule and "9913" in rule and "RETURN" in rule]
    (chain,) = [item for item in nft_table(wanted).chains if item.name == "output"]
    assert chain.rules[1] == 'oifname "eth0" udp dport 9913 accept'
    (table,) = [item for item in iptables_tables(wanted, Family.IPV4) if item.name == "filter"]
    assert "--dport 9913" in str(table.chains["EGRESSR-OUTPUT"][1])
    without = translation(holds=True, pair=PairConfig(46))
    assert "9913" not in str(nft_table(without))
    assert "9913" not in str(iptables_tables(without, Family.IPV4))


def test_nothing_leads_to_where_adverts_come_from_in_the_egress_network() -> None:
    wanted = config(pair=PAIR, mode=Mode.LEGACY, holds=False)
    assert not [r for r in plan_network(wanted, BRIDGED, EGRESS).present_routes if r.interface == EGRESS]


# Who has the address


def known(holder: Holder) -> str:
    return "free" if holder.free else "had" if holder.answers else "unknown"


def test_who_does_not_answer_three_times_has_it_no_more() -> None:
    holder = Holder()
    for _ in range(UNANSWERED):
        holder.asked(4)
        assert known(holder) == "unknown", "the last question may be answered yet"
    holder.claimed(MAC, 4)
    for _ in range(UNANSWERED):
        holder.asked(4)
        assert known(holder) == "had"
    holder.asked(4)
    assert known(holder) == "free"
    holder.claimed(MAC, 4)
    assert known(holder) == "had"
    holder.left(OTHER)
    assert known(holder) == "had"
    holder.left(MAC)
    assert known(holder) == "free"
    holder.forget()
    assert known(holder) == "unknown"


def test_one_that_lives_answers_for_both_versions() -> None:
    """The kernel of one that was killed keeps its IPv6 address for longer."""
    holder = Holder()
    for version in (4, 6):
        holder.claimed(MAC, version)
    for _ in range(UNANSWERED + 1):
        assert known(holder) == "had"
        for version in (4, 6):
            holder.asked(version)
        holder.claimed(MAC, 6)
    assert known(holder) == "free"


@pytest.mark.parametrize("announced", [False, True])
def test_a_version_by_which_nobody_answers_says_nothing(*, announced: bool) -> None:
    """Switches that inspect neighbour discovery let no IPv6 probe pass, and the address is had all the same."""
    holder = Holder()
    if announced:
        holder.claimed(MAC, 6)
    for _ in range(3 * UNANSWERED):
        for version in (4, 6):
            holder.asked(version)
        holder.claimed(MAC, 4)
        assert known(holder) == "had"
    for _ in range(UNANSWERED + 1):
        for version in (4, 6):
            holder.asked(version)
    assert known(holder) == "free"


class World:
    """A router of a pair, on the MAC ``MAC``, whose other one may be heard in either network."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.loop = fake_loop(self.clock)
        self.pair = Pair(PAIR, self.loop, (IPv4Address("192.0.2.46"),))
        self.pair.state.mac = MAC
        self.told = 0
        #: Who answers for the address.
        self.owner = ""
        self.pair.ask, self.pair.tell = self.ask, self.announce

    def ask(self) -> None:
        self.pair.holder.asked(4)
        if self.owner:
            self.pair.claimed_by(self.owner, 4)

    def announce(self) -> None:
        self.told += 1

    def advert(self, mac: str, priority: int = 200) -> None:
        advert = Advert(mac, IPv4Address("169.254.193.1"), 46, priority, (self.pair._identity,))
        self.pair._note(advert, "10.1.2.3")

    def elected(self) -> None:
        """keepalived says so."""
        self.pair._told(Role.ACTIVE, "")

    def elected_beside(self, owner: str) -> None:
        """Be elected while another machine answers for the address."""
        self.owner = owner
        self.ask()
        self.elected()

    def wait(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.loop.turn(end)

    @property
    def role(self) -> Role:
        return self.pair.state.role


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    # It would ask the kernel.
    monkeypatch.setattr("egress_router.redirect.pair.pair.Lease", Mock)
    return World()


def active(world: World) -> None:
    for _ in range(UNANSWERED + 1):
        world.ask()
    world.elected()
    assert world.role is Role.ACTIVE
    world.pair.held(good=True)
    world.wait(2 * SETTLE_SECONDS)


def test_one_that_is_elected_waits_for_the_end_of_the_others_lease(world: World) -> None:
    world.elected_beside(OTHER)
    assert str(world.role) == "standby"
    world.wait(0.6)
    assert world.pair.state.reasons(world.clock.now)[-1].endswith(f"waits until {OTHER} no longer has the address")
    world.owner = ""
    world.wait(UNANSWERED * PRESS_SECONDS + PRESS_SECONDS * 2)
    assert str(world.role) == "active"
    assert world.pair.state.splits == 0


def test_one_that_is_elected_and_finds_the_other_one_alive_leaves_it_alone(world: World) -> None:
    world.elected_beside(OTHER)
    # keepalived would have the other one step back.
    mine = Advert(MAC, IPv4Address("169.254.193.2"), 46, 200, (world.pair._identity,))
    assert not world.pair._may_say(mine)
    assert world.pair._may_say(replace(mine, priority=0))
    world.wait(2)
    assert world.role is Role.STANDBY
    assert world.pair.state.splits == 1
    assert "drop UDP port 9913 between the routers?" in world.pair.state.blocked
    # As long as it is seen; then the address is free.
    for _ in range(20):
        world.wait(0.1)
        world.ask()
        world.pair._look()
    assert world.pair.state.blocked
    world.owner = ""
    world.wait(SPLIT_SECONDS + 0.1)
    world.pair._look()
    assert not world.pair.state.blocked
    assert world.pair.state.splits == 1


def test_an_advert_of_the_one_that_has_it_ends_the_split(world: World) -> None:
    world.elected_beside(OTHER)
    world.wait(2)
    assert world.pair.state.blocked
    world.advert(OTHER)
    assert not world.pair.state.blocked


def test_one_that_is_heard_again_is_not_made_to_give_way(world: World) -> None:
    """Of two with one priority keepalived of the one that was cut off stays elected if its own source is the higher."""
    mine = Advert(MAC, IPv4Address("169.254.193.2"), 46, 200, (world.pair._identity,))
    world.elected_beside(OTHER)
    world.wait(0.5)
    for _ in range(12):
        world.advert(OTHER)
        assert not world.pair._may_say(mine), "the other one would step back"
        world.wait(0.1)
    assert (world.role, world.pair.state.splits) == (Role.STANDBY, 0)
    # keepalived is to see that it is not active.
    assert world.pair.state.blocked == f"{OTHER} has it, and its adverts come again"
    # But one that misses its gateway is to give way.
    world.advert(OTHER, priority=50)
    assert world.pair._may_say(mine)


def test_one_that_was_kept_off_for_a_moment_takes_the_address_when_it_is_free(world: World) -> None:
    """keepalived has not seen it, and does not say again that it is elected."""
    world.elected_beside(OTHER)
    world.wait(1.6)
    assert world.pair.state.blocked
    world.advert(OTHER)
    assert not world.pair.state.blocked
    world.owner = ""
    for _ in range(10):
        world.wait(0.1)
        world.pair._look()
    assert world.role is Role.ACTIVE


def test_one_that_says_that_it_stops_is_not_waited_for(world: World) -> None:
    world.owner = OTHER
    world.ask()
    world.advert(OTHER)
    world.advert(OTHER, priority=0)
    world.elected()
    assert world.role is Role.ACTIVE


@pytest.mark.parametrize(
    ("other", "missed", "gives_way"), [(HIGHER, False, True), (LOWER, False, False), (LOWER, True, True)]
)
def test_of_two_that_have_it_one_gives_way(world: World, other: str, *, missed: bool, gives_way: bool) -> None:
    """Both see the same, so that they must not both stay, nor both go but for a missed gateway."""
    active(world)
    world.pair.gateways(missed=missed)
    world.pair.claimed_by(other, 4)
    assert (world.role is Role.FAULT) is gives_way
    assert world.told == (not gives_way)
    assert world.pair.state.splits == 1


def test_a_claim_of_one_that_is_heard_or_of_the_moment_before_is_nothing(world: World) -> None:
    active(world)
    world.advert(HIGHER)
    world.pair.claimed_by(HIGHER, 4)
    assert (world.role, world.pair.state.splits) == (Role.ACTIVE, 0)
    again = World()
    for _ in range(UNANSWERED + 1):
        again.ask()
    again.elected()
    again.pair.held(good=True)
    again.pair.claimed_by(HIGHER, 4)
    assert (again.role, again.pair.state.splits) == (Role.ACTIVE, 0)


@pytest.mark.parametrize("taken", [False, True])
def test_one_that_stood_still_asks_before_it_goes_on(world: World, *, taken: bool) -> None:
    active(world)
    world.wait(1)
    assert str(world.role) == "active"
    world.clock.now += 5
    mine = Advert(MAC, IPv4Address("169.254.193.2"), 46, 200, (world.pair._identity,))
    assert not world.pair._may_say(mine)
    world.owner = OTHER if taken else ""
    world.wait(0.01)
    assert str(world.role) == "standby"
    for _ in range(10):
        world.wait(0.1)
        world.pair._look()
    assert str(world.role) == ("standby" if taken else "active")


@pytest.mark.parametrize(("other", "gives_way"), [(HIGHER, True), (LOWER, False)])
def test_one_that_is_heard_and_does_not_hear_us_is_a_rival_in_the_end(
    world: World, other: str, *, gives_way: bool
) -> None:
    """That one decides by the MACs at once: who goes by the sources of adverts may stay as well."""
    active(world)
    world.owner = other
    for tenths in range(20):
        world.wait(0.1)
        world.advert(other)
        if tenths % 3 == 0:
            world.pair.claimed_by(other, 4)
        if tenths < 14:
            assert (world.role, world.pair.state.splits) == (Role.ACTIVE, 0)
    assert (world.role is not Role.ACTIVE) is gives_way
    assert world.pair.state.splits > 0


def test_a_machine_that_is_none_of_the_pair_takes_no_address_away(world: World) -> None:
    active(world)
    world.pair.state.twins = {"10.1.2.3": Twin("standby", mac=OTHER)}
    world.pair.claimed_by(HIGHER, 4)
    assert world.role is Role.ACTIVE
    assert not world.pair.is_peer(HIGHER)
    assert world.pair.is_peer(OTHER)


def test_an_ipvlan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets no answers to address probes, so that nobody would ever seem to have the address."""
    found, _ = parsed(**CLUSTER)
    assert found is not None
    link = Link(3, EGRESS, "ipvlan", MAC, 1500, up=True, lower_up=True)
    kernel = MagicMock()
    kernel.return_value.__enter__.return_value.link.return_value = link
    monkeypatch.setattr(run, "Rtnetlink", kernel)
    desired = desired_sample(found.router)
    with pytest.raises(PlatformError, match="is an ipvlan, which gets no answers"):
        run._prepare_pair(found, desired, fake_loop())


def test_made_up_peers_do_not_fill_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever can send as a peer, or on the LAN, names any MAC."""
    caplog.set_level("INFO")
    for number in range(1000):
        world.advert(f"02:00:00:00:{number // 256:02x}:{number % 256:02x}", priority=0)
    assert len(caplog.records) == 16
    world.clock.now += 61
    world.advert(OTHER)
    assert len(caplog.records) == 17
