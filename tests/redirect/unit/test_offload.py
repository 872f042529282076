"""Established connections around the rules: what is put in place where, and what is done where that cannot be."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from egress_router.config.inputs import Inputs, Problems
from egress_router.config.values import Address, Family, Protocol
from egress_router.errors import PlatformError, ToolFailed
from egress_router.net import conntrack
from egress_router.net.netlink import NetlinkError, attribute
from egress_router.net.nft import flow_probe
from egress_router.net.nft.fake import FakeNft
from egress_router.net.nft.kernel import Put
from egress_router.net.nft.listing import difference, parse_table
from egress_router.net.nft.script import table_text
from egress_router.net.nft.values import NftFlowtable, NftTable
from egress_router.redirect import connections, nat, nft_backend, status
from egress_router.redirect.config import parse_router
from egress_router.redirect.daemon import Reconciler
from egress_router.redirect.iptables_backend import IptablesBackend
from egress_router.redirect.nft_backend import Nftables
from egress_router.redirect.nft_rules import TABLE, nft_table
from egress_router.redirect.offload import IDLE, LEAVING, NOT_WITH_IPTABLES, OFF, offload_json, refuse_without_offload
from egress_router.redirect.state import State
from egress_router.redirect.values import Backend, Desired, FlowOffload, RouterConfig, Ruleset, Translation
from tests.redirect.unit.test_connections import translation as made

TEXT = "80 tcp 203.0.113.25\n443 tcp 2001:db8:113::25\n"
LACKING = "this kernel has no flow tables (ENOENT)"


def translation(offload: FlowOffload = FlowOffload.AUTO, text: str = TEXT) -> Translation:
    both = {Family.IPV4: ip_address("192.0.2.46"), Family.IPV6: ip_address("2001:db8:2::46")}
    pods: dict[Family, tuple[Address, ...]] = {
        Family.IPV4: (ip_address("198.51.100.2"),),
        Family.IPV6: (ip_address("2001:db8:a:1::2"),),
    }
    return replace(made(text), sources=both, pod_addresses=pods, offload=offload)


class FakeKernel:
    """Has flow tables, or lacks them."""

    def __init__(self, why: str = "") -> None:
        self.why = why

    def ask(self) -> None:
        pass

    def why_not(self) -> str:
        return self.why


@pytest.fixture(autouse=True)
def interfaces(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The numbers of the interfaces that are there."""
    found = {"eth0": 2, "macvlan0": 3}
    monkeypatch.setattr(nft_backend, "interface_index", lambda name: found.get(name, 0))
    return found


def backend(nft: Any = None, why: str = "") -> Nftables:
    kernel: Any = FakeKernel(why)
    return Nftables(nft or FakeNft(), kernel)


def flow_rules(table: NftTable) -> list[str]:
    return [rule for chain in table.chains for rule in chain.rules if "flow add" in rule]


def test_replies_with_the_source_and_a_way_back_enter() -> None:
    table = nft_table(translation(), offload=True)
    assert table.flowtables == (NftFlowtable("established", ("eth0", "macvlan0")),)
    start, end = "ct direction reply ct state established ct reply", "fib saddr . iif oif exists flow add @established"
    assert flow_rules(table) == [
        f"{start} ip daddr 192.0.2.46 meta l4proto {{ tcp, udp }} {end}",
        f"{start} ip6 daddr 2001:db8:2::46 meta l4proto {{ tcp, udp }} {end}",
    ]
    forwarded = next(chain for chain in table.chains if chain.name == "forwarded")
    assert list(forwarded.rules[:2]) == flow_rules(table), "before anything that ends the chain"


def test_a_standby_lets_nothing_enter_and_differs_by_elements_alone() -> None:
    pair = replace(translation(), adverts=IPv4Network("169.254.0.0/16"))
    active, standby = (nft_table(replace(pair, holds=holds), offload=True) for holds in (True, False))
    assert flow_rules(active) == flow_rules(standby)
    assert all("daddr @source" in rule for rule in flow_rules(active))
    assert active.flowtables == standby.flowtables


