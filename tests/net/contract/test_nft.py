"""What the kernel's nftables and the fake owe to those who keep tables in them."""

from __future__ import annotations

import select
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from egress_router.errors import EgressRouterError, StateMismatch
from egress_router.net.nft.fake import FakeNft
from egress_router.net.nft.kernel import Nft, NftKernel
from egress_router.net.nft.notices import Heard, NftWatch
from egress_router.net.nft.script import remove_script, replace_script, table_text
from egress_router.net.nft.values import NftChain, NftSet, NftTable
from egress_router.net.nft.wording import Wording

pytestmark = pytest.mark.root

Tamper = Callable[[NftTable | str], None]


def run(script: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True)


@pytest.fixture(params=["kernel", "fake"])
def nft(request: pytest.FixtureRequest, namespace: None) -> Nft:
    return NftKernel() if request.param == "kernel" else FakeNft()


@pytest.fixture
def tamper(nft: Nft) -> Tamper:
    """Put or remove a table as somebody else does."""
    if isinstance(nft, FakeNft):
        return nft.tamper

    def by_program(table: NftTable | str) -> None:
        run(f"delete table {table}\n" if isinstance(table, str) else replace_script(table))

    return by_program


def table(
    pods: tuple[str, ...] = ("198.51.100.2",), gateways: tuple[int, ...] = (1, 2), name: str = "inet t"
) -> NftTable:
    """Something of everything, in words that no nft lists as they are written."""
    paths = dict.fromkeys(pods, f"goto gateway_{gateways[0]}") if gateways else {}
    sets = (
        NftSet(
            "set", "nets", ("type ipv4_addr", "flags interval"), {"198.51.100.0/24": None, "203.0.113.7": None}, "x"
        ),
        NftSet("set", "pairs", ("type ipv4_addr . ipv4_addr",), {f"{pod} . 192.0.2.1": None for pod in pods}),
        NftSet("set", "six", ("type ipv6_addr",), {"::cb00:7119": None, "2001:db8::1": None}),
        NftSet("set", "targets", ("typeof @th,64,128",), {"0x20010db8000000000000000000000001": None}),
        NftSet("set", "late", ("type ipv4_addr", "flags timeout")),
        NftSet("map", "snat4", ("type ipv4_addr : ipv4_addr",), dict.fromkeys(pods, "192.0.2.1")),
        NftSet("map", "path4", ("type ipv4_addr : verdict",), dict(paths)),
        NftSet(
            "map",
            "marks",
            ("type mark : verdict",),
            {f"0x{n << 16:08x}": f"{'goto' if n % 2 else 'jump'} gateway_{n}" for n in gateways},
        ),
    )
    chains = (
        *(NftChain(f"gateway_{n}", None, (f"meta mark set {n}", "accept"), "why", dynamic=True) for n in gateways),
        NftChain(
            "look",
            "type filter hook forward priority filter - 5; policy accept;",
            (
                "tcp flags & (syn | rst) == syn tcp option maxseg size set 1200",
                "ip6 daddr ::cb00:7119 counter drop",
                "ct mark set ct mark & 0xf000ffff | 0x00010000",
                "icmpv6 type nd-neighbor-solicit @th,64,128 @targets drop",
                "ct mark & 0x0fff0000 vmap @marks",
                "ip saddr vmap @path4",
                "ip saddr @nets counter name dropped drop",
            ),
            "what it is for",
        ),
        NftChain("other", None, ("accept",)),
    )
    return NftTable(name, sets, chains, ("dropped",))


SECOND = NftTable(
    "arp t",
    (NftSet("set", "quiet", ("type ipv4_addr",), {"192.0.2.1": None}),),
    (NftChain("answer", "type filter hook input priority filter; policy accept;", ("arp daddr ip @quiet drop",)),),
)
TABLES = (table(), SECOND)


