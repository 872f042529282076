"""The guard pods' writer, against a server that refuses some objects."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from egress_router.egressip.source import api_objects
from egress_router.egressip.source.drain_guard import COMPONENT, GUARD, HANDED_OVER, DrainGuard
from egress_router.egressip.source.groups import ApiObjects
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.kubernetes.client import ApiError, ApiUnavailable, Client
from egress_router.kubernetes.lease import NOT_FOUND, KubernetesLease

NODES = ("n1", "n2", "n3")


class Server:
    """Takes patches, but for those that it was told to refuse, by the end of their path."""

    def __init__(self, **refused: Exception) -> None:
        self.refused, self.taken = refused, list[str]()

    def request(self, _method: str, path: str, body: Any, **_: Any) -> dict[str, Any]:
        name = path.rsplit("/", 1)[1]
        if name in self.refused:
            raise self.refused[name]
        if HANDED_OVER in body["metadata"].get("labels", {}):
            self.taken.append(name)
        return {}


def guard_of(server: Server, log: list[str]) -> DrainGuard:
    """Three nodes that have handed everything over, each with its guard pod, n1's is ``n1``."""
    nodes, pods = {}, {}
    for name in NODES:
        metadata = {"name": name, "uid": f"node-{name}", "resourceVersion": "1", "generation": 1}
        status = {"hostIPs": ["192.0.2.11"], "drain": {"phase": "HandedOver", "connections": 0}}
        nodes[name] = api_objects.egress_node({"metadata": metadata, "spec": {"drain": True}, "status": status})
        labels = {COMPONENT: GUARD}
        raw = {
            "metadata": {"name": name, "namespace": "here", "uid": name, "labels": labels},
            "spec": {"nodeName": name},
            "status": {"podIPs": [{"ip": "198.51.100.2"}]},
        }
        pod = api_objects.pod(raw)
        assert pod is not None
        pods[name] = pod
    source = SimpleNamespace(objects=ApiObjects({}, nodes, {}, {}, {}, pods))
    lease = SimpleNamespace(held=lambda: True)
    return DrainGuard(
        cast(Client, server), cast(KubernetesSource, source), cast(KubernetesLease, lease), "here", log.append,
        on_cordon=False,
    )  # fmt: skip


def test_one_refused_pod_keeps_no_other_waiting() -> None:
    log: list[str] = []
    server = Server(n1=ApiError(403, "Forbidden", "a webhook says no"))
    with pytest.raises(ApiError, match="a webhook says no"):
        guard_of(server, log).turn()
    assert server.taken == ["n2", "n3"]
    assert len(log) == 2
    assert not any("node n1" in line for line in log), "what was not written is not told as done"


def test_a_pod_that_is_gone_is_no_fault() -> None:
    log: list[str] = []
    server = Server(n1=ApiError(NOT_FOUND, "NotFound", "n1"))
    guard_of(server, log).turn()
    assert server.taken == ["n2", "n3"]
    assert not any("node n1" in line for line in log)


def test_a_server_that_is_away_is_asked_once() -> None:
    server = Server(n1=ApiUnavailable("connection refused"), n2=AssertionError("asked on"))
    with pytest.raises(ApiUnavailable):
        guard_of(server, []).turn()
