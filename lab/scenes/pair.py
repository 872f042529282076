"""A pair of routers: one EGRESS_SOURCE, two pods on two nodes, and a node that loses its power."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lab.host import Host
from lab.patience import patient
from lab.stage import Stage

TITLE = "two routers share one source address: when the node of one dies, the other has it within a second"
ORDER = 15

T = TypeVar("T")

SOURCE = "192.0.2.46"
#: Written to the log when a router has its address in place.
HOLDS = "the address is in place"


def play(stage: Stage) -> None:
    """Tell the story."""
    with tempfile.TemporaryDirectory(prefix="pair-") as directory, stage.lab(nodes=3) as lab:
        folder = Path(directory)
        lab.echo("203.0.113.25", tcp=80)
        client = lab.pod("client", node=2)
        routers = [lab.pod("router-a", node=0), lab.pod("router-b", node=1)]
        macs = {router.name: lab.macvlan(router) for router in routers}
        stage.part("Two router pods on two nodes, with the same variables")
        for router in routers:
            _start(stage, router, folder)
        with lab.capture() as capture:
            active = _wait(lambda: next((one for one in routers if _holds(one, folder)), None), 15)
            stage.claim("one of them has the address", active is not None)
            if active is None:
                return
            standby = next(one for one in routers if one is not active)
            _ask_both(stage, client, active, standby)
            stage.part(f"{active.name}'s node loses its power")
            node = lab.nodes[routers.index(active)]
            lab.unplug(node)
            cut = time.monotonic()
            taken = _wait(lambda: _holds(standby, folder) or None, 15)
            seconds = time.monotonic() - cut
            stage.claim(
                f"{standby.name} has the address {seconds:.1f} s later", taken is not None and seconds < patient(2)
            )
            answer = stage.ask(client, standby.addresses[4], 80)
            stage.claim(f"the service sees {SOURCE}, as before", _sees_source(answer))
            stage.part("The node is back: its router is the standby now, and nothing goes to and fro")
            lab.plug(node)
            time.sleep(2)
            stage.egress_router(standby, "status", env=_variables(standby, folder))
            answer = stage.ask(client, standby.addresses[4], 80)
            stage.claim(f"{standby.name} goes on", _sees_source(answer))
        stage.part("What the gateway saw")
        mine = [packet for packet in capture.outgoing() if packet.src_mac in macs.values()]
        leaks = [packet for packet in mine if str(packet.src) != SOURCE]
        what = f"{len(mine)} packets left from two routers, {len(leaks)} with another source"
        stage.claim(what, len(mine) > 0 and not leaks)


def _variables(router: Host, folder: Path) -> dict[str, str]:
    return {
        "EGRESS_SOURCE": SOURCE,
        "EGRESS_GATEWAY": "192.0.2.1",
        "EGRESS_DESTINATION": "80 tcp 203.0.113.25",
        "EGRESS_PAIR": "46",
        "EGRESS_RUN_DIR": str(folder / router.name),
        "EGRESS_LOG_FORMAT": "text",
    }


def _start(stage: Stage, router: Host, folder: Path) -> None:
    env = _variables(router, folder) | {"EGRESS_NAT_BACKEND": stage.backend}
    stage.variables(router, {name: env[name] for name in ("EGRESS_SOURCE", "EGRESS_DESTINATION", "EGRESS_PAIR")})
    stage.start(router, "run", env=env, until="staying until", log=folder / f"{router.name}.log")


def _holds(router: Host, folder: Path) -> bool:
    return HOLDS in (folder / f"{router.name}.log").read_text()


def _wait(condition: Callable[[], T | None], seconds: float) -> T | None:
    end = time.monotonic() + seconds
    while (found := condition()) is None and time.monotonic() < end:
        time.sleep(0.02)
    return found


def _ask_both(stage: Stage, client: Host, active: Host, standby: Host) -> None:
    answer = stage.ask(client, active.addresses[4], 80)
    stage.claim(f"by {active.name} the service is reached, and sees {SOURCE}", _sees_source(answer))
    answer = stage.ask(client, standby.addresses[4], 80, patience=2)
    stage.claim(f"{standby.name} stands by, and resets connections", answer is None)


def _sees_source(answer: str | None) -> bool:
    words = (answer or "").split()
    return len(words) >= 3 and (words[0], words[2]) == (SOURCE, "203.0.113.25")