def test_what_is_put_is_read_back_and_a_second_time_nothing_changes(nft: Nft) -> None:
    assert nft.difference(TABLES), "the control: an empty kernel differs"
    first = nft.put(TABLES)
    assert (first.changed, first.before) == (True, (None, None))
    assert nft.difference(TABLES) == []
    assert [nft.read(item.name, item) for item in TABLES] == list(TABLES)
    second = nft.put(TABLES)
    assert (second.changed, second.generation) == (False, nft.generation())


@pytest.mark.parametrize(
    "change",
    [
        lambda old: replace(old, sets=(replace(old.sets[0], elements={}), *old.sets[1:])),
        lambda old: replace(old, sets=(replace(old.sets[0], elements={"192.0.2.0/24": None}), *old.sets[1:])),
        lambda old: replace(
            old, chains=(*old.chains[:2], replace(old.chains[2], rules=old.chains[2].rules[1:]), old.chains[3])
        ),
        lambda old: replace(old, chains=(*old.chains[:3], replace(old.chains[3], rules=("drop",)))),
        lambda old: replace(old, chains=(*old.chains, NftChain("more", None, ("accept",)))),
        lambda old: replace(old, chains=(replace(old.chains[0], rules=("accept",)), *old.chains[1:])),
        lambda old: replace(old, counters=("dropped", "more")),
        lambda old: old.name,
    ],
    ids=[
        "emptied set",
        "other element",
        "lost rule",
        "other rule",
        "more chains",
        "dynamic chain",
        "counter",
        "deleted",
    ],
)
def test_every_change_by_others_is_seen_and_put_back(
    nft: Nft, tamper: Tamper, change: Callable[[NftTable], NftTable | str]
) -> None:
    def put_back(as_a_whole: bool) -> int:
        return nft.replace(TABLES) if as_a_whole else nft.put(TABLES).generation

    for as_a_whole in (False, True):
        nft.put(TABLES)
        generation = nft.generation()
        tamper(change(TABLES[0]))
        assert nft.generation() != generation
        assert nft.difference(TABLES)
        assert put_back(as_a_whole) == nft.generation()
        assert nft.difference(TABLES) == []


def test_a_change_of_elements_and_dynamic_chains(nft: Nft) -> None:
    """It ends where a fresh start ends; what the kernel refuses changes nothing."""
    new = (
        table(("198.51.100.3", "198.51.100.4"), (2, 5)),
        replace(SECOND, sets=(replace(SECOND.sets[0], elements={}),)),
    )
    nft.put(TABLES)
    generation = nft.generation()
    assert nft.change(TABLES, TABLES) == generation
    assert nft.change(TABLES, new) == generation + 1
    assert nft.difference(new) == []
    with pytest.raises(EgressRouterError):
        nft.change(TABLES, new)
    assert nft.difference(new) == []
    with pytest.raises(StateMismatch):
        nft.change(new, (replace(new[0], chains=(*new[0].chains[:3], NftChain("other", None, ("drop",)))), new[1]))
    assert nft.difference(new) == []
    assert nft.put(TABLES).changed
    assert nft.difference(TABLES) == []


def test_tables_that_must_be_absent_go_in_the_same_transaction(nft: Nft, tamper: Tamper) -> None:
    guard = table(name="inet guard")
    nft.put(TABLES)
    tamper(guard)
    assert nft.difference(TABLES, ["inet guard"])
    generation = nft.generation()
    assert nft.put(TABLES, ["inet guard"]).generation == generation + 1
    assert nft.difference(TABLES, ["inet guard"]) == []
    assert nft.read("inet guard") is None


def test_filling_chains_and_removing(nft: Nft) -> None:
    nft.put(TABLES)
    chain = replace(TABLES[0].chains[0], rules=("meta mark set 7", "accept"))
    nft.fill("inet t", [chain])
    changed = replace(TABLES[0], chains=(chain, *TABLES[0].chains[1:]))
    assert nft.difference([changed]) == []
    assert nft.totals("inet t") == {"dropped": 0}
    nft.remove(["inet t", "arp t", "ip nobody_has_it"])
    assert nft.read("inet t") is None
    assert nft.totals("inet t") == {}
    assert nft.counters("inet t") == {}