@pytest.mark.parametrize(
    "desired",
    [replace(translation(), rules=Ruleset()), replace(translation(), accepting=False), translation(FlowOffload.OFF)],
    ids=["no rules", "not accepting", "off"],
)
def test_what_has_no_flow_table(desired: Translation) -> None:
    nft = FakeNft()
    backend(nft).apply(desired)
    assert not nft.tables[TABLE].flowtables
    assert not flow_rules(nft.tables[TABLE])
    assert backend(nft).drift(desired) == []
    assert backend(nft).why_no_offload(desired) in (OFF, IDLE)


def test_the_kernel_decides() -> None:
    nft = FakeNft()
    desired = translation()
    assert backend(nft, LACKING).apply(desired)
    assert not nft.tables[TABLE].flowtables
    assert backend(nft, LACKING).why_no_offload(desired) == LACKING
    assert backend(nft).drift(desired), "where the kernel has them, that is drift"
    assert backend(nft).apply(desired)
    assert nft.tables[TABLE].flowtables
    assert backend(nft).drift(desired) == []
    assert backend(nft).apply(desired) is False
    assert backend(nft).why_no_offload(desired) == ""


def test_a_device_that_went_is_put_back(interfaces: dict[str, int]) -> None:
    """The kernel takes it out of the flow table, and no generation tells."""
    nft = FakeNft()
    staying = backend(nft)
    desired = translation()
    staying.apply(desired)
    nft.tables[TABLE] = replace(nft.tables[TABLE], flowtables=(NftFlowtable("established", ("eth0",)),))
    assert staying.repair(desired) == [], "the generation is the same: this proves nothing otherwise"
    interfaces["macvlan0"] = 7
    lines = staying.repair(desired)
    assert any("devices" in line for line in lines), lines
    assert nft.tables[TABLE].flowtables == (NftFlowtable("established", ("eth0", "macvlan0")),)
    assert staying.repair(desired) == []


def test_rules_stand_without_an_interface(interfaces: dict[str, int]) -> None:
    nft = FakeNft()
    staying = backend(nft)
    desired = translation()
    staying.apply(desired)
    nft.tamper(TABLE)
    del interfaces["macvlan0"]
    assert staying.repair(desired)
    assert not nft.tables[TABLE].flowtables, "a flow table with a device that is not there is refused as a whole"
    assert "not both there" in staying.why_no_offload(desired)


class Refusing(FakeNft):
    """Takes no table with a flow table, whatever it said before."""

    def put(self, tables: Any, remove: Any = (), known: Any = None) -> Put:
        if any(table.flowtables for table in tables):
            raise ToolFailed(["nft", "-f", "-"], "exit status 1", "Operation not supported")
        return super().put(tables, remove, known)


def test_speed_never_keeps_the_rules_away(interfaces: dict[str, int], caplog: pytest.LogCaptureFixture) -> None:
    nft = Refusing()
    staying = backend(nft)
    desired = translation()
    assert staying.apply(desired)
    assert nft.tables[TABLE] == nft_table(desired)
    assert "Operation not supported" in staying.why_no_offload(desired)
    assert staying.repair(desired) == [], "it is not tried at every look"
    interfaces["macvlan0"] = 9
    assert staying.why_no_offload(desired) == "", "other interfaces are another question"


@pytest.mark.parametrize("device_is_there", [True, False])
def test_one_that_leaves_has_no_flow_table_any_more(interfaces: dict[str, int], *, device_is_there: bool) -> None:
    """Also where its interface comes back meanwhile: of offloaded connections nobody knows whether they carry
    something.
    """
    nft = FakeNft()
    network: Any = None
    config, _ = read()
    assert config is not None
    staying = backend(nft)
    live = Reconciler({}, config, Desired(network, translation()), staying, State("macvlan0"))
    staying.apply(translation())
    assert nft.tables[TABLE].flowtables
    if not device_is_there:
        del interfaces["macvlan0"]
    live.stop_offloading()
    interfaces["macvlan0"] = 9
    staying.repair(live.desired.translation)
    assert not nft.tables[TABLE].flowtables
    assert live.why_no_offload() == LEAVING
    assert live.config.flow_offload is FlowOffload.OFF


