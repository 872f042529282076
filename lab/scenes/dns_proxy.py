"""The DNS proxy router: TCP by name; the addresses follow the name server, the source stays EGRESS_SOURCE."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from lab.host import Host
from lab.stage import Stage

TITLE = "TCP connections to names, whose addresses may change, with a source address of their own"
ORDER = 30

SOURCE = "192.0.2.44"
DESTINATIONS = "80 203.0.113.27\n5432 db.example.com 5000\n"


def play(stage: Stage) -> None:
    """Tell the story."""
    with tempfile.TemporaryDirectory() as directory, stage.lab() as lab:
        folder = Path(directory)
        client, router = lab.pod("client"), lab.pod("router")
        lab.dns.set("db.example.com", A=["203.0.113.25"], ttl=1)
        lab.echo("203.0.113.25", tcp=5000)
        lab.echo("203.0.113.26", tcp=5000)
        lab.echo("203.0.113.27", tcp=80)
        mac = lab.macvlan(router)
        with lab.capture() as capture:
            _start(stage, router, folder)
            stage.part("The client connects to the router pod; the names are the router's business")
            answer = stage.ask(client, router.addresses[4], 80)
            stage.claim(f"port 80 leads to 203.0.113.27, which saw {SOURCE}", _is(answer, "203.0.113.27"))
            answer = stage.ask(client, router.addresses[4], 5432)
            stage.claim(f"port 5432 leads to db.example.com, which saw {SOURCE}", _is(answer, "203.0.113.25"))
            stage.part("db.example.com moves to another address")
            lab.dns.set("db.example.com", A=["203.0.113.26"], ttl=1)
            stage.claim("new connections follow", _moved(stage, client, router))
        stage.part("What the gateway saw")
        mine = [packet for packet in capture.outgoing() if packet.src_mac == mac]
        leaks = [packet for packet in mine if str(packet.src) != SOURCE]
        stage.claim(f"{len(mine)} packets left from {mac}, macvlan0's own MAC", len(mine) > 0)
        stage.claim(f"leaks: {len(leaks)} had another source than {SOURCE}", not leaks)


def _start(stage: Stage, router: Host, folder: Path) -> None:
    stage.part("The router pod: an init container for the network, then the proxy container")
    stage.init(router, SOURCE, "dns-proxy")
    names = {"EGRESS_DNS_PROXY_DESTINATION": DESTINATIONS}
    stage.variables(router, names)
    env = names | {"EGRESS_LOG_FORMAT": "text", "EGRESS_RUN_DIR": str(folder)}
    stage.start(router, "dns-proxy", env=env, until="generation 1 is in force", log=folder / "log")


def _moved(stage: Stage, client: Host, router: Host) -> bool:
    """Ask until the new address answers; 20 s are ten times what the name's time to live allows."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        answer = stage.ask(client, router.addresses[4], 5432)
        if _is(answer, "203.0.113.26"):
            return True
        time.sleep(1)
    return False


def _is(answer: str | None, server: str) -> bool:
    words = (answer or "").split()
    return len(words) >= 3 and (words[0], words[2]) == (SOURCE, server)
