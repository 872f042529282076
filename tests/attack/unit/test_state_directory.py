"""What somebody may put into a state directory: it stays the problem of that file, of that object, of that moment."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.daemon.loop import Loop
from egress_router.daemon.threads import Threads
from egress_router.egressip.api import ClusterState, HostSubnet, NetNamespace, Pod
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.node.nft_rules import node_tables
from egress_router.egressip.node.plan import node_plan
from egress_router.egressip.node.state import NodeSettings, Remote
from egress_router.egressip.source import directory
from egress_router.egressip.source.directory import DirectorySource
from egress_router.errors import ConfigurationError
from tests.support.fake_node import UP, FakeNode

GOOD = "{kind: HostSubnet, metadata: {name: good}, hostIP: 192.0.2.13}"
NODE = "{kind: HostSubnet, metadata: {name: n}, hostIP: 192.0.2.1, %s}"


def bomb() -> str:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    return "\n".join(levels)


TEXTS = {
    "a list that holds itself": NODE % "egressIPs: &a [*a]",
    "a mapping that holds itself": "&a {kind: HostSubnet, metadata: *a}",
    "a huge integer": NODE % f"egressIPCapacity: {'9' * 100_000}",
    "an integer of 64 digits": NODE % f"egressIPCapacity: {'9' * 64}",
    "a huge hexadecimal integer": NODE % f"egressIPCapacity: 0x{'f' * 100_000}",
    "a float out of range": NODE % "egressIPCapacity: 1e999",
    "a timestamp": NODE % "egressIPCapacity: !!timestamp 2001-12-14t21:59:43.10-05:00",
    "a timestamp that is none": NODE % "egressIPCapacity: !!timestamp 2001-99-99",
    "an alias bomb": bomb(),
    "a tag of Python": NODE % "egressIPs: !!python/object/apply:os.system [true]",
    "a set": NODE % "egressIPs: !!set {192.0.2.1}",
    "binary": NODE % "hostIP2: !!binary x, egressIPs: [!!binary '////']",
    "deep nesting": "[" * 100_000,
    "deep mappings": "{a: " * 10_000,
    "a key that is a list": "{[a]: b}",
    "a null byte": "kind: \0",
    "a control character": NODE % "egressIPs: ['\x07']",
    "half a surrogate pair": '{"kind": "\\ud800"}',
    "a name of many characters": "{kind: HostSubnet, metadata: {name: %s}, hostIP: 192.0.2.1}" % ("x" * 100_000),
    "a kind that is a list": "{kind: [HostSubnet], metadata: {name: n}}",
    "metadata that is a number": "{kind: HostSubnet, metadata: 7}",
    "a name that is a number": "{kind: HostSubnet, metadata: {name: 7}}",
    "addresses that are numbers": NODE % "egressIPs: [1, 2]",
    "addresses that are a mapping": NODE % "egressIPs: {a: b}",
    "addresses as one": "{kind: Pod, metadata: {name: p, namespace: q}, spec: {nodeName: n}, status: {podIPs: 1}}",
    "a list of lists": "{kind: List, items: [[[{kind: List, items: [7]}]]]}",
    "an assignment that is a list": "{kind: EgressIPAssignment, metadata: {name: a}, assignment: [1]}",
    "tabs": "\tkind: x",
    "nothing": "",
    "a mark of the byte order alone": "\ufeff",
    "many documents": "---\n" * 100_000,
    "many lines": "\n" * 1_000_000,
    "JSON twice": '{"kind": "a"} {"kind": "b"} x',
    "NaN": '{"kind": NaN}',
    "large JSON": '{"a": [' + "1," * 1_000_000 + "1]}",
}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "good.yaml").write_text(GOOD)
    return tmp_path


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_text_is_its_own_file_s_problem(name: str, suffix: str, state: Path) -> None:
    source = DirectorySource(state)
    try:
        before, _ = source.read()
        (state / f"bad{suffix}").write_bytes(TEXTS[name].encode("utf-8", "surrogatepass"))
        after, problems = source.read()
        assert after.nodes["good"] == before.nodes["good"]
        assert all(problem.variable == f"bad{suffix}" for problem in problems)
        assert all(len(str(problem)) < 1000 for problem in problems)
        (state / "more.yaml").write_text("{kind: HostSubnet, metadata: {name: more}, hostIP: 192.0.2.14}")
        assert "more" in source.read()[0].nodes
    finally:
        source.close()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


def to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_directory(path: Path) -> None:
    path.mkdir()


def too_large(path: Path) -> None:
    path.write_bytes(b"#" * (5 << 20))


def no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


KINDS = (fifo, to_itself, to_nothing, to_a_device, a_directory, too_large, no_text)


@pytest.mark.parametrize("make", KINDS)
def test_what_is_no_readable_file_is_its_own_problem(make: Callable[[Path], None], state: Path) -> None:
    source = DirectorySource(state)
    try:
        before, _ = source.read()
        bad = state / "bad.yaml"
        make(bad)
        for _ in range(2):
            after, problems = source.read()
            assert after == before
            assert [problem.variable for problem in problems] == ["bad.yaml"]
        bad.rmdir() if bad.is_dir() else bad.unlink()
        bad.write_text("{kind: HostSubnet, metadata: {name: bad}, hostIP: 192.0.2.14}")
        after, problems = source.read()
        assert "bad" in after.nodes
        assert problems == ()
    finally:
        source.close()


@pytest.mark.parametrize("make", KINDS)
def test_a_good_file_that_becomes_none_keeps_what_it_said(make: Callable[[Path], None], state: Path) -> None:
    source = DirectorySource(state)
    try:
        before, _ = source.read()
        (state / "good.yaml").unlink()
        make(state / "good.yaml")
        after, problems = source.read()
        assert after == before
        assert [problem.variable for problem in problems] == ["good.yaml"]
    finally:
        source.close()


def test_one_that_was_never_good_stops_the_start_and_says_so(state: Path) -> None:
    fifo(state / "bad.yaml")
    source = DirectorySource(state)
    try:
        with pytest.raises(ConfigurationError, match=r"bad\.yaml.*named pipe"):
            source.read()
    finally:
        source.close()


def test_a_fault_of_ours_is_its_own_file_s_problem(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = DirectorySource(state)
    try:
        before, _ = source.read()

        def fails(*_: object) -> list[object]:
            raise RuntimeError("nobody foresaw it")

        monkeypatch.setattr(directory, "parse_objects", fails)
        (state / "bad.yaml").write_text(GOOD)
        after, problems = source.read()
        assert after == before
        assert "RuntimeError" in str(problems[0])
    finally:
        source.close()


@pytest.fixture
def following(state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DirectorySource]:
    monkeypatch.setattr(directory, "LOOK_EVERY", 0.05)
    source = DirectorySource(state)
    loop = Loop()
    source.follow(Threads(loop))
    try:
        yield source
    finally:
        source.close()
        loop.close()
        assert "objects" not in {thread.name for thread in threading.enumerate()}


def until(source: DirectorySource, wanted: set[str]) -> None:
    end = time.monotonic() + 10
    while set(source.read()[0].nodes) != wanted:
        assert time.monotonic() < end, source.read()
        source.wait(0.1)


def node(name: str) -> str:
    return f"{{kind: HostSubnet, metadata: {{name: {name}}}, hostIP: 192.0.2.14}}"


def test_it_follows_in_a_thread(following: DirectorySource, state: Path) -> None:
    assert not following.wait(0)
    (state / "more.yaml").write_text(node("more"))
    until(following, {"good", "more"})
    (state / "more.yaml").unlink()
    until(following, {"good"})


def test_it_follows_a_directory_that_takes_the_place(following: DirectorySource, state: Path) -> None:
    state.rename(state.with_name("old"))
    end = time.monotonic() + 10
    while not following.read()[1]:
        assert time.monotonic() < end
        following.wait(0.1)
    assert set(following.read()[0].nodes) == {"good"}, "what was known stays"
    state.mkdir()
    (state / "other.yaml").write_text(node("other"))
    until(following, {"other"})
    assert following.read()[1] == ()
    (state / "more.yaml").write_text(node("more"))
    until(following, {"other", "more"})


def test_it_follows_the_target_of_a_link(following: DirectorySource, state: Path, tmp_path_factory: Path) -> None:
    target = state.with_name("target.yaml")
    target.write_text(node("one"))
    (state / "link.yaml").symlink_to(target)
    until(following, {"good", "one"})
    target.write_text(node("another"))
    until(following, {"good", "another"})


#: What an object may say of its own node; everybody else's apply goes on.
SUBNETS = (
    "198.51.100.0/24",
    "198.51.100.0/255.255.255.0",
    "198.51.100.0/0.0.0.255",
    "fe80::%eth0/64",
    "fe80::1%eth0/64",
    "198.51.100.0/24,198.51.100.0/25",
    "198.51.100.0/25,198.51.100.128/25",
    "198.51.100.7/24,198.51.0.0/16",
    "0.0.0.0/0",
    "::/0",
    "::/0,0.0.0.0/0",
    "2001:db8::/32,2001:db8:a::/48",
    "::ffff:198.51.100.0/120",
    "198.51.100.0/33",
    "198.51.100.0/-1",
    "198.51.100.0/ 24",
    "/24",
    "198.51.100.0",
    ",,,",
    "}; flush ruleset; #",
)
HOST_IPS = (
    "192.0.2.11",
    "",
    "nonsense",
    "fe80::1%eth0",
    "127.0.0.1",
    "0.0.0.0",
    "::ffff:192.0.2.11",
    "192.0.2.011",
    "a" * 300,
)
SETTINGS = NodeSettings("a", "eth0", (ip_network("2001:db8::/32"), ip_network("10.0.0.0/8"), ip_network("10.1.0.0/16")))


def cluster(subnet: str, host_ip: str) -> ClusterState:
    return ClusterState(
        {"toto": NetNamespace("toto", 1, ("192.0.2.45",))},
        {
            "a": HostSubnet("a", host_ip, subnet),
            "b": HostSubnet("b", "192.0.2.12", "198.51.101.0/24", egress_ips=("192.0.2.45",)),
            "c": HostSubnet("c", host_ip, subnet),
        },
        {("toto", "one"): Pod("toto", "one", "a", ("198.51.100.2", "2001:db8:a::2"))},
    )


def refused_by_nft(subnet: str, host_ip: str) -> list[str]:
    """Return the elements of the tables that are no networks, or overlap: nft refuses the script then, with all else
    that it has.
    """
    state = cluster(subnet, host_ip)
    tables = node_tables(SETTINGS, node_plan("a", state, decide(state), {"b": 1}, frozenset()), 1400)
    found = []
    for item in (item for table in tables for item in table.sets if "flags interval" in item.header):
        networks = []
        for text in item.elements:
            try:
                networks.append(ip_network(text))
            except ValueError:
                found.append(text)
        found += [str(a) for a in networks for b in networks if a is not b and a.overlaps(b)]
    return found


@pytest.mark.parametrize("host_ip", HOST_IPS)
@pytest.mark.parametrize("subnet", SUBNETS)
def test_what_goes_into_an_nft_script_is_parsed(subnet: str, host_ip: str) -> None:
    assert refused_by_nft(subnet, host_ip) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(22, 32)), max_size=6))
def test_overlapping_subnets_become_disjoint_ones(parts: list[tuple[int, int]]) -> None:
    assert refused_by_nft(",".join(f"198.51.{100 + number}.0/{length}" for number, length in parts), "192.0.2.11") == []


def test_networks_of_32_bits_in_ipv6_stay_networks() -> None:
    """The length of an IPv4 host is one of an IPv6 network."""
    tables = node_tables(SETTINGS, node_plan("a", ClusterState(), decide(ClusterState()), {}, frozenset()), 1400)
    sets = {item.name: set(item.elements) for item in tables[0].sets}
    assert "2001:db8::/32" in sets["cluster6"]


@pytest.mark.parametrize("subnet", ["198.51.100.0/255.255.255.0", "fe80::%eth0/64", "0.0.0.0/0", "nonsense"])
def test_a_subnet_that_is_none_is_told(subnet: str) -> None:
    problems = decide(cluster(subnet, "192.0.2.11")).nodes["a"].problems
    assert any(problem.startswith("subnet: ") for problem in problems), problems


@pytest.mark.parametrize("host_ip", HOST_IPS[1:])
def test_an_own_host_ip_that_becomes_none_keeps_nobody_from_an_apply(host_ip: str, tmp_path: Path) -> None:
    """The node's own egress IPs are given up; its pods that leave by others go on."""
    good, bad = cluster("198.51.100.0/24", "192.0.2.11"), cluster("198.51.100.0/24,198.51.100.0/25", host_ip)
    only = {name: value for name, value in good.nodes.items() if name != "c"}
    fake = FakeNode(ClusterState(good.namespaces, only, good.pods), tmp_path)
    fake.health["b"] = UP
    fake.run(2.0, (1.0, lambda: fake.source.set(bad)))
    assert fake.agent.known.errors == []
    assert fake.agent.known.failed_applies == 0
    assert fake.dataplane.applied is not None
    assert fake.dataplane.applied.paths["198.51.100.2"] == Remote(1)