def test_status_believes_the_router_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that leaves has taken its flow table away, and one whose table the kernel refuses does without: no drift."""
    nft = FakeNft()
    config, _ = read(EGRESS_NAT_BACKEND="nftables")
    assert config is not None
    told: dict[str, Any] = {}
    here = Desired(SimpleNamespace(egress="macvlan0"), translation())  # type: ignore[arg-type]

    def desired_here(config: RouterConfig, _: Any) -> Desired:
        return replace(here, translation=replace(here.translation, offload=config.flow_offload))

    monkeypatch.setattr(status, "desired_here", desired_here)
    monkeypatch.setattr(status, "drift_lines", lambda _, desired, staying: staying.drift(desired.translation))
    monkeypatch.setattr(status, "choose_backend", lambda *_: backend(nft))
    monkeypatch.setattr(status, "Rtnetlink", nullcontext)
    monkeypatch.setattr("egress_router.net.capabilities.require", lambda *_: None)
    monkeypatch.setattr("egress_router.daemon.running.status", lambda _: told)
    backend(nft).apply(translation(FlowOffload.OFF))
    assert status.read_status(config).drift
    told.update(offload_json(LEAVING))
    found = status.read_status(config)
    assert (found.drift, found.why_no_offload) == ((), LEAVING)
    told.update(offload_json(""))
    assert status.read_status(config).drift


def test_what_others_do_to_it_is_drift() -> None:
    nft = FakeNft()
    desired = translation()
    backend(nft).apply(desired)
    right = nft.tables[TABLE]
    for wrong in (
        replace(right, flowtables=()),
        replace(right, flowtables=(replace(right.flowtables[0], options=("counter",)),)),
        replace(right, flowtables=(*right.flowtables, NftFlowtable("other", ("eth0",)))),
    ):
        nft.tamper(wrong)
        assert backend(nft).drift(desired)
        assert backend(nft).repair(desired)
        assert nft.tables[TABLE] == right


@pytest.mark.parametrize("devices", ['{ "eth0", "macvlan0" }', "{ macvlan0, eth0 }"])
@pytest.mark.parametrize("priority", ["filter", "0"])
def test_every_way_in_which_nft_lists_it(devices: str, priority: str) -> None:
    table = NftTable(TABLE, (), (), flowtables=(NftFlowtable("established", ("eth0", "macvlan0")),))
    text = table_text(table)
    assert parse_table(text) == table
    other = text.replace('{ "eth0", "macvlan0" }', devices).replace("priority filter", f"priority {priority}")
    assert parse_table(other) == table
    assert difference(table, parse_table(other.replace("\n\t}", "\n\t\tflags offload\n\t}")))


@pytest.mark.parametrize(
    ("sysctls", "good"),
    [
        ((flow_probe.TIMEOUT,), True),
        ((flow_probe.TIMEOUT, flow_probe.PICKUP), False),
        ((), False),
    ],
    ids=["5.15 and later", "5.14", "before"],
)
def test_kernels_that_forget_idle_connections_have_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sysctls: tuple[str, ...], *, good: bool
) -> None:
    """A connection that nobody uses for some minutes, as in a pool of a database's client, must be there afterwards."""
    netlink = SimpleNamespace(change_all=lambda *_: None)
    monkeypatch.setattr(flow_probe, "Netlink", lambda _: nullcontext(netlink))
    monkeypatch.setattr(flow_probe, "SYSCTLS", tmp_path)
    for name in sysctls:
        (tmp_path / name).touch()
    assert ("after two minutes" in flow_probe.why_no_flow_table()) is not good


def test_on_takes_nftables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nat, "available_families", lambda: tuple(Family))
    monkeypatch.setattr(nft_backend, "Kernel", FakeKernel)
    assert nat.choose_backend(Backend.AUTO, Family, FlowOffload.ON).name == "nftables"
    assert nat.choose_backend(Backend.AUTO, Family, FlowOffload.AUTO).name == "iptables"
    assert IptablesBackend().why_no_offload(translation()) == NOT_WITH_IPTABLES
    assert IptablesBackend().why_no_offload(translation(FlowOffload.OFF)) == OFF
    with pytest.raises(PlatformError, match="EGRESS_FLOW_OFFLOAD=on, and flow tables are nftables'"):
        refuse_without_offload(IptablesBackend().cannot_offload())


def read(**env: str) -> tuple[RouterConfig | None, Problems]:
    problems = Problems()
    base = {"EGRESS_SOURCE": "192.0.2.46/24", "EGRESS_GATEWAY": "192.0.2.1", "EGRESS_DESTINATION": "203.0.113.27"}
    return parse_router(Inputs({**base, **env}), problems), problems