def lost_during(action: Callable[[], object]) -> int:
    """Return how many datagrams over lo get lost while ``action`` runs; each is awaited before the next is sent."""
    done = threading.Event()
    lost = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        one.settimeout(0.02)

        def talk() -> None:
            nonlocal lost
            while not done.is_set():
                one.sendto(b"x", one.getsockname())
                try:
                    one.recv(10)
                except TimeoutError:
                    lost += 1

        thread = threading.Thread(target=talk)
        thread.start()
        action()
        done.set()
        thread.join()
    return lost


def test_no_packet_meets_the_copy_that_tells_the_words_of_nft(namespace: None) -> None:
    """Its sets are empty, so it would drop what the table lets through. A script that names a dormant table without
    that flag wakes it up, until the transaction in which it is removed is over.
    """
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    hook = "type filter hook input priority filter; policy accept;"
    drops = NftTable("inet t", (), (NftChain("input", hook, ("udp dport 1-65535 drop",)),))

    def run_tool(options: list[str], text: str) -> str:
        return subprocess.run(["nft", *options], input=text, text=True, check=True, capture_output=True).stdout

    def ask() -> None:
        for _ in range(40):
            Wording(run_tool)._learn(drops)

    def wake() -> None:
        for _ in range(40):
            run(table_text(replace(drops, name="inet u")).replace("{", "{\n\tflags dormant;", 1))
            run(remove_script("inet u"))

    assert lost_during(wake) > 0, "positive control"
    assert lost_during(ask) == 0


def test_elements_that_time_out_are_not_compared(namespace: None) -> None:
    nft = NftKernel()
    nft.put(TABLES)
    run("add element inet t late { 198.51.100.9 timeout 60s }\n")
    assert nft.difference(TABLES) == []
    assert not nft.put(TABLES).changed


def test_rules_and_counters_keep_what_they_have_counted(namespace: None) -> None:
    """When a table is replaced as a whole; also where nft lists a rule in other words than ours."""
    nft = NftKernel()
    text = replace_script(TABLES[0]).replace("::cb00:7119 counter", "::cb00:7119 counter packets 3 bytes 5")
    run(text.replace("counter dropped {", "counter dropped {\n\t\tpackets 7 bytes 9"))
    more = replace(TABLES[0], chains=(*TABLES[0].chains[:3], replace(TABLES[0].chains[3], rules=("drop",))))
    assert nft.put([more]).changed
    counted = nft.counters("inet t")
    assert counted["counter dropped", ""] == (7, 9)
    assert [value for (place, _), value in counted.items() if place == "chain look"] == [(3, 5)]


def test_the_copy_that_tells_the_words_of_nft_has_no_hooks_and_goes(namespace: None) -> None:
    nft = NftKernel()
    nft.put(TABLES)
    listing = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert sorted(listing.split("\n")) == ["", "table arp t", "table inet t"]
    assert NftKernel().difference(TABLES) == [], "nobody else's memory is needed"


def test_notices_of_others_are_heard_and_ours_are_not(namespace: None) -> None:
    own: list[int] = []
    nft = NftKernel(own.append)
    watch = NftWatch(["t"])
    nft.put(TABLES)
    assert select.select([watch], [], [], 1)[0]
    assert watch.heard(own) == Heard(tampered=False, lost=False)
    run(replace_script(table(name="inet other")))
    assert watch.heard(own) == Heard(tampered=False, lost=False, others=True)
    for change in ("add element inet t nets { 192.0.2.7 }", "flush chain inet t other", "delete table arp t"):
        run(f"{change}\n")
        assert watch.heard(own)[:2] == (True, False), change
    watch.close()
