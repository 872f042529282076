"""Translated connections as the kernel tells of them, and as it takes them."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest

from egress_router.net.conntrack import Conntrack
from egress_router.net.translations import (
    TranslationEvents,
    make_translations,
    open_translations,
    source_of,
    translated_of,
    untranslated,
)

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("namespace"), pytest.mark.parametrize("version", [4, 6])]

#: By IP version: the server, a client that is translated, its other address, and a client that is not.
ENDS = {
    4: ("127.0.0.1", "127.0.0.5", "127.0.0.9", "127.0.0.6"),
    6: ("fd00::1", "fd00::5", "fd00::9", "fd00::6"),
}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
PORT, MARK = 5555, 0x2FFF0000


def run(*words: str, text: str = "") -> str:
    return subprocess.run(words, input=text, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def server(version: int, namespace: None) -> Iterator[socket.socket]:
    """A server behind a translation, on the loopback interface."""
    run("ip", "link", "set", "lo", "up")
    for address in ENDS[6]:
        run("ip", "address", "add", f"{address}/128", "dev", "lo")
    ip = "ip" if version == 4 else "ip6"
    _, client, translated, _ = ENDS[version]
    text = f"""table {ip} t {{
        chain source {{ type nat hook postrouting priority srcnat; {ip} saddr {client} snat to {translated}; }}
        chain track {{ type filter hook input priority 0; ct state new accept; }}
    }}"""
    run("nft", "-f", "-", text=text)
    with socket.socket(FAMILY[version]) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((ENDS[version][0], PORT))
        listening.listen()
        yield listening


def connect(server: socket.socket, version: int, client: str) -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a connection that has carried data."""
    made = socket.socket(FAMILY[version])
    made.settimeout(3)
    made.bind((client, 0))
    made.connect((ENDS[version][0], PORT))
    other, _ = server.accept()
    other.settimeout(3)
    made.sendall(b"x")
    assert other.recv(1) == b"x"
    return made, other


def heard(events: TranslationEvents) -> list[tuple[int, bool]]:
    """Return protocol, and whether it is open, of what comes in a moment."""
    time.sleep(0.1)
    return [(record[0], is_open) for record, is_open in events.read()]


def datagram(version: int) -> socket.socket:
    made = socket.socket(FAMILY[version], socket.SOCK_DGRAM)
    made.bind((ENDS[version][1], 0))
    made.sendto(b"x", (ENDS[version][0], PORT))
    return made


def ping(version: int) -> None:
    target, client, _, _ = ENDS[version]
    run("ping", f"-{version}", "-c", "1", "-W", "2", "-I", client, target)


ICMP = {4: 1, 6: 58}


def test_what_is_translated_is_heard_of_when_it_is_established_and_when_it_is_over(
    server: socket.socket, version: int
) -> None:
    with closing(TranslationEvents()) as events:
        plain = connect(server, version, ENDS[version][3])
        assert heard(events) == [], "nothing of what is not translated"
        one, other = connect(server, version, ENDS[version][1])
        assert other.getpeername()[0] == ENDS[version][2], "positive control"
        assert heard(events) == [(6, True)]
        with datagram(version):
            assert heard(events) == [(17, True)]
        ping(version)
        assert heard(events) == [(ICMP[version], True)]
        one.sendall(b"more")
        assert heard(events) == [], "what goes on is no news"
        for end in (one, other, *plain):
            end.close()
        assert set(heard(events)) == {(6, False)}
        with Conntrack() as conntrack:
            conntrack.end(conntrack.replying_to([ip_address(ENDS[version][2])]))
        assert sorted(set(heard(events))) == sorted({(6, False), (17, False), (ICMP[version], False)})


def test_what_is_open_is_listed_and_a_half_connection_is_not(server: socket.socket, version: int) -> None:
    _, client, translated, _ = ENDS[version]
    one, other = connect(server, version, client)
    with one, other, datagram(version):
        ping(version)
        found = open_translations([ip_address(translated)])
        assert sorted(record[0] for record in found) == sorted([6, 17, ICMP[version]])
        for record in found:
            assert source_of(record) == ip_address(client).packed
            assert translated_of(record) == ip_address(translated).packed
        assert open_translations([ip_address(ENDS[version][3])]) == []
    assert 6 not in [record[0] for record in open_translations([ip_address(translated)])], "it is over"


