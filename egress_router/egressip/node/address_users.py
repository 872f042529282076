"""Which pods may leave with which egress IP, by the objects. Pure."""

from __future__ import annotations

from ipaddress import ip_address

from egress_router.egressip.api import ClusterState, Pod, address_key


class AddressUsers:
    """The pods of one state of the cluster, found once for all addresses: a holder may have hundreds, a cluster ten
    thousand namespaces.
    """

    def __init__(self, state: ClusterState) -> None:
        self._namespaces = state.namespaces
        self._pods = state.pods
        self._spaces: dict[int, set[str]] = {}
        for name, space in state.namespaces.items():
            for key in map(address_key, space.egress_ips):
                if key is not None:
                    self._spaces.setdefault(key, set()).add(name)
        self._pods_in: dict[str, list[Pod]] = {}
        self._spaces_of: dict[str, set[str]] = {}
        for pod in state.pods.values():
            self._pods_in.setdefault(pod.namespace, []).append(pod)
            for text in pod.ips:
                self._spaces_of.setdefault(text, set()).add(pod.namespace)

    def are_of(self, state: ClusterState) -> bool:
        """Tell whether these are the users of that state, too."""
        return self._namespaces is state.namespaces and self._pods is state.pods

    def on(self, node: str, ip: str) -> set[str]:
        """Return the addresses of that node's pods, of the family of ``ip``, whose namespaces list it."""
        return {text for text, where in self._users(ip) if where == node and (":" in text) == (":" in ip)}

    def sole(self, ip: str) -> dict[bytes, str]:
        """Return the packed addresses of the pods whose namespace lists ``ip`` while no other does, with their nodes;
        none that a pod of another namespace has as well.
        """
        spaces = self._spaces_with(ip)
        if len(spaces) != 1:
            return {}
        return {ip_address(text).packed: where for text, where in self._users(ip) if self._spaces_of[text] == spaces}

    def everywhere(self, ip: str) -> dict[str, str]:
        """Return the addresses of the pods whose namespaces list ``ip``, of its family, with their nodes."""
        return {text: where for text, where in self._users(ip) if (":" in text) == (":" in ip)}

    def namespaces(self, ip: str) -> set[str]:
        """Return the namespaces that list ``ip``."""
        return set(self._spaces_with(ip))

    def _spaces_with(self, ip: str) -> set[str]:
        key = address_key(ip)
        return set() if key is None else self._spaces.get(key, set())

    def _users(self, ip: str) -> list[tuple[str, str]]:
        pods = (pod for name in self._spaces_with(ip) for pod in self._pods_in.get(name, ()))
        return [(text, pod.node) for pod in pods for text in pod.ips]
