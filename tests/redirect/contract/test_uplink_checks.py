"""The checks of destinations (EGRESS_CHECK) of a router that hands its address over while one is under way."""

from __future__ import annotations

import subprocess

import pytest

from egress_router.config.inputs import Problems, load_inputs
from egress_router.daemon.loop import Loop
from egress_router.redirect.run_config import parse_run
from egress_router.redirect.state import State
from egress_router.redirect.uplink import UplinkMonitor
from tests.net.contract.conftest import namespace

pytestmark = [pytest.mark.root, pytest.mark.usefixtures(namespace.__name__)]

ENV = {
    "EGRESS_SOURCE": "192.0.2.46/24",
    "EGRESS_GATEWAY": "192.0.2.1",
    "EGRESS_DESTINATION": "80 tcp 203.0.113.25",
    "EGRESS_CHECK": "192.0.2.77:443",
}


def test_the_loop_turns_on_when_a_check_is_given_up() -> None:
    """The number of a descriptor that was closed and not removed ends the process when the next one gets it."""
    for words in ("add macvlan0 type veth peer name lan", "set lan up", "set macvlan0 up"):
        subprocess.run(["ip", "link", *words.split()], check=True)
    subprocess.run(["ip", "address", "add", ENV["EGRESS_SOURCE"], "dev", "macvlan0"], check=True)
    run = parse_run(load_inputs(ENV), Problems())
    assert run is not None
    loop = Loop()
    monitor = UplinkMonitor(run, State(interface="macvlan0"), loop)
    monitor.probe()
    assert len(monitor._checks) == 1, "nobody answers: it is under way"
    monitor.close()
    # The timer that asks goes on until the loop stops.
    monitor.probe()
    loop.turn(until=loop.now())
    monitor.close()
    loop.close()
