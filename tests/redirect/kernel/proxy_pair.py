"""Two proxies with one EGRESS_SOURCE: in each of their pods a router of a pair has the address for the proxy."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from egress_router.redirect.pair.pair import LISTEN_SECONDS
from lab import Lab
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.pair import RouterPair, Stream, descendants, kill, of_standby, status, wrong_sources

#: A take-over at the default interval, on a machine that has other things to do, too.
MOST_SECONDS = 2.0
HEALTH_PORT = "9912"
#: Faults of tests.redirect.kernel.test_run_pair: "kill" is that of the router beside the proxy.
OF_PROXIES = ("kill", "power", "gateway", "split", "keepalived", "leaving")


class ProxyPair(RouterPair):
    """The routers beside two proxies; what a pod's init container does is done. ``asks`` tries whether the proxy beside
    a router serves a new connection to a destination of a family.
    """

    asks: Callable[[LiveRouter, int], bool]

    def __init__(self, lab: Lab, backend: str, directory: Path, run_directory: Path, mode: str, **env: str) -> None:
        more = {"EGRESS_ROUTER_MODE": mode, "EGRESS_HEALTH_PORT": HEALTH_PORT, **env}
        super().__init__(lab, backend, directory, run_directory, **more)
        for router in self.routers:
            del router.env["EGRESS_DESTINATION_FILE"]
            router.init()

    def stream(self, family: int) -> Stream:
        """Return connections through both proxies. Several at a time, for one that is not served waits a while."""
        return Stream(self, family, 0.1, lambda router: self.asks(router, family), threads=5)


def end_of(client: socket.socket, seconds: float = 3.0) -> str:
    """Return how an open connection ends: "reset", "closed", or "open" when it does not within ``seconds``."""
    client.settimeout(seconds)
    try:
        return "closed" if not client.recv(1) else "data"
    except ConnectionResetError:
        return "reset"
    except TimeoutError:
        return "open"


def until_served(pair: ProxyPair, router: LiveRouter, asks: Callable[[LiveRouter], bool]) -> float:
    """Return how long it takes until the proxy beside a router answers a new connection: there is one every few
    milliseconds, for a proxy that cannot connect tries again a second later.
    """
    started = time.monotonic()
    answered: list[float] = []

    def ask() -> None:
        if asks(router):
            answered.append(time.monotonic())

    with ThreadPoolExecutor(64) as pool:
        while not answered:
            assert time.monotonic() - started < 15, f"nobody serves; roles {pair.roles()}"
            pool.submit(ask)
            time.sleep(0.05)
        pool.shutdown(cancel_futures=True)
    return min(answered) - started


def take_over_of_proxies(
    pair: ProxyPair,
    asks: Callable[[LiveRouter], bool],
    opens: Callable[[LiveRouter], socket.socket],
) -> None:
    """``asks`` whether a proxy serves a new connection, ``opens`` one that stays open, by the proxy beside a router.

    The role goes while pod and proxy live on, then with the router beside it, and then because it leaves.
    """
    for router in pair.routers:
        # Set up by init, and nobody is active yet: nothing leaves.
        assert not asks(router)
    with pair.lab.capture() as capture:
        pair.start()
        active = pair.active()
        standby = pair.other(active)
        assert asks(active)
        assert not asks(standby)
        macs = str(active.macvlan_mac), str(standby.macvlan_mac)
        # One that has just started listens first.
        time.sleep(2 * LISTEN_SECONDS)
        with opens(active) as kept:
            # keepalived ends: the pod lives on without the address, and its clients are told.
            when = time.time()
            keepalived(active)
            seconds = until_served(pair, standby, asks)
            print(f"served after {seconds:.2f} s")
            assert seconds < MOST_SECONDS
            assert end_of(kept) == "reset"
            pair.until(lambda: not asks(active), "the former one serves nobody")
        assert not of_standby(capture, macs[1], when)
        pair.until(lambda: pair.roles() == ["active", "standby"], "there are two again")

        # The router beside the proxy is killed: the kernel takes the address away, and its successor ends the rest.
        active, standby = standby, active
        with opens(active) as kept:
            kill(active)
            seconds = until_served(pair, standby, asks)
            print(f"served after {seconds:.2f} s")
            assert seconds < MOST_SECONDS
            active.start()
            assert end_of(kept, 10) == "reset"
        pair.until(lambda: pair.roles() == ["active", "standby"], "there are two again")

        # It leaves, and waits for what is open.
        active, standby = standby, active
        with opens(active):
            active.signal(signal.SIGTERM)
            time.sleep(1)
            assert pair.role(active) == "active"
        seconds = until_served(pair, standby, asks)
        print(f"served after {seconds:.2f} s; it left")
        assert seconds < MOST_SECONDS + 2
        assert active.wait() == 0
    assert not wrong_sources(capture)
    assert status(standby)["pair"]["both_active"] == 0


def keepalived(router: LiveRouter) -> None:
    """Kill keepalived alone."""
    assert router.process is not None
    os.kill(descendants(router.process.pid)[-1], signal.SIGKILL)
