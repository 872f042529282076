"""The redirect router: a client pod reaches external services through a router pod, leaving with EGRESS_SOURCE."""

from __future__ import annotations

from lab.capture import Capture
from lab.cluster import Lab
from lab.host import Host
from lab.process import run
from lab.stage import Stage

TITLE = "ports of a router pod lead to external services, with a source address of their own"
ORDER = 10

SOURCE4, SOURCE6 = "192.0.2.46", "2001:db8:2::46"
RULES = """
80 tcp 203.0.113.25
8080 tcp 203.0.113.26 80
8443 tcp 203.0.113.26 443
443 tcp 2001:db8:113::25
203.0.113.27
"""
#: family, protocol, port of the router pod, server and port that must answer
ROADS = (
    (4, "tcp", 80, "203.0.113.25", 80),
    (4, "tcp", 8080, "203.0.113.26", 80),
    (4, "tcp", 8443, "203.0.113.26", 443),
    (6, "tcp", 443, "2001:db8:113::25", 443),
    (4, "udp", 53, "203.0.113.27", 53),
)


def play(stage: Stage) -> None:
    """Tell the story."""
    with stage.lab() as lab:
        lab.echo("203.0.113.25", tcp=80)
        lab.echo("203.0.113.26", tcp=[80, 443])
        lab.echo("203.0.113.27", udp=53)
        lab.echo("2001:db8:113::25", tcp=443)
        client, router = lab.pod("client"), lab.pod("router")
        _introduce(stage, lab, client, router)
        _without_router(stage, lab, client)
        env, mac = _variables(stage), lab.macvlan(router)
        with lab.capture() as capture:
            _set_up(stage, router, env, mac)
            _through_router(stage, client, router)
            _look_inside(stage, router, env)
            _keep_out(stage, lab, client)
            _at_the_gateway(stage, lab, capture, mac)


def _introduce(stage: Stage, lab: Lab, client: Host, router: Host) -> None:
    stage.part("The cluster: network namespaces on this machine, with nothing but documentation addresses")
    for host, what in (
        (client, "a pod"),
        (router, "a pod that is going to be the router"),
        (lab.nodes[0], "the node that both run on"),
        (lab.gateway, "the gateway of the node's network"),
        (lab.services, "external services behind the gateway: 203.0.113.25 .26 .27 and 2001:db8:113::25"),
    ):
        stage.say(f"  {host.name:<9} {host.addresses[4]!s:<13} {host.addresses[6]!s:<17} {what}")


def _without_router(stage: Stage, lab: Lab, client: Host) -> None:
    node = str(lab.nodes[0].addresses[4])
    stage.part("Without a router, pods leave with the address of whatever node they run on")
    answer = stage.ask(client, "203.0.113.25", 80)
    stage.claim(f"the service saw the node's address, {node}", _is(answer, node, "203.0.113.25", 80))


def _variables(stage: Stage) -> dict[str, str]:
    return {
        "EGRESS_SOURCE": f"{SOURCE4} {SOURCE6}",
        "EGRESS_GATEWAY": "192.0.2.1 2001:db8:2::1",
        "EGRESS_DESTINATION": RULES,
        "EGRESS_ROUTER_MODE": "init",
        "EGRESS_NAT_BACKEND": stage.backend,
        "EGRESS_LOG_FORMAT": "text",
    }


def _set_up(stage: Stage, router: Host, env: dict[str, str], mac: str) -> None:
    stage.part("The router pod: its init container runs once")
    stage.say('The annotation pod.network.openshift.io/assign-macvlan: "true" has given it macvlan0, down and bare:')
    stage.run(router, ["ip", "-brief", "link", "show", "macvlan0"])
    stage.variables(router, env)
    stage.egress_router(router, "init", env=env)
    shown = stage.run(router, ["ip", "-brief", "address", "show", "macvlan0"]).stdout
    stage.claim(f"macvlan0 ({mac}) carries EGRESS_SOURCE", SOURCE4 in shown and SOURCE6 in shown)
    again = stage.egress_router(router, "init", env=env)
    stage.claim("run again, it changes nothing", "nothing changed" in again.stderr)


