"""The HTTP proxy router: clients set http_proxy; a policy says which sites they reach, with EGRESS_SOURCE."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from lab.host import Host
from lab.stage import Stage

TITLE = "a web proxy with an allow-list, leaving with a source address of its own"
ORDER = 20

SOURCE = "192.0.2.43"
POLICY = "!perdu.com\n!*.perdu.com\n!10.42.253.0/24\n*\n"


def play(stage: Stage) -> None:
    """Tell the story."""
    with tempfile.TemporaryDirectory() as directory, stage.lab() as lab:
        folder = Path(directory)
        folder.chmod(0o755)
        client, router = lab.pod("client"), lab.pod("router")
        lab.dns.set("free.fr", A=["203.0.113.25"])
        lab.dns.set("perdu.com", A=["203.0.113.26"])
        site = lab.http("203.0.113.25")
        lab.http("203.0.113.26")
        mac = lab.macvlan(router)
        stage.part("Without a proxy, a pod reaches both sites, with its node's address")
        for name in ("free.fr", "perdu.com"):
            stage.claim(f"{name} answers 200", _status(stage, client, f"http://{name}/") == "200")
        node = str(lab.nodes[0].addresses[4])
        stage.claim(f"free.fr saw {node}", site.requests[-1].peer == node)
        with lab.capture() as capture:
            _start(stage, router, folder)
            before = len(site.requests)
            _browse(stage, client, router)
            stage.claim(f"free.fr saw {SOURCE}", {item.peer for item in site.requests[before:]} == {SOURCE})
            _log(stage, router, folder)
        stage.part("What the gateway saw")
        leaks = [packet for packet in capture.leaks(allowed={SOURCE}) if packet.src_mac == mac]
        mine = [packet for packet in capture.outgoing() if packet.src_mac == mac]
        stage.claim(f"{len(mine)} packets left from {mac}, macvlan0's own MAC", len(mine) > 0)
        stage.claim(f"leaks: {len(leaks)} had another source than {SOURCE}", not leaks)


def _start(stage: Stage, router: Host, folder: Path) -> None:
    stage.part("The router pod: an init container for the network, then the proxy container")
    stage.init(router, SOURCE, "http-proxy")
    policy = {"EGRESS_HTTP_PROXY_DESTINATION": POLICY}
    stage.variables(router, policy)
    place = folder / "run"
    place.mkdir()
    place.chmod(0o777)
    env = policy | {"EGRESS_LOG_FORMAT": "text", "EGRESS_RUN_DIR": str(place)}
    stage.start(router, "http-proxy", env=env, until="is in force", log=folder / "log")


def _browse(stage: Stage, client: Host, router: Host) -> None:
    stage.part("The client sets http_proxy")
    proxy = f"http://{router.addresses[4]}:8080"
    for url, wanted in (
        ("http://free.fr/", "200"),
        ("http://perdu.com/", "403"),
        ("http://www.perdu.com/", "403"),
        ("http://10.42.253.9/", "403"),
        ("http://127.0.0.1:8080/", "403"),
    ):
        stage.claim(f"{url} answers {wanted}", _status(stage, client, url, proxy) == wanted)


def _status(stage: Stage, client: Host, url: str, proxy: str | None = None) -> str:
    argv = ["curl", "-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}\\n"]
    if proxy:
        argv += ["-x", proxy]
    return stage.run(client, [*argv, url], check=False).stdout.strip()


def _log(stage: Stage, router: Host, folder: Path) -> None:
    stage.part("The proxy's log says who asked for what, and which line of the policy decided")
    lines = [line for line in (folder / "log").read_text().splitlines() if line.startswith("{")]
    stage.prompt(router, "grep decision log | head -n 2")
    stage.output("\n".join(lines[:2]))
    decisions = [json.loads(line).get("decision") for line in lines[:2]]
    stage.claim("the first was allowed and the second denied", decisions == ["allow", "deny"])
