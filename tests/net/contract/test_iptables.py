"""What the kernel's iptables and the fake owe to those who keep rules in them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from egress_router.config.values import Family
from egress_router.errors import PlatformError, StateMismatch
from egress_router.net.iptables.fake import FakeIptables
from egress_router.net.iptables.kernel import Iptables, IptablesKernel, MakeTables
from egress_router.net.iptables.rules import IptMatch, IptRule, IptTable

pytestmark = pytest.mark.root

PREFIX = "OURS-"
TARGETS = {Family.IPV4: "203.0.113.25", Family.IPV6: "2001:db8:113::25"}


@pytest.fixture(params=["kernel", "fake"])
def iptables(request: pytest.FixtureRequest, namespace: None) -> Iptables:
    return IptablesKernel(PREFIX) if request.param == "kernel" else FakeIptables()


def rule(family: Family, port: int, line: int | None = None) -> IptRule:
    to = (("to-destination", TARGETS[family]),)
    return IptRule("DNAT", to, protocol="tcp", matches=(IptMatch("tcp", (("dport", str(port)),)),), line=line)


def tables(*ports: int, unknown: bool = False) -> dict[Family, MakeTables]:
    """A chain with a rule for each port, which a built-in chain jumps to, and a second chain."""

    def make(family: Family) -> list[IptTable]:
        rules = tuple(rule(family, port, line=number) for number, port in enumerate(ports, 1))
        chains = {f"{PREFIX}IN": rules, f"{PREFIX}MORE": (IptRule("RETURN", protocol="udp"),)}
        names = frozenset({f"{PREFIX}IN"}) if unknown else frozenset[str]()
        return [IptTable("nat", chains, (("PREROUTING", IptRule(f"{PREFIX}IN", protocol="tcp")),), names)]

    return {family: lambda family=family: make(family) for family in Family}  # type: ignore[misc]


@pytest.fixture
def tamper(iptables: Iptables) -> Callable[[str], None]:
    """Remove the first rule of a chain, for IPv4, as somebody else does."""

    def by_hand(chain: str) -> None:
        if isinstance(iptables, FakeIptables):
            own = iptables.chains[Family.IPV4, "nat"]
            own[chain] = own[chain][1:]
        else:
            subprocess.run(["iptables-legacy", "-t", "nat", "-D", chain, "1"], check=True)

    return by_hand


def test_what_is_applied_is_there_and_is_written_once(iptables: Iptables) -> None:
    wanted = tables(80, 443)
    drift = iptables.drift(wanted)
    assert f"- -t nat -N {PREFIX}IN (IPv4)" in drift
    assert any(line.startswith(f"- -t nat -A {PREFIX}IN -p tcp -m tcp --dport 443 -j DNAT") for line in drift)
    assert any(line.startswith(f"- -t nat -I PREROUTING -p tcp -j {PREFIX}IN") for line in drift)
    assert {family: changed for family, (changed, _) in iptables.apply(wanted).items()} == dict.fromkeys(Family, True)
    assert iptables.drift(wanted) == []
    again = iptables.apply(wanted)
    assert not any(changed for changed, _ in again.values())
    assert {family: put.drift for family, put in iptables.repair(wanted).items()} == {family: [] for family in Family}
    assert {family: put.digests for family, put in iptables.repair(wanted).items()} == {
        family: digests for family, (_, digests) in again.items()
    }, "the same tables, the same digests"


def test_other_rules_take_the_place_of_the_old_ones(iptables: Iptables) -> None:
    first = iptables.apply(tables(80, 443))
    assert len(iptables.drift(tables(443, 8080))) == 4, "one too few and one too many in each family"
    assert any("the order of its rules" in line for line in iptables.drift(tables(443, 80)))
    second = iptables.apply(tables(443, 8080))
    assert iptables.drift(tables(443, 8080)) == []
    assert first[Family.IPV4][1] != second[Family.IPV4][1]


def test_what_somebody_takes_away_is_told_and_put_back(iptables: Iptables, tamper: Callable[[str], None]) -> None:
    iptables.apply(tables(80, 443))
    tamper(f"{PREFIX}IN")
    (line,) = iptables.drift(tables(80, 443))
    assert line.startswith(f"- -t nat -A {PREFIX}IN -p tcp -m tcp --dport 80 -j DNAT")
    assert line.endswith("(IPv4)")
    found = iptables.repair(tables(80, 443))
    assert found[Family.IPV4].drift == [line]
    assert found[Family.IPV6].drift == []
    assert iptables.drift(tables(80, 443)) == []


def test_a_chain_whose_rules_are_not_known_is_not_compared(iptables: Iptables, tamper: Callable[[str], None]) -> None:
    iptables.apply(tables(80))
    tamper(f"{PREFIX}IN")
    assert iptables.drift(tables(80, unknown=True)) == []
    tamper(f"{PREFIX}MORE")
    assert [line.partition(" (")[0] for line in iptables.drift(tables(80, unknown=True))] == [
        f"- -t nat -A {PREFIX}MORE -p udp -j RETURN"
    ]


def test_chains_are_filled_without_a_look_at_others(iptables: Iptables, tamper: Callable[[str], None]) -> None:
    iptables.apply(tables(80, 443))
    tamper(f"{PREFIX}MORE")
    some = {
        family: lambda family=family: [IptTable("nat", {f"{PREFIX}IN": (rule(family, 8080),)}, ())] for family in Family
    }
    digests = iptables.fill(some)
    assert iptables.fill(some) == digests
    assert len(iptables.drift(tables(8080))) == 1, "what was taken from the other chain stays away"


def test_counters_name_lines_and_unchanged_rules_keep_theirs(iptables: Iptables) -> None:
    iptables.apply(tables(80, 443))
    assert iptables.counters(tables(80, 443)) == {family: {"nat": [(1, 0, 0), (2, 0, 0)]} for family in Family}
    if isinstance(iptables, FakeIptables):
        iptables.counted[Family.IPV4, "nat", f"{PREFIX}IN", 1] = (3, 180)
    else:
        subprocess.run(["iptables-legacy-restore", "-c"], input=counted(), text=True, check=True)
    assert iptables.counters(tables(80, 443))[Family.IPV4] == {"nat": [(1, 0, 0), (2, 3, 180)]}
    iptables.apply(tables(443, 8080))
    assert iptables.counters(tables(443, 8080))[Family.IPV4] == {"nat": [(1, 3, 180), (2, 0, 0)]}


def counted() -> str:
    """The table as it is, with what the rule for port 443 has counted."""
    saved = subprocess.run(["iptables-legacy-save", "-c", "-t", "nat"], capture_output=True, text=True, check=True)
    lines = saved.stdout.splitlines(keepends=True)
    return "".join(line.replace("[0:0]", "[3:180]") if "--dport 443" in line else line for line in lines)


def test_nothing_is_left_and_what_others_have_stays(iptables: Iptables) -> None:
    if isinstance(iptables, IptablesKernel):
        for command in ("-N THEIRS", "-A PREROUTING -j THEIRS"):
            subprocess.run(["iptables-legacy", "-t", "nat", *command.split()], check=True)
    iptables.apply(tables(80))
    iptables.remove(["nat"])
    assert len(iptables.drift(tables(80))) == len(iptables.drift(tables())) + len(Family)
    if isinstance(iptables, IptablesKernel):
        saved = subprocess.run(["iptables-legacy-save", "-t", "nat"], capture_output=True, text=True, check=True).stdout
        assert PREFIX not in saved
        assert "-A PREROUTING -j THEIRS" in saved


def test_a_table_that_the_kernel_does_not_have(iptables: Iptables) -> None:
    missing = {Family.IPV4: lambda: [IptTable("nowhere", {}, ())]}
    with pytest.raises(PlatformError, match="no iptables table nowhere for IPv4"):
        iptables.drift(missing)


def test_the_fake_refuses_and_forgets_as_it_is_told() -> None:
    fake = FakeIptables()
    fake.refuses = True
    with pytest.raises(PlatformError):
        fake.apply(tables(80))
    fake.refuses, fake.forgets = False, True
    with pytest.raises(StateMismatch):
        fake.apply(tables(80))
    fake.forgets = False
    fake.steps.clear()
    fake.apply(tables(80))
    assert fake.steps == [("put", family, "nat") for family in Family]
