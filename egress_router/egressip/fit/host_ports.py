"""Whether the ports that agents and controllers listen on are free on the nodes, as far as objects tell. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from egress_router.egressip.fit.container_network import flannel_backend
from egress_router.egressip.fit.look import DAEMON_SETS, FELIX, HOST_PODS, config_map
from egress_router.egressip.fit.values import Finding, Level, Picture, entries, name_of, part, text
from egress_router.errors import few

CHECK = "ports"
_OURS = "egress-router"


def findings(picture: Picture, ports: Mapping[tuple[str, int], str]) -> list[Finding]:
    """Judge the ports: protocol (TCP, UDP) and number, with what of ours listens there."""
    users: dict[tuple[str, int], set[str]] = {}
    for protocol, number, user in _users(picture):
        users.setdefault((protocol, number), set()).add(user)
    found = []
    for (protocol, number), what in ports.items():
        others = few(sorted(users.get((protocol, number), ())))
        if others:
            advice = f"another port for {what} (docs/egress-ips.md, Ports), on every node the same"
            found.append(
                Finding(Level.REFUSED, CHECK, f"{protocol} {number} on the nodes is taken by {others}", advice)
            )
    if found:
        return found
    unseen = [picture.unseen[path] for path in (HOST_PODS, DAEMON_SETS) if path in picture.unseen]
    numbers = ", ".join(f"{protocol} {number}" for protocol, number in ports)
    if unseen:
        return [Finding(Level.WARNING, CHECK, f"pods on the host's network could not be looked at ({unseen[0]})")]
    return [Finding(Level.OK, CHECK, f"{numbers}: no pod says that it has one of them")]


def _users(picture: Picture) -> Iterator[tuple[str, int, str]]:
    for kind, path, keys in (("pod", HOST_PODS, ("spec",)), ("DaemonSet", DAEMON_SETS, ("spec", "template", "spec"))):
        for item in picture.of(path):
            labels = part(item, "metadata", "labels")
            if labels.get("app.kubernetes.io/name") == _OURS:
                continue
            spec = part(item, *keys)
            for container in entries(spec, "containers"):
                for port in entries(container, "ports"):
                    number = port.get("hostPort") or (port.get("containerPort") if spec.get("hostNetwork") else None)
                    if isinstance(number, int):
                        yield text(port, "protocol") or "TCP", number, f"{kind} {name_of(item)}"
    yield from _overlays(picture)


def _overlays(picture: Picture) -> Iterator[tuple[str, int, str]]:
    """Yield the UDP ports of others' tunnels, which are in no object's ports."""
    for what, value in (
        ("Flannel's VXLAN", flannel_backend(picture).get("Port")),
        ("Cilium's tunnel", config_map(picture, "cilium-config").get("tunnel-port")),
        *(("Calico's VXLAN", part(item, "spec").get("vxlanPort")) for item in picture.of(FELIX[0])),
    ):
        number = _number(value)
        if number:
            yield "UDP", number, what


def _number(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 6:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
