"""What a peer may do to who asks it: answer, be silent, be slow without end."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from egress_router.redirect.pair.state import PairState, Twin
from egress_router.redirect.pair.twins import ANSWER_SECONDS, Twins, features
from egress_router.redirect.pair.values import PairConfig
from tests.net.contract.conftest import namespace

pytestmark = [pytest.mark.root, pytest.mark.usefixtures(namespace.__name__)]
PORT = 9909


@pytest.fixture(autouse=True)
def loopback(namespace: None) -> None:
    """The only interface of the namespace."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


OWN, PEER = "127.0.0.2", "127.0.0.1"
PAIR = PairConfig(46, peers=(OWN, PEER))
MINE = features(PAIR, ["192.0.2.46"], "80 tcp 203.0.113.25", {})


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket], None]], None]]:
    """Answer whoever connects to the peer in a way of its own."""
    servers: list[socket.socket] = []

    def start(answer: Callable[[socket.socket], None]) -> None:
        server = socket.create_server((PEER, PORT))
        servers.append(server)

        def run() -> None:
            try:
                while True:
                    client, _ = server.accept()
                    with client:
                        client.recv(4096)
                        answer(client)
            except OSError:
                return

        threading.Thread(target=run, daemon=True).start()

    yield start
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def asked() -> tuple[Twin, float]:
    """Return what is known of the peer after one round, and how long that took."""
    state = PairState(PAIR)
    started = time.monotonic()
    Twins(state, PORT, lambda: [ip_address(OWN)], lambda: MINE).ask()
    assert state.twins.keys() == {PEER}
    return state.twins[PEER], time.monotonic() - started


def page(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def test_a_peer_answers(serve: Callable[[Callable[[socket.socket], None]], None]) -> None:
    body = json.dumps({"role": "standby", "holding": False, "features": MINE}).encode()
    serve(lambda client: client.sendall(page(body)))
    assert asked()[0] == Twin("standby")


def test_one_who_answers_byte_by_byte_does_not_hold_up_the_round(
    serve: Callable[[Callable[[socket.socket], None]], None],
) -> None:
    """Else whoever answers at a peer's address would stop the thread, and the router with it."""

    def answer(client: socket.socket) -> None:
        for byte in page(b"x" * 1000):
            client.sendall(bytes([byte]))
            time.sleep(0.05)

    serve(answer)
    twin, seconds = asked()
    assert twin.problem == f"it does not answer at port {PORT}: timed out"
    assert seconds < ANSWER_SECONDS + 1


def test_one_who_never_ends_is_cut(serve: Callable[[Callable[[socket.socket], None]], None]) -> None:
    def answer(client: socket.socket) -> None:
        while True:
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"{" * 100_000)

    serve(answer)
    twin, seconds = asked()
    assert twin.problem == "what it says is no router of a pair's"
    assert seconds < ANSWER_SECONDS + 1


@pytest.mark.parametrize("code", [b"404", b"503", b""])
def test_another_program_is_no_peer(serve: Callable[[Callable[[socket.socket], None]], None], code: bytes) -> None:
    serve(lambda client: client.sendall(b"HTTP/1.1 " + code + b" X\r\n\r\n{}"))
    assert asked()[0].problem == f"what answers at port {PORT} is no router of a pair"


def test_nobody_answers() -> None:
    assert asked()[0].problem == f"it does not answer at port {PORT}: Connection refused"


def test_a_name_without_an_address_is_told() -> None:
    pair = PairConfig(46, peers=("nowhere.invalid",))
    state = PairState(pair)
    Twins(state, PORT, lambda: [ip_address(OWN)], lambda: MINE).ask()
    assert not state.twins
    assert state.not_found.startswith("EGRESS_PAIR_PEERS: nowhere.invalid has no address: ")