def test_configuration() -> None:
    config, problems = read(EGRESS_FLOW_OFFLOAD="ON")
    assert config is not None
    assert config.flow_offload is FlowOffload.ON
    assert not problems.warnings
    config, problems = read(EGRESS_FLOW_OFFLOAD="on", EGRESS_NAT_BACKEND="iptables")
    assert config is None
    assert [problem.variable for problem in problems.errors] == ["EGRESS_FLOW_OFFLOAD"]
    config, problems = read(EGRESS_FLOW_OFFLOAD="auto", EGRESS_NAT_BACKEND="iptables")
    assert config is not None
    for wanted, taken in (("auto", FlowOffload.OFF), ("on", FlowOffload.ON)):
        config, problems = read(EGRESS_FLOW_OFFLOAD=wanted, EGRESS_PAIR="46")
        assert config is not None, problems.errors
        assert config.flow_offload is taken
    config, problems = read(EGRESS_FLOW_OFFLOAD="yes")
    assert config is None
    assert "auto, on, off" in str(problems.errors[0])
    _, problems = read(EGRESS_FLOW_OFFLOAD="on", EGRESS_ROUTER_MODE="http-proxy", EGRESS_DESTINATION="")
    assert [problem.variable for problem in problems.warnings] == ["EGRESS_FLOW_OFFLOAD"]


def test_connections_that_a_kernel_does_not_end_while_they_are_offloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    nft = FakeNft()
    staying = backend(nft)
    network: Any = None
    desired = Desired(network, translation())
    staying.apply(desired.translation)

    def end(_: Desired) -> int:
        if nft.tables[TABLE].flowtables:
            raise NetlinkError(errno.EBUSY, "", "end tracked connections")
        return 3

    monkeypatch.setattr(connections, "_end_stale", end)
    assert connections.end_stale(desired, staying) == 3
    assert nft.tables[TABLE].flowtables, "it is there again"


def message(status: int, state: int | None, timeout: int | None, protocol: Protocol = Protocol.TCP) -> bytes:
    """A connection as the kernel lists it; of one that is offloaded it tells neither state nor timeout."""

    def tuple_(type_: int, source: str, target: str) -> bytes:
        addresses = attribute(1, ip_address(source).packed) + attribute(2, ip_address(target).packed)
        ports = attribute(1, bytes([protocol.number])) + attribute(2, b"\1\2") + attribute(3, b"\0\x50")
        return attribute(type_ | 0x8000, attribute(1 | 0x8000, addresses) + attribute(2 | 0x8000, ports))

    body = tuple_(1, "198.51.100.9", "198.51.100.2") + tuple_(2, "203.0.113.25", "192.0.2.46")
    body += attribute(3, struct.pack("!I", status))
    if state is not None:
        body += attribute(4 | 0x8000, attribute(1 | 0x8000, attribute(1, bytes([state]))))
    if timeout is not None:
        body += attribute(7, struct.pack("!I", timeout))
    return b"\0" * 16 + struct.pack("=BBH", 2, 0, 0) + body


@pytest.mark.parametrize(
    ("status", "state", "timeout", "live"),
    [
        (0x2E, 3, 432000, True),
        (0x402E, None, None, True),
        # After a reset, of one that was offloaded: the kernel has no window to judge that by.
        (0x2E, 3, 10, False),
        (0x2E, 3, 11, True),
        (0x2E, 7, 119, False),
        (0x2E, 8, 10, False),
        # Its other half is still open: minutes.
        (0x2E, 4, 10, True),
    ],
)
def test_which_connections_live(
    monkeypatch: pytest.MonkeyPatch, status: int, state: int | None, timeout: int | None, live: bool
) -> None:
    def messages(*_: Any) -> Iterator[bytes]:
        yield message(status, state, timeout)

    monkeypatch.setattr(conntrack.Conntrack, "__init__", lambda _: None)
    monkeypatch.setattr(conntrack.Conntrack, "_messages", messages)
    (found,) = conntrack.Conntrack().connections([ip_address("198.51.100.2")])
    assert found.live is live
    assert found.offloaded is bool(status & 0x4000)
    assert found.translated
