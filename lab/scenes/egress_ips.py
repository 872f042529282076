"""Namespace egress IPs: two addresses on two nodes, a ping running, the power of the first holder cut, and back."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import yaml

from lab.addressing import LAN, PODS, pod_subnet
from lab.capture import Capture
from lab.cluster import Lab
from lab.host import Host
from lab.stage import Stage

TITLE = "A namespace's traffic leaves with its own addresses, and survives a node"
ORDER = 40

SERVICE = "203.0.113.25"
IPS = ("192.0.2.45", "192.0.2.54")
#: Seconds between pings, and the longest that a step may take.
EVERY, PATIENCE = 0.02, 20.0
#: OpenShift SDN takes 9 to 14 s, OVN-Kubernetes 5 to 11 s; the goal here is half a second.
GOAL_MS = 500


def play(stage: Stage) -> None:
    """Tell the story."""
    with tempfile.TemporaryDirectory() as directory, stage.lab(nodes=3) as lab:
        state = Path(directory, "state")
        state.mkdir()
        client, stranger = lab.pod("client", node=0), lab.pod("stranger", node=1)
        _objects(state, lab, {client: "toto", stranger: "other"})
        lab.echo(SERVICE, tcp=80)
        env = {"EGRESS_STATE_DIR": str(state)}
        stage.part("The namespace toto gets two egress IPs, and two nodes the right to hold them")
        patch = ("egressip", "patch")
        stage.egress_router(lab.nodes[0], *patch, "netnamespace", "toto", "--egress-ips", ",".join(IPS), env=env)
        for node, ip in zip(lab.nodes[1:], IPS, strict=True):
            stage.egress_router(lab.nodes[0], *patch, "hostsubnet", node.name, "--egress-ips", ip, env=env)
        stage.egress_router(lab.nodes[0], "egressip", "plan", env=env)
        stage.part("Every node runs the agent")
        for node in reversed(lab.nodes):
            stage.start(
                node,
                "node",
                env=_variables(env, node, directory),
                until='"message": "ready"',
                log=_log(directory, node),
            )
        with lab.capture() as capture:
            _answers(stage, client, stranger)
            _power_cut(stage, lab, client, capture)
            stage.part("What the gateway saw")
            leaks = capture.leaks(allowed={*IPS, str(lab.nodes[1].addresses[4])})
            stage.claim(f"leaks: {len(leaks)} of {len(capture.outgoing())} packets had a wrong source", not leaks)


def _objects(state: Path, lab: Lab, pods: dict[Host, str]) -> None:
    objects: list[dict[str, object]] = [
        {"kind": "NetNamespace", "metadata": {"name": name}, "netid": number}
        for number, name in enumerate(("toto", "other"), start=1)
    ]
    for number, node in enumerate(lab.nodes):
        subnet = f"{pod_subnet(number, 4)},{pod_subnet(number, 6)}"
        host_ip = str(node.addresses[4])
        objects.append({"kind": "HostSubnet", "metadata": {"name": node.name}, "hostIP": host_ip, "subnet": subnet})
    for pod, namespace in pods.items():
        assert pod.node is not None
        ips = [{"ip": str(address)} for address in pod.addresses.values()]
        metadata = {"name": pod.name, "namespace": namespace}
        spec, status = {"nodeName": pod.node.name}, {"podIPs": ips}
        objects.append({"kind": "Pod", "metadata": metadata, "spec": spec, "status": status})
    Path(state, "cluster.yaml").write_text(yaml.safe_dump_all(objects))


def _variables(env: dict[str, str], node: Host, directory: str) -> dict[str, str]:
    networks = " ".join(str(network) for network in (*LAN.values(), *PODS.values()))
    socket = str(Path(directory, f"{node.name}.sock"))
    return env | {"EGRESS_NODE": node.name, "EGRESS_CLUSTER_NETWORKS": networks, "EGRESS_NODE_SOCKET": socket}


def _log(directory: str, node: Host) -> Path:
    return Path(directory, f"{node.name}.log")


def _answers(stage: Stage, client: Host, stranger: Host) -> None:
    stage.part("A pod of toto, and a pod of another namespace on the node that holds the first address")
    answer = (stage.ask(client, SERVICE, 80) or "").split()
    stage.claim("the server saw one of the namespace's addresses", bool(answer) and answer[0] in IPS)
    answer = (stage.ask(stranger, SERVICE, 80) or "").split()
    assert stranger.node is not None
    own = str(stranger.node.addresses[4])
    stage.claim(f"the other namespace leaves with its node's address {own}", bool(answer) and answer[0] == own)


def _power_cut(stage: Stage, lab: Lab, client: Host, capture: Capture) -> None:
    stage.part("A ping runs, and the power of the node that carries it is cut")

    def last() -> str:
        """Return the source of the last ping that left."""
        pings = [packet for packet in capture.outgoing() if packet.proto == "icmp"]
        return str(pings[-1].src) if pings else ""

    command = ["ping", "-n", "-q", "-i", str(EVERY), SERVICE]
    stage.prompt(client, " ".join(command) + " &")
    client.popen(command, stdout=subprocess.DEVNULL)
    first_seen = _until(lambda: last() in IPS)
    first = last()
    holder = lab.nodes[1 + IPS.index(first)] if first_seen else lab.nodes[1]
    stage.claim(f"the ping leaves with {first}, through {holder.name}", first_seen)
    time.sleep(0.5)
    cut = time.time()
    stage.say(f"{holder.name}'s power is cut.")
    lab.unplug(holder)
    second = IPS[1 - IPS.index(first)] if first_seen else ""
    stage.claim(f"it leaves with {second} now", _until(lambda: last() == second))
    time.sleep(0.3)
    times = [packet.time for packet in capture.outgoing() if packet.proto == "icmp" and packet.time > cut - 0.5]
    silent = max((b - a for a, b in pairwise(times)), default=PATIENCE)
    stage.say(f"{silent * 1000:.0f} ms without traffic (goal: {GOAL_MS}), {silent / EVERY:.0f} pings lost.")
    stage.say(f"{holder.name} is back.")
    lab.plug(holder)
    back = time.time()
    stage.claim(f"new connections leave with {first} again", _until(lambda: _leaves_with(stage, client, first)))
    stage.say(f"That took {time.time() - back:.1f} s.")
    stage.claim("the ping, a connection that runs, stays where it is", last() == second)


def _leaves_with(stage: Stage, client: Host, ip: str) -> bool:
    time.sleep(0.5)
    return (stage.ask(client, SERVICE, 80) or "").split()[:1] == [ip]


def _until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return held
