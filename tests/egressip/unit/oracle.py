"""The rules written down a second time, slowly and plainly, to judge the real thing by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import product

from egress_router.egressip.api import HostSubnet, NetNamespace

Address = IPv4Address | IPv6Address


def parsed(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def listed(texts: tuple[str, ...]) -> list[Address]:
    return list(dict.fromkeys(a for a in map(parsed, texts) if a is not None))


def network_of(text: str) -> object:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


class Oracle:
    """``may_hold``, ``claims_by_hand`` and ``usable`` straight from the wording of the rules."""

    def __init__(
        self, namespaces: Mapping[str, NetNamespace], nodes: Mapping[str, HostSubnet], offline: frozenset[str]
    ) -> None:
        self.namespaces = namespaces
        self.nodes = nodes
        self.offline = offline
        self.hosts = [parsed(node.host_ip) for node in nodes.values()]

    def wanting(self, address: Address) -> list[str]:
        return [name for name, n in self.namespaces.items() if address in listed(n.egress_ips)]

    def holding(self, address: Address) -> list[str]:
        return [name for name, n in self.nodes.items() if address in listed(n.egress_ips)]

    def sound(self, name: str) -> bool:
        host = parsed(self.nodes[name].host_ip)
        return host is not None and self.hosts.count(host) == 1

    def fits(self, name: str, address: Address) -> bool:
        subnets = [ip_network(text) for text in self.nodes[name].interface_subnets]
        if not subnets:
            return True
        return any(
            address in s and not (address.version == 4 and address in (s.network_address, s.broadcast_address))
            for s in subnets
        )

    def claimed_by_hand(self, address: Address) -> str | None:
        if len(self.wanting(address)) != 1 or len(self.holding(address)) != 1 or address in self.hosts:
            return None
        (node,) = self.holding(address)
        return node if self.sound(node) and self.fits(node, address) else None

    def automatic(self) -> list[Address]:
        every = {a for n in self.namespaces.values() for a in listed(n.egress_ips)}
        return sorted(
            (a for a in every if len(self.wanting(a)) == 1 and not self.holding(a) and a not in self.hosts),
            key=lambda a: (a.version, int(a)),
        )

    def takers(self, address: Address) -> list[str]:
        """Nodes that may be given the address, looked at alone."""
        (owner,) = self.wanting(address)
        siblings = [a for a in listed(self.namespaces[owner].egress_ips) if a.version == address.version]
        return [
            name
            for name, node in self.nodes.items()
            if name not in self.offline
            and self.sound(name)
            and self.fits(name, address)
            and any(address in n for n in map(network_of, node.egress_cidrs) if n is not None)  # type: ignore[operator]
            and not any(sibling in listed(node.egress_ips) for sibling in siblings)
        ]

    def room(self, name: str) -> float:
        node = self.nodes[name]
        if node.capacity is None:
            return float("inf")
        return max(0, node.capacity - sum(self.fits(name, a) for a in listed(node.egress_ips)))

    def valid(self, placed: Mapping[Address, str]) -> bool:
        slots = [(self.wanting(a)[0], a.version, node) for a, node in placed.items()]
        loads = self.loads(placed)
        return len(set(slots)) == len(slots) and all(loads[name] <= self.room(name) for name in loads)

    def loads(self, placed: Mapping[Address, str]) -> dict[str, int]:
        return {name: list(placed.values()).count(name) for name in self.nodes}

    def assignments(self) -> Iterator[dict[Address, str]]:
        """Every assignment that breaks no rule."""
        pool = self.automatic()
        for choice in product(*([None, *self.takers(address)] for address in pool)):
            placed = {address: node for address, node in zip(pool, choice, strict=True) if node is not None}
            if self.valid(placed):
                yield placed

    def score(self, placed: Mapping[Address, str], present: Mapping[Address, str]) -> tuple[int, int, int]:
        """Smaller is better: addresses left out, unevenness, addresses moved or taken away."""
        moved = sum(1 for a in self.automatic() if a in present and placed.get(a) != present[a])
        return -len(placed), sum(n * n for n in self.loads(placed).values()), moved
