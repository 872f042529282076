"""An address that another machine has is not taken; one that is taken is made known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Host, Lab
from tests.redirect.kernel.router import SOURCE4, SOURCE6, Router
from tests.redirect.kernel.traffic import Program

pytestmark = pytest.mark.root

RULES = "80 tcp 203.0.113.25\n443 tcp 2001:db8:113::25\n"
SOURCES = {4: SOURCE4, 6: SOURCE6}


def serve(lab: Lab) -> None:
    lab.echo("203.0.113.25", tcp=[80])
    lab.echo("2001:db8:113::25", tcp=[443])


def wait_for(condition: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.02)


def known(host: Host, address: str) -> str:
    """The hardware address that a host has for a neighbour; empty when it has none."""
    words = host.ip(f"neigh show to {address} dev eth0").split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def resolve(host: Host, address: str, owner: str | None) -> None:
    """Make ``host`` ask who has ``address``, and see that it is (or is not) answered."""
    host.run(["ping", "-q", "-c", "1", "-W", "0.3", address], check=False)
    wait_for(lambda: known(host, address) == (owner or "") or "FAILED" in host.ip(f"neigh show to {address}"))
    assert known(host, address) == (owner or "")


@pytest.mark.parametrize("family", [4, 6])
def test_an_address_in_use_is_refused(lab: Lab, backend: str, family: int) -> None:
    serve(lab)
    router = Router(lab, backend, rules=RULES)
    address = SOURCES[family]
    holder = lab.machine("holder", "192.0.2.98")
    holder.add_addresses([address])
    onlooker = lab.machine("onlooker", "192.0.2.97")
    resolve(onlooker, address, holder.mac())

    with lab.capture() as capture:
        refused = router.init(EGRESS_DAD="on", check=False)
    assert refused.returncode == 75, refused.stderr
    assert holder.mac() in refused.stderr
    assert address in refused.stderr
    # Nothing is left that answers for the address, and nobody was told that it is here.
    assert "192.0.2.46" not in router.host.ip("addr")
    assert "::46" not in router.host.ip("addr")
    assert capture.owners(address) <= {holder.mac()}
    assert known(onlooker, address) == holder.mac()
    holder.ip(f"addr del {address}/{24 if family == 4 else 64} dev eth0")
    onlooker.ip(f"neigh flush to {address}")
    resolve(onlooker, address, None)

    # Once the other one is gone, the same run succeeds.
    router.init(EGRESS_DAD="on")
    assert router.tcp(80).startswith(SOURCE4)
    assert router.tcp(443, 6).startswith(SOURCE6)


def test_detection_can_be_switched_off(lab: Lab, backend: str) -> None:
    router = Router(lab, backend, rules=RULES)
    holder = lab.machine("holder", "192.0.2.98")
    holder.add_addresses(SOURCES.values())
    with lab.capture() as capture:
        router.init(EGRESS_DAD="off")
    assert SOURCE4 in router.host.ip("addr show dev macvlan0")
    assert [
        p
        for p in capture.packets
        if p.src_mac == router.macvlan_mac and str(p.src) in ("0.0.0.0", "::") and p.icmp_type != 143
    ] == []


@pytest.mark.parametrize("family", [4, 6])
def test_two_that_start_at_once_do_not_both_win(make_lab: Callable[..., Lab], shape: str, family: int) -> None:
    """Another machine that probes for the address has no more right to it, but it is seen (RFC 5227, 2.1.1)."""
    lab = make_lab(nodes=1, shape=shape)
    router = Router(lab, "nftables", rules=RULES)
    rival = lab.machine("rival", "192.0.2.98")
    start = Program(rival, "prober")
    start.tell({"address": SOURCES[family], "mac": rival.mac(), "seconds": 3.0})
    refused = router.init(EGRESS_DAD="on", check=False)
    assert refused.returncode == 75, refused.stderr
    assert rival.mac() in refused.stderr


def test_two_routers_that_start_at_once_do_not_both_win(make_lab: Callable[..., Lab], shape: str) -> None:
    lab = make_lab(nodes=2, shape=shape)
    router = Router(lab, "nftables", rules=RULES)
    second = lab.pod("second", node=1)
    lab.macvlan(second)
    command = [sys.executable, "-m", "egress_router", "init"]
    runs = [
        pod.popen(command, env={**router.env, "EGRESS_DAD": "on"}, stderr=subprocess.PIPE, text=True)
        for pod in (router.host, second)
    ]
    ends = [(run.communicate(timeout=20)[1], run.returncode) for run in runs]
    assert [code for _, code in ends].count(0) <= 1, ends
    assert {code for _, code in ends} <= {0, 75}, ends


def test_an_address_in_use_is_waited_for(lab: Lab, backend: str) -> None:
    """A pod that was deleted is replaced at once and drains meanwhile: there is one owner at any time."""
    serve(lab)
    router = Router(lab, backend, rules=RULES)
    former = lab.machine("former", "192.0.2.98")
    former.add_addresses([SOURCE4])
    command = [sys.executable, "-m", "egress_router", "init"]
    env = {**router.env, "EGRESS_DAD": "on", "EGRESS_DAD_WAIT": "20"}
    waiting = router.host.popen(command, env=env, stderr=subprocess.PIPE, text=True)
    assert waiting.stderr is not None
    assert any("Waiting for at most 20 s" in line for line in waiting.stderr)
    assert SOURCE4 not in router.host.ip("addr")
    former.ip(f"addr del {SOURCE4}/24 dev eth0")
    gone = time.monotonic()
    assert waiting.wait(20) == 0
    assert time.monotonic() - gone < 5
    assert router.tcp(80).startswith(SOURCE4)


@pytest.mark.parametrize("verb", ["init", "run"])
def test_waiting_ends_at_a_signal(lab: Lab, backend: str, verb: str) -> None:
    router = Router(lab, backend, rules=RULES)
    lab.machine("holder", "192.0.2.98").add_addresses([SOURCE4])
    env = {**router.env, "EGRESS_DAD": "on", "EGRESS_DAD_WAIT": "60"}
    env["EGRESS_ROUTER_MODE"] = "init" if verb == "init" else "legacy"
    command = [sys.executable, "-m", "egress_router", verb]
    # As in a container: the first process of a PID namespace hears no signal that it has no handler for.
    first = ["unshare", "--pid", "--fork", "--kill-child", *command]
    waiting = router.host.popen(first, env=env, stderr=subprocess.PIPE, text=True)
    assert waiting.stderr is not None
    assert any("Waiting" in line for line in waiting.stderr)
    process = int(Path(f"/proc/{waiting.pid}/task/{waiting.pid}/children").read_text())
    os.kill(process, signal.SIGTERM)
    assert waiting.wait(5) == 75


def test_two_routers_that_start_at_once_and_wait(make_lab: Callable[..., Lab], shape: str) -> None:
    """One of them gets the address, for their turns to ask differ."""
    lab = make_lab(nodes=2, shape=shape)
    router = Router(lab, "nftables", rules=RULES)
    second = lab.pod("second", node=1)
    lab.macvlan(second)
    command = [sys.executable, "-m", "egress_router", "init"]
    env = {**router.env, "EGRESS_DAD": "on", "EGRESS_DAD_WAIT": "20"}
    runs = [pod.popen(command, env=env, stderr=subprocess.PIPE, text=True) for pod in (router.host, second)]
    ends = [(run.communicate(timeout=60)[1], run.returncode) for run in runs]
    assert sorted(code for _, code in ends) == [0, 75], ends


def test_neighbours_learn_the_new_owner(lab: Lab, backend: str) -> None:
    serve(lab)
    router = Router(lab, backend, rules=RULES)
    former = lab.machine("former", "192.0.2.98")
    former.add_addresses(SOURCES.values())
    onlooker = lab.machine("onlooker", "192.0.2.97")
    hosts = (onlooker, lab.gateway)
    for host in hosts:
        for address in SOURCES.values():
            resolve(host, address, former.mac())
    # Positive control: the former owner leaves in silence, and everybody still believes in it.
    lab.unplug(former)
    assert {known(host, address) for host in hosts for address in SOURCES.values()} == {former.mac()}

    with lab.capture() as capture:
        router.init(EGRESS_DAD="on")
        assert {known(host, address) for host in hosts for address in SOURCES.values()} == {router.macvlan_mac}
        assert router.tcp(80).startswith(SOURCE4)
        assert router.tcp(443, 6).startswith(SOURCE6)
    told = [p for p in capture.received() if p.src_mac == router.macvlan_mac and p.target is not None]
    for address in SOURCES.values():
        announcements = [p for p in told if str(p.target) == address and p.target_mac == router.macvlan_mac]
        assert len(announcements) >= 2, "one may get lost"
