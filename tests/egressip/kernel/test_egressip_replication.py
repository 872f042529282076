"""What holders tell their standbys, between two of this machine's addresses: all that is open, and then each change."""

from __future__ import annotations

import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from egress_router.config.values import Address
from egress_router.egressip.node import replication
from egress_router.egressip.node.replication import Replication
from egress_router.errors import EgressRouterError, PlatformError
from egress_router.net.signed_messages import Signatures
from egress_router.net.translations import translated_of
from lab.patience import patient

pytestmark = pytest.mark.root

HOLDER, STANDBY, IP, IP6 = "127.0.0.21", "127.0.0.22", "192.0.2.45", "2001:db8:2::45"


def record(number: int, ip: str = IP) -> bytes:
    size = len(ip_address(ip).packed)
    ends = number.to_bytes(size, "big") + bytes(size)
    return b"\x06" + ends + ip_address(ip).packed + struct.pack("!HHH", number & 0xFFFF, 80, number & 0xFFFF)


class Kernel:
    """What is open, and a source of events about it."""

    def __init__(self) -> None:
        self.open: set[bytes] = set()
        self.lost = False
        self.lists = 0
        #: Raised by the next reading of events.
        self.trouble: EgressRouterError | None = None
        self._bell = os.eventfd(0, os.EFD_NONBLOCK)
        self._events: list[tuple[bytes, bool]] = []

    def __call__(self) -> Kernel:
        return self

    def change(self, item: bytes, *, is_open: bool, heard: bool = True) -> None:
        (self.open.add if is_open else self.open.discard)(item)
        if heard:
            self._events.append((item, is_open))
            os.eventfd_write(self._bell, 1)

    def fileno(self) -> int:
        return self._bell

    def read(self) -> Iterator[tuple[bytes, bool]]:
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            return
        if (trouble := self.trouble) is not None:
            self.trouble = None
            raise trouble
        taken, self._events = self._events, []
        yield from taken

    def listed(self, translated: Collection[Address]) -> list[bytes]:
        self.lists += 1
        wanted = {address.packed for address in translated}
        return [item for item in self.open if translated_of(item) in wanted]

    def close(self) -> None:
        pass


class Pair:
    """A holder and a standby."""

    def __init__(self, port: int, keys: tuple[Path, Path] | None = None) -> None:
        self.kernel, self.said = Kernel(), list[str]()
        signatures = [None, None] if keys is None else [Signatures(path, self.said.append) for path in keys]
        make: Callable[..., Replication] = Replication
        self.holder = make(HOLDER, port, signatures[0], self.said.append, self.kernel, self.kernel.listed)
        self.standby = make(STANDBY, port, signatures[1], self.said.append, self.kernel, self.kernel.listed)
        self.port = port

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=one.run) for one in (self.holder, self.standby)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for one in (self.holder, self.standby):
                one.stop()
            for thread in threads:
                thread.join(5)
                assert not thread.is_alive()

    def agree(self, *ips: str) -> None:
        self.standby.follow({}, dict.fromkeys(ips, HOLDER))
        self.holder.follow(dict.fromkeys(ips, STANDBY), {})

    def until_kept(self, wanted: set[bytes], ip: str = IP) -> float:
        return until(lambda: self.standby.kept(ip) == wanted)


def until(condition: Callable[[], bool]) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < patient(8)
        time.sleep(0.005)
    return time.monotonic() - start


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind((STANDBY, 0))
        return int(free.getsockname()[1])


def test_all_that_is_open_and_then_each_change(port: int) -> None:
    pair = Pair(port)
    many = {record(number) for number in range(5000)} | {record(number, IP6) for number in range(30)}
    pair.kernel.open |= many | {record(1, "192.0.2.99")}
    pair.agree(IP, IP6)
    with pair.running():
        pair.until_kept({item for item in many if len(item) == len(record(1))})
        pair.until_kept({record(number, IP6) for number in range(30)}, IP6)
        assert pair.standby.kept("192.0.2.99") == frozenset()
        pair.kernel.change(record(7777), is_open=True)
        pair.kernel.change(record(3), is_open=False)
        until(lambda: record(7777) in pair.standby.kept(IP) and record(3) not in pair.standby.kept(IP))
        pair.kernel.change(record(8888), is_open=True)
        pair.kernel.change(record(8888), is_open=False)
        pair.kernel.change(record(9999), is_open=True)
        until(lambda: record(9999) in pair.standby.kept(IP))
        assert record(8888) not in pair.standby.kept(IP)
        until(lambda: pair.holder.figures.told == pair.standby.figures.kept == 5031)
        until(lambda: pair.holder.figures.lag == {STANDBY: 0.0})


def test_what_the_kernel_had_to_drop_is_found_by_comparison(port: int) -> None:
    pair = Pair(port)
    pair.kernel.open |= {record(1), record(2)}
    pair.agree(IP)
    with pair.running():
        pair.until_kept({record(1), record(2)})
        pair.kernel.change(record(1), is_open=False, heard=False)
        pair.kernel.change(record(3), is_open=True, heard=False)
        pair.kernel.lost = True
        pair.kernel.change(record(4), is_open=True)
        pair.until_kept({record(2), record(3), record(4)})


