"""Cables between machines, routes, and what gives pods their network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from lab import process
from lab.kubernetes import plan
from lab.kubernetes.api_server import SERVICES
from lab.kubernetes.machines import Machine
from lab.kubernetes.plan import OUTSIDE, Plan, address4, address6

FORWARDING = {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1}
CNI_FOLDER = "/etc/cni/net.d"
CNI_BINARIES = ("/opt/cni/bin", "/usr/lib/cni")


def ip(machine: Machine, lines: Sequence[str]) -> None:
    """Run a batch of commands of iproute2 in a machine's network namespace."""
    command = ["nsenter", f"--net={machine.network}", "--", "ip", "-batch", "-"]
    process.run(command, input="\n".join(lines) + "\n")


def port(name: str) -> str:
    """Return the name of a machine's port at the switch."""
    return f"v-{name}"


def connect(machines: Mapping[str, Machine], shape: Plan) -> None:
    """Build the switch and plug every machine into it; each has one NIC, eth0, and the world behind ``outside``."""
    switch = machines[plan.SWITCH]
    lines = ["link add br0 type bridge", "link set br0 up"]
    for name in shape.joined:
        lines += [
            f"link add {port(name)} type veth peer name eth0 netns {machines[name].pid}",
            f"link set {port(name)} master br0 up",
        ]
    ip(switch, lines)
    for name, host in shape.joined.items():
        lines = [
            "link set eth0 up",
            f"addr add {address4(host)}/{plan.LAN4.prefixlen} dev eth0",
            f"addr add {address6(host)}/{plan.LAN6.prefixlen} dev eth0 nodad",
        ]
        if name == OUTSIDE:
            lines += [f"addr add {server} dev lo" for server in plan.SERVERS]
        else:
            lines += [f"route add default via {address4(1)}", f"route add default via {address6(1)}"]
        ip(machines[name], lines)


def set_cable(switch: Machine, name: str, plugged: bool) -> None:
    """Cut a machine off, or connect it again; its own NIC loses or gets its carrier."""
    ip(switch, [f"link set {port(name)} {'up' if plugged else 'down'}"])


def routes_to_pods(machines: Mapping[str, Machine], shape: Plan, ranges: Mapping[str, Sequence[str]]) -> None:
    """Let every machine but ``outside`` reach the pods of each node directly; ``ranges`` has each node's podCIDRs."""
    for name in shape.joined:
        lines = []
        for node, networks in ranges.items():
            if node != name:
                host = shape.joined[node]
                lines += [
                    f"route replace {cidr} via {address6(host) if ':' in cidr else address4(host)}" for cidr in networks
                ]
        if name != OUTSIDE and lines:
            ip(machines[name], lines)


def bridge_conflist(networks: Sequence[str]) -> str:
    """Return the CNI configuration of one node: a bridge, addresses from the node's own ranges."""
    routes = [{"dst": "::/0" if ":" in cidr else "0.0.0.0/0"} for cidr in networks]
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": cidr}] for cidr in networks], "routes": routes},
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, portmap]}, indent=1)


def kube_router_conflist() -> str:
    """Return the CNI configuration that kube-router completes with the node's range."""
    bridge = {"type": "bridge", "bridge": "kube-bridge", "isDefaultGateway": True, "hairpinMode": True}
    portmap = {"type": "portmap", "capabilities": {"snat": True, "portMappings": True}}
    plugins = [bridge | {"name": "kubernetes", "ipam": {"type": "host-local"}}, portmap]
    return json.dumps({"cniVersion": "0.3.1", "name": "kube-router", "plugins": plugins}, indent=1)


def install_conflist(node: Machine, name: str, text: str) -> None:
    """Write a CNI configuration in one step: the node is Ready when the file is there."""
    script = f'cat > {CNI_FOLDER}/.new && mv {CNI_FOLDER}/.new "{CNI_FOLDER}/{name}"'
    node.run(["sh", "-c", f"mkdir -p {CNI_FOLDER} && {script}"], input=text)


def masquerade_rules() -> str:
    """Return nft input: what pods send out of the cluster has the node's address, as with most network plugins.

    Later than other source translation, so that whoever wants another source says so first.
    """
    # The machines that know the way to pods; the gateway of their network does not.
    first, last = plan.API_HOST, plan.FIRST_NODE_HOST + plan.MAX_NODES
    inside4 = ", ".join((plan.PODS4, f"{address4(first)}-{address4(last)}", SERVICES[0]))
    inside6 = ", ".join((plan.PODS6, f"{address6(first)}-{address6(last)}", SERVICES[1]))
    return f"""table inet lab_masquerade {{
    chain postrouting {{
        type nat hook postrouting priority srcnat + 10;
        ip saddr {plan.PODS4} ip daddr != {{ {inside4} }} oifname "eth0" masquerade
        ip6 saddr {plan.PODS6} ip6 daddr != {{ {inside6} }} oifname "eth0" masquerade
    }}
}}
"""


def masquerade(node: Machine) -> None:
    """Load the rules on a node."""
    node.run(["nft", "-f", "-"], input=masquerade_rules())