def test_connections_go_on_with_entries_that_were_made(server: socket.socket, version: int) -> None:
    """As on another machine that has nothing but the records: with the same ports, also in the middle of a stream."""
    translated = ip_address(ENDS[version][2])
    one, other = connect(server, version, ENDS[version][1])
    with one, other, datagram(version):
        ping(version)
        records = open_translations([translated])
        with Conntrack() as conntrack:
            assert conntrack.end(conntrack.replying_to([translated])) == 3
        assert open_translations([translated]) == []
        assert make_translations(records, lambda _: MARK) == (3, "")
        assert sorted(open_translations([translated])) == sorted(records)
        assert make_translations(records, lambda _: MARK) == (3, ""), "in the place of those that are there"
        with Conntrack() as conntrack:
            assert len(conntrack.marked(MARK, 0xFFFFFFFF)) == 3
        # Without a rule that translates, new ones would bear the client's own address.
        run("nft", "flush", "chain", "ip" if version == 4 else "ip6", "t", "source")
        for sender, receiver in ((one, other), (other, one)):
            sender.sendall(b"goes on" * 10_000)
            got = b""
            while len(got) < 70_000:
                got += receiver.recv(1 << 16)
            assert got == b"goes on" * 10_000


def test_an_entry_without_a_translation_is_made_of_the_same_record(server: socket.socket, version: int) -> None:
    one, other = connect(server, version, ENDS[version][3])
    with one, other:
        client = ip_address(ENDS[version][3]).packed
        ends = client + ip_address(ENDS[version][0]).packed
        ports = one.getsockname()[1].to_bytes(2, "big") + PORT.to_bytes(2, "big")
        record = b"\x06" + ends + ip_address(ENDS[version][2]).packed + ports + b"\x12\x34"
        assert make_translations([untranslated(record)], lambda _: MARK) == (1, "")
        with Conntrack() as conntrack:
            (found,) = conntrack.started([ip_address(client)], lambda started: started.mark == MARK)
        assert found.answers_to == ip_address(client)
        one.sendall(b"on")
        assert other.recv(2) == b"on"


def test_what_answers_made_that_came_before_gives_way(server: socket.socket, version: int) -> None:
    """As on a node that has given the address away, passed some on, and is given it again."""
    one, other = connect(server, version, ENDS[version][1])
    with one, other, datagram(version):
        records = open_translations([ip_address(ENDS[version][2])])
        with Conntrack() as conntrack:
            conntrack.end(conntrack.replying_to([ip_address(ENDS[version][2])]))
        # Answers, as if they were beginnings: from there to the translated address.
        assert make_translations(map(turned, records), lambda _: MARK) == (2, "")
        assert make_translations(records, lambda _: 0) == (2, "")
        assert sorted(open_translations([ip_address(ENDS[version][2])])) == sorted(records)
        with Conntrack() as conntrack:
            assert conntrack.marked(MARK, 0xFFFFFFFF) == []
        one.sendall(b"on")
        assert other.recv(2) == b"on"


def turned(record: bytes) -> bytes:
    """Return the connection without a translation that answers of this one would begin."""
    size = len(source_of(record))
    destination, translated, ports = record[1 + size : 1 + 2 * size], translated_of(record), record[1 + 3 * size :]
    return record[:1] + destination + translated + destination + ports[2:4] + ports[4:] + ports[2:4]


def test_what_the_kernel_refuses_is_told(server: socket.socket, version: int) -> None:
    one, other = connect(server, version, ENDS[version][1])
    with one, other:
        (record,) = open_translations([ip_address(ENDS[version][2])])
        size = len(source_of(record))
        rival = record[:1] + ip_address(ENDS[version][3]).packed + record[1 + size :]
        count, refused = make_translations([record, rival], lambda _: 0)
        assert count == 2
        assert "make tracked connections: the kernel says EEXIST" in refused, "the same answers cannot go to both"
        assert open_translations([ip_address(ENDS[version][2])]) == [record], "the others are made"