def test_what_was_told_stays_when_the_holder_is_gone_and_goes_when_nobody_needs_it(port: int) -> None:
    pair = Pair(port)
    pair.kernel.open |= {record(1)}
    pair.agree(IP)
    with pair.running():
        pair.until_kept({record(1)})
        pair.holder.stop()
        # By the objects it is this node's now.
        pair.standby.follow({}, {}, {IP})
        time.sleep(0.1)
        assert pair.standby.kept(IP) == {record(1)}
        pair.standby.follow({}, {})
        assert pair.standby.kept(IP) == frozenset()


def test_a_standby_that_knows_later_than_the_holder_is_told_all(port: int) -> None:
    pair = Pair(port)
    pair.kernel.open |= {record(1), record(2, IP6)}
    pair.standby.follow({}, {IP: HOLDER})
    pair.holder.follow({IP: STANDBY, IP6: STANDBY}, {})
    with pair.running():
        until(lambda: pair.standby.figures.refused > 0)
        assert pair.standby.kept(IP6) == frozenset()
        pair.agree(IP, IP6)
        pair.until_kept({record(2, IP6)}, IP6)
        pair.until_kept({record(1)})


def test_of_an_address_that_goes_to_another_standby_nothing_is_told_any_more(port: int) -> None:
    pair = Pair(port)
    pair.kernel.open |= {record(1), record(2, IP6)}
    pair.agree(IP, IP6)
    with pair.running():
        pair.until_kept({record(1)})
        pair.holder.follow({IP6: STANDBY}, {})
        time.sleep(0.1)
        # A connection that is cut because its address goes away is not over where it goes.
        pair.kernel.change(record(1), is_open=False)
        pair.kernel.change(record(3, IP6), is_open=True)
        pair.until_kept({record(2, IP6), record(3, IP6)}, IP6)
        assert pair.standby.kept(IP) == {record(1)}


def test_who_has_no_key_or_is_no_holder_is_not_believed(port: int, tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text("1" * 64 + "\n")
    bad.write_text("2" * 64 + "\n")
    pair = Pair(port, (bad, good))
    pair.kernel.open |= {record(1)}
    pair.agree(IP)
    with pair.running():
        until(lambda: pair.standby.figures.refused > 1)
        assert pair.standby.kept(IP) == frozenset()
        with socket.create_connection((STANDBY, port), source_address=("127.0.0.99", 0)) as stranger:
            stranger.settimeout(3)
            assert stranger.recv(1) == b"", "a machine that this node stands by for nothing of"
    pair = Pair(port, (good, good))
    pair.kernel.open |= {record(1)}
    pair.agree(IP)
    with pair.running():
        pair.until_kept({record(1)})


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff", struct.pack("!I", 3) + b"+4x", struct.pack("!I", 1) + b"?", struct.pack("!I", 0)],
    ids=["too long", "no whole record", "no such kind", "empty"],
)
def test_what_is_no_message_ends_the_stream(port: int, data: bytes) -> None:
    pair = Pair(port)
    pair.standby.follow({}, {IP: HOLDER})
    with pair.running():
        until(lambda: not pair.standby.idle and _sends(port, data) == b"")
        assert pair.standby.figures.refused >= 1
        pair.kernel.open |= {record(1)}
        pair.agree(IP)
        pair.until_kept({record(1)})


def _sends(port: int, data: bytes) -> bytes | None:
    """Send from the holder's address; return what came, empty: it was closed; None: nobody listens yet."""
    try:
        with socket.create_connection((STANDBY, port), source_address=(HOLDER, 0), timeout=3) as opened:
            opened.sendall(data)
            return opened.recv(1)
    except ConnectionRefusedError:
        return None
    except ConnectionResetError:
        return b""


def test_a_standby_that_is_not_reached_costs_no_lists_and_one_line(port: int) -> None:
    pair = Pair(port)
    pair.kernel.open |= {record(1)}
    pair.holder.follow({IP: STANDBY}, {})
    pair.standby.follow({}, {})
    with pair.running():
        until(lambda: bool(pair.said))
        time.sleep(2.2 * replication.RETRY)
        assert (pair.kernel.lists, len(pair.said), pair.holder.figures.again) == (0, 1, 0)
        assert "is not told of connections" in pair.said[0]
        pair.kernel.change(record(2), is_open=True)
        pair.kernel.change(record(1), is_open=False)
        pair.agree(IP)
        pair.until_kept({record(2)})


def test_a_standby_that_ends_each_stream_costs_few_lists_and_one_line(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication, "RETRY", 0.02)
    pair = Pair(port)
    pair.kernel.open |= {record(1)}
    # It does not know yet that it stands by for this one, too.
    pair.standby.follow({}, {IP6: HOLDER})
    listed = pair.kernel.listed

    def slowly(translated: Collection[Address]) -> list[bytes]:
        time.sleep(0.2)
        return listed(translated)

    pair.holder._listed = slowly
    pair.holder.follow({IP: STANDBY}, {})
    with pair.running():
        started = time.monotonic()
        until(lambda: pair.holder.figures.again >= 3)
        assert pair.kernel.lists <= 2 + (time.monotonic() - started)
        assert len(pair.said) == 1
        pair.agree(IP)
        pair.until_kept({record(1)})