def _through_router(stage: Stage, client: Host, router: Host) -> None:
    stage.part("The client connects to the router pod; the services see EGRESS_SOURCE")
    for family, protocol, port, server, to_port in ROADS:
        source = SOURCE4 if family == 4 else SOURCE6
        answer = stage.ask(client, router.addresses[family], port, protocol)
        stage.claim(
            f"port {port}/{protocol} leads to {server} port {to_port}, which saw {source}",
            _is(answer, source, server, to_port),
        )


def _look_inside(stage: Stage, router: Host, env: dict[str, str]) -> None:
    stage.part("What decides, and what went through")
    explained = stage.egress_router(router, "explain", "8080/tcp", env=env).stdout
    stage.claim("explain names the line and the way", "203.0.113.26:80" in explained and SOURCE4 in explained)
    status = stage.egress_router(router, "status", env=env).stdout
    stage.claim("status finds no difference between what is desired and what the kernel holds", "ok: " in status)


def _keep_out(stage: Stage, lab: Lab, client: Host) -> None:
    stage.part("A machine outside tries to come in")
    stage.say("It sits on the same network as the node, and uses the router pod as its way into the cluster.")
    other = lab.machine("intruder", "192.0.2.99")
    lab.echo(client.addresses[4], tcp=8000, host=client)
    inside = stage.ask(lab.nodes[0], client.addresses[4], 8000)
    stage.claim("the client pod has a server that answers its own node", inside is not None)
    outside = stage.ask(other, "203.0.113.25", 80)
    stage.claim("the intruder's own network works", _is(outside, "192.0.2.99", "203.0.113.25", 80))
    pods = f"{client.addresses[4]}/32"
    stage.run(other, ["ip", "route", "add", pods, "via", SOURCE4])
    reached = [
        stage.ask(other, SOURCE4, 80, patience=1),
        stage.ask(other, SOURCE6, 443, patience=1),
        stage.ask(other, client.addresses[4], 8000, patience=1),
    ]
    stage.claim("neither the router pod nor a pod behind it answered", reached == [None, None, None])
    known = stage.run(other, ["ip", "neigh", "show", SOURCE4]).stdout
    stage.claim("it did find the router's MAC: its packets arrived and were dropped", "lladdr" in known)


def _at_the_gateway(stage: Stage, lab: Lab, capture: Capture, mac: str) -> None:
    capture.stop()
    stage.part("What the gateway saw")
    stage.say("Its network card was recorded from before `init`. The connection to port 8080, first packets:")
    expression = "host 203.0.113.26 and port 80"
    stage.prompt(lab.gateway, f"tcpdump -t -e -n -c 4 -r {capture.path.name} '{expression}'")
    printed = run(["tcpdump", "-t", "-e", "-n", "-c", "4", "-r", str(capture.path), expression]).stdout
    stage.output(printed)
    stage.claim(f"they came from {mac}, macvlan0's own MAC", printed.startswith(f"{mac} > "))
    neighbours = stage.run(lab.gateway, ["ip", "neigh", "show", "dev", "eth0"]).stdout
    for source in (SOURCE4, SOURCE6):
        stage.claim(f"the gateway knows {source} at {mac}", f"{source} lladdr {mac}" in neighbours)
    intruder = {"192.0.2.99", "2001:db8:2::99"}
    seen = [packet for packet in capture.outgoing() if str(packet.src) not in intruder]
    leaks = capture.leaks(allowed={SOURCE4, SOURCE6, *intruder})
    for packet in leaks:
        stage.output(str(packet))
    stage.claim(
        f"leaks: of {len(seen)} packets that left the cluster, {len(leaks)} had another source than EGRESS_SOURCE",
        not leaks and len(seen) > len(ROADS),
    )


def _is(answer: str | None, peer: str, server: str, port: int) -> bool:
    words = (answer or "").split()
    return len(words) >= 4 and (words[0], words[2], words[3]) == (peer, server, str(port))
