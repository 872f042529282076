"""``egress-router egressip controller``: the process that assigns egress IPs to nodes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from egress_router.cli.egressip_options import PROBE_PORT_OPTION, STATE_OPTION, health_options, serve
from egress_router.egressip.assign import DirectoryRecord
from egress_router.egressip.controller import Controller
from egress_router.egressip.controller_metrics import ControllerCollector
from egress_router.egressip.lease import DirectoryLease
from egress_router.egressip.source import DirectorySource, wait_for_objects
from egress_router.errors import UsageError
from egress_router.model.address_keys import address_key
from egress_router.model.controller import ControllerSettings


@click.command()
@STATE_OPTION
@click.option(
    "--witness",
    multiple=True,
    metavar="IP",
    envvar="EGRESS_CONTROLLER_WITNESSES",
    help="An address that answers pings, such as the gateway: as long as it does, silent nodes are down and not the "
    "controller cut off. May be repeated; EGRESS_CONTROLLER_WITNESSES: a list.",
)
@click.option("--probe-interval", type=click.FloatRange(0.02, 60), default=0.5, show_default=True, help="Seconds.")
@click.option("--probe-misses", type=click.IntRange(1, 100), default=3, show_default=True, help="In a row: down.")
@click.option("--probe-returns", type=click.IntRange(1, 100), default=3, show_default=True, help="In a row: up again.")
@click.option(
    "--hold-down",
    type=click.FloatRange(0, 600),
    default=10.0,
    show_default=True,
    help="Seconds for which a node that came back is given nothing; twice as long each time it flaps.",
)
@PROBE_PORT_OPTION
@health_options(9911, "all addresses")
def controller(
    state: Path,
    witness: tuple[str, ...],
    probe_interval: float,
    probe_misses: int,
    probe_returns: int,
    hold_down: float,
    probe_port: int,
    health_port: int,
    health_address: str,
) -> int:
    """Assign egress IPs to nodes with egressCIDRs for as long as it runs, and away from nodes that die.

    Any number may be started; one assigns, the others stand by. Needs NET_RAW and the nodes' network.
    """
    settings = ControllerSettings(
        _witnesses(witness), probe_interval, probe_misses, probe_returns, hold_down, probe_port
    )
    source = DirectorySource(state)
    try:
        wait_for_objects(source, _log)
        process = Controller(settings, source, DirectoryRecord(state), DirectoryLease(state), _log)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: process.inbox.stop())
        serve(health_port, health_address, process, ControllerCollector(process), process.status)
        process.run()
    finally:
        source.close()
    return 0


def _witnesses(texts: tuple[str, ...]) -> tuple[str, ...]:
    words = [word for text in texts for word in text.replace(",", " ").split()]
    bad = [word for word in words if address_key(word) is None]
    if bad:
        raise UsageError(f"--witness: not an address of a machine: {', '.join(bad)}")
    return tuple(words)


def _log(text: str) -> None:
    print(f"egress-router egressip controller: {text}", file=sys.stderr, flush=True)