def test_what_the_kernel_refuses_once_ends_nothing(port: int) -> None:
    pair = Pair(port)
    pair.kernel.open |= {record(1)}
    pair.agree(IP)
    with pair.running():
        pair.until_kept({record(1)})
        pair.kernel.trouble = PlatformError("hear of connections: no")
        pair.kernel.change(record(2), is_open=True)
        until(lambda: "connections are not kept by standbys: hear of connections: no" in pair.said)
        pair.until_kept({record(1), record(2)})
        until(lambda: pair.holder.figures.error == "" and pair.holder.figures.in_step(STANDBY))


def test_while_the_kernel_refuses_the_figures_show_it(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(port)
    pair.agree(IP)
    with pair.running():
        until(lambda: pair.holder.figures.in_step(STANDBY))

        def refuses() -> Kernel:
            raise PlatformError("hear of connections: no")

        monkeypatch.setattr(pair.holder, "_make_events", refuses)
        pair.kernel.trouble = PlatformError("hear of connections: no")
        pair.kernel.change(record(1), is_open=True)
        until(lambda: pair.holder.figures.connected == {STANDBY: False})
        monkeypatch.setattr(pair.holder, "_make_events", pair.kernel)
        until(lambda: pair.holder.figures.connected == {STANDBY: True})


def test_no_more_are_kept_than_fit(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "MOST_KEPT", 100)
    pair = Pair(port)
    pair.kernel.open |= {record(number) for number in range(5000)}
    pair.agree(IP)
    with pair.running():
        until(lambda: pair.holder.figures.told == 5000)
        until(lambda: pair.standby.figures.kept == 100)
        for number in range(5000):
            pair.kernel.change(record(number), is_open=False)
        pair.kernel.change(record(7777), is_open=True)
        pair.until_kept({record(7777)})


def test_nothing_counts_as_told_before_the_thread_has_heard_of_it(port: int) -> None:
    pair = Pair(port)
    pair.agree(IP)
    listed, goes_on = pair.kernel.listed, threading.Event()
    with pair.running():
        until(lambda: pair.holder.figures.in_step(STANDBY))

        def late(translated: Collection[Address]) -> list[bytes]:
            assert goes_on.wait(patient(8))
            return listed(translated)

        pair.holder._listed = late
        pair.agree(IP, IP6)
        for _ in range(20):
            assert not pair.holder.figures.in_step(STANDBY)
            time.sleep(0.005)
        goes_on.set()
        until(lambda: pair.holder.figures.in_step(STANDBY))


def test_who_stands_by_for_nobody_any_more_does_not_listen(port: int) -> None:
    pair = Pair(port)
    pair.agree(IP)
    with pair.running():
        until(lambda: pair.holder.figures.connected.get(STANDBY, False))
        pair.holder.follow({}, {})
        pair.standby.follow({}, {})
        until(lambda: _sends(port, struct.pack("!I", 0)) is None)


def test_a_process_with_many_open_files_tells_and_hears(port: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= 1200, "this needs more files than select takes"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while stack.enter_context(Path(os.devnull).open("rb")).fileno() < 1100:
            pass
        pair = Pair(port)
        pair.kernel.open |= {record(1)}
        pair.agree(IP)
        with pair.running():
            pair.until_kept({record(1)})


def test_who_only_connects_from_the_holders_address_ends_no_stream(port: int, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("1" * 64 + "\n")
    pair = Pair(port, (keys, keys))
    pair.kernel.open |= {record(1)}
    pair.agree(IP)
    with pair.running(), ExitStack() as stack:
        pair.until_kept({record(1)})
        for _ in range(12):
            stack.enter_context(socket.create_connection((STANDBY, port), source_address=(HOLDER, 0), timeout=3))
        assert _sends(port, struct.pack("!I", 5) + b"=" + ip_address(IP).packed) == b"", "it is not signed"
        pair.kernel.change(record(2), is_open=True)
        pair.until_kept({record(1), record(2)})
        assert pair.holder.figures.again == 0
        assert len(pair.standby._peers) <= 1 + replication._MOST_UNPROVEN


def test_a_holder_that_begins_again_takes_the_place_of_its_former_stream(port: int) -> None:
    pair = Pair(port)
    pair.standby.follow({}, {IP: HOLDER})
    forget = struct.pack("!I", 5) + b"=" + ip_address(IP).packed
    with pair.running(), ExitStack() as stack:
        until(lambda: _sends(port, b"\xff" * 4) == b"")
        first = stack.enter_context(socket.create_connection((STANDBY, port), source_address=(HOLDER, 0), timeout=3))
        first.sendall(forget)
        second = stack.enter_context(socket.create_connection((STANDBY, port), source_address=(HOLDER, 0), timeout=3))
        second.sendall(forget)
        assert first.recv(1) == b""
