"""The two ways that container network plugins connect a pod to its node."""

from __future__ import annotations

from collections.abc import Iterator

from lab.addressing import FAMILIES, LAN, PODS, numbered, pod_subnet
from lab.host import Host

BRIDGE = "bridge"
POINT_TO_POINT = "point-to-point"
SHAPES = (BRIDGE, POINT_TO_POINT)

#: Calico's next hops: an address that the node answers ARP for, and the link-local address of its end of the veth.
NEXT_HOP_4 = "169.254.1.1"
NODE_MAC = "ee:ee:ee:ee:ee:ee"
NEXT_HOP_6 = "fe80::ecee:eeff:feee:eeee"

#: Pod traffic to anything but a pod gets the node's address, as flannel, OVN-Kubernetes and Calico do by default.
MASQUERADE = f"""
table inet cni {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {PODS[4]} ip daddr != {PODS[4]} oifname "eth0" masquerade
        ip6 saddr {PODS[6]} ip6 daddr != {{ {PODS[6]}, fe80::/10, ff00::/8 }} oifname "eth0" masquerade
    }}
}}
"""


def node_commands(index: int, nodes: int, shape: str, lan_numbers: list[int]) -> Iterator[str]:
    """Yield the ip commands that make node ``index`` ready for pods: its bridge, its routes to other nodes' pods."""
    if shape == BRIDGE:
        yield "link add cni0 type bridge mcast_snooping 0 forward_delay 0"
        yield "link set cni0 addrgenmode none"
        for family in FAMILIES:
            subnet = pod_subnet(index, family)
            yield f"addr add {subnet[1]}/{subnet.prefixlen} dev cni0" + (" nodad" if family == 6 else "")
        yield "addr add fe80::1/64 dev cni0 nodad"
        yield "link set cni0 up"
    for other in range(nodes):
        if other != index:
            for family in FAMILIES:
                via = numbered(LAN[family], lan_numbers[other])
                yield f"route add {pod_subnet(other, family)} via {via} dev eth0"


def node_devices(shape: str) -> list[str]:
    """Return the node's devices, besides its NIC and the pods' cables, that pod traffic goes through."""
    return ["cni0"] if shape == BRIDGE else []


def create_link(pod: Host, link: str) -> str:
    """Return the node's ip command that makes the cable to a pod, whose end at the node is called ``link``."""
    return f"link add name {link} type veth peer name {pod.interface} netns {pod.netns}"


def node_side(pod: Host, link: str, shape: str) -> Iterator[str]:
    """Yield the node's ip commands that connect its end of a pod's cable."""
    yield f"link set {link} addrgenmode none"
    if shape == BRIDGE:
        yield f"link set {link} master cni0"
        yield f"link set {link} up"
        return
    yield f"link set {link} address {NODE_MAC}"
    yield f"addr add {NEXT_HOP_6}/64 dev {link} nodad"
    yield f"link set {link} up"
    for address in pod.addresses.values():
        yield f"route add {address}/{address.max_prefixlen} dev {link}"


def node_sysctls(link: str, shape: str) -> dict[str, str | int]:
    """Return what a pod's veth needs on the node: in the point-to-point shape, prompt answers for the next hop."""
    if shape == BRIDGE:
        return {}
    return {f"net/ipv4/conf/{link}/proxy_arp": 1, f"net/ipv4/neigh/{link}/proxy_delay": 0}


def pod_side(pod: Host, node: int, shape: str) -> Iterator[str]:
    """Yield the ip commands of a pod of node ``node`` (0-based)."""
    yield "link set lo up"
    yield f"link set {pod.interface} up"
    for family, address in pod.addresses.items():
        length = pod_subnet(node, family).prefixlen if shape == BRIDGE else address.max_prefixlen
        yield f"addr add {address}/{length} dev {pod.interface}" + (" nodad" if family == 6 else "")
    if shape == BRIDGE:
        for family in pod.addresses:
            yield f"route add default via {pod_subnet(node, family)[1]} dev {pod.interface}"
    else:
        yield f"route add {NEXT_HOP_4} dev {pod.interface} scope link"
        yield f"route add default via {NEXT_HOP_4} dev {pod.interface}"
        yield f"route add default via {NEXT_HOP_6} dev {pod.interface}"
