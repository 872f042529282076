"""What the capture says is believed, above all when it says that there was nothing."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import CaptureIncomplete, Lab
from lab.host import Host

pytestmark = pytest.mark.root

SERVICE = "203.0.113.25"
NODE = "192.0.2.11"


@pytest.fixture
def plain(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab()


def send(client: Host, count: int, size: int = 20, port: int = 9) -> None:
    """Send numbered datagrams as fast as possible."""
    with client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(count):
            sender.sendto(f"{number:08}".encode().ljust(size, b"."), (SERVICE, port))


def warm_up(lab: Lab, client: Host) -> None:
    """Resolve neighbours on the whole way, so that no packet waits in a queue."""
    lab.echo(SERVICE, udp=7)
    lab.udp(client, SERVICE, 7)


def test_leak_is_seen_and_named(lab: Lab) -> None:
    pod = lab.pod("client")
    lab.echo(SERVICE, tcp=80)
    with lab.capture() as capture:
        lab.tcp(pod, SERVICE, 80)
        assert {str(source) for source in capture.sources()} == {NODE}
        assert capture.leaks({NODE}) == []
        lab.nodes[0].nft("flush ruleset")
        send(pod, 1)
    assert capture.sources() == {lab.nodes[0].addresses[4], pod.addresses[4]}
    leaks = capture.leaks({NODE})
    assert [(packet.src, str(packet.dst), packet.proto) for packet in leaks] == [(pod.addresses[4], SERVICE, "udp")]
    assert f"IP {pod.addresses[4]}." in capture.text()


def test_first_and_last_packet_are_there(plain: Lab) -> None:
    pod = plain.pod("client")
    warm_up(plain, pod)
    for _ in range(20):
        with plain.capture() as capture:
            send(pod, 3)
        numbers = [int(packet.payload[:8]) for packet in capture.outgoing()]
        assert numbers == [0, 1, 2]
        capture.close()


def test_nothing_is_lost_under_load(plain: Lab) -> None:
    pod = plain.pod("client")
    plain.gateway.nft("table ip t { chain c { type filter hook forward priority 0; udp dport 9 drop; }; }")
    warm_up(plain, pod)
    count = 30_000
    with plain.capture() as capture:
        send(pod, count)
        until_now = len(capture.packets)
    numbers = [int(packet.payload[:8]) for packet in capture.outgoing()]
    assert numbers == list(range(count))
    assert until_now >= count
    assert all(packet.length == 14 + 20 + 8 + 20 for packet in capture.outgoing())


def test_stop_takes_in_all_that_waits(plain: Lab) -> None:
    pod = plain.pod("client")
    warm_up(plain, pod)
    with plain.capture() as capture:
        writer = capture._writer.process
        writer.send_signal(signal.SIGSTOP)  # as if this machine were busy elsewhere
        send(pod, 5_000)
        threading.Timer(0.2, writer.send_signal, [signal.SIGCONT]).start()
    assert [int(packet.payload[:8]) for packet in capture.outgoing()] == list(range(5_000))


def test_drops_of_the_kernel_are_an_error(plain: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.capture.RECEIVE_BUFFER", 2048)
    pod = plain.pod("client")
    warm_up(plain, pod)
    capture = plain.capture()
    send(pod, 20_000)
    with pytest.raises(CaptureIncomplete, match="dropped"):
        capture.stop()


def test_unread_capture_does_not_pass_for_silence(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    read, unread = lab.capture(), lab.capture()
    read.stop()
    lab.down()
    assert read.leaks(set()) == []
    with pytest.raises(CaptureIncomplete, match="before this was read"):
        unread.leaks(set())


def test_long_packets_keep_their_length(plain: Lab) -> None:
    pod = plain.pod("client")
    warm_up(plain, pod)
    with plain.capture() as capture:
        send(pod, 1, size=1400)
    assert [packet.length for packet in capture.outgoing()] == [14 + 20 + 8 + 1400]


def test_agrees_with_tcpdump(plain: Lab, tmp_path: Path) -> None:
    pod = plain.pod("client")
    plain.echo(SERVICE, tcp=80, udp=53)
    plain.echo("2001:db8:113::25", tcp=80)
    with plain.capture() as capture:
        plain.tcp(pod, SERVICE, 80)
        plain.tcp(pod, "2001:db8:113::25", 80)
        plain.udp(pod, SERVICE, 53)
    capture.save(tmp_path / "saved.pcap")
    theirs = subprocess.run(
        ["tcpdump", "-nnr", "-", "tcp or udp port 53"],
        stdin=(tmp_path / "saved.pcap").open("rb"),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    ours = [packet for packet in capture.packets if packet.proto in ("tcp", "udp")]
    assert len(ours) == len(theirs) > 10
    for packet, line in zip(ours, theirs, strict=True):
        assert f"{packet.src}.{packet.sport} > {packet.dst}.{packet.dport}:" in line
        if packet.proto == "tcp":
            assert f"[{packet.tcp_flags}]" in line
            assert (f"mss {packet.mss}," in line) == (packet.mss is not None)
    assert len(capture.text().splitlines()) == len(capture.packets)


def test_reading_while_it_runs_and_forgetting(plain: Lab) -> None:
    pod = plain.pod("client")
    warm_up(plain, pod)
    with plain.capture() as capture:
        send(pod, 2)
        assert len(capture.outgoing()) == 2
        send(pod, 1)
        assert len(capture.outgoing()) == 3
        capture.clear()
        send(pod, 4)
    assert len(capture.outgoing()) == 4


def announce(host: Host, address: str) -> None:
    """Send a gratuitous ARP request (RFC 5227, 3)."""
    mac, ip = bytes.fromhex(host.mac().replace(":", "")), socket.inet_aton(address)
    with host.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("eth0", 0))
        sender.send(b"\xff" * 6 + mac + bytes.fromhex("0806 0001 0800 06 04 0001") + mac + ip + bytes(6) + ip)


def test_announcements_tell_the_owner(plain: Lab) -> None:
    other = plain.machine("other", "192.0.2.99")
    with plain.capture() as capture:
        assert capture.owner_mac("192.0.2.77") is None
        announce(other, "192.0.2.77")
        plain.gateway.run(["ping", "-c", "1", "-W", "1", "192.0.2.99"])
    assert capture.owner_mac("192.0.2.99") == other.mac()
    assert capture.owner_mac("192.0.2.77") == other.mac()
    assert capture.owner_mac("192.0.2.1") is None  # the gateway itself is not something that came in
