"""The watches of an agent, without a server: what is known when one takes the place of another."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from egress_router.egressip.source.groups import LocalNode
from egress_router.egressip.source.kubernetes import KubernetesSource

ADDRESS, POD = "192.0.2.45", "198.51.100.2"


def of(kind: str, name: str, **more: Any) -> Mapping[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "uid": f"{kind} {name}", "resourceVersion": "1"}, **more}


def _no_thread(*_: object, **__: object) -> Any:
    return None


def agent_of(node: str) -> KubernetesSource:
    """A source whose watches have no threads; each has seen all objects."""
    client: Any = None
    source = KubernetesSource(client, _no_thread, LocalNode(node, ("192.0.2.11",)))
    spec = {"egressIPs": [ADDRESS], "namespaceSelector": {"matchLabels": {"env": "x"}}}
    source.egress_ips.assume(of("EgressIP", "e", spec=spec))
    namespace = dict(of("Namespace", "n"))
    namespace["metadata"] = {**namespace["metadata"], "labels": {"env": "x"}}
    source._namespaces.assume(namespace)
    for informer in source._fixed():
        informer.synced = True
    return source


def test_a_pod_that_ends_while_its_watch_ends_is_forgotten() -> None:
    source = agent_of("a")
    given = of("EgressIPAssignment", ADDRESS, spec={"egressIP": ADDRESS, "node": "a", "epoch": 1})
    source.assignments.assume(given)
    # The first reading begins the watch of the namespace's pods on other nodes.
    with suppress(OSError):
        source._read()
    (remote,) = source._remote.values()
    pod = of("Pod", "p", spec={"nodeName": "b"}, status={"podIPs": [{"ip": POD}]})
    remote.assume({**pod, "metadata": {**pod["metadata"], "namespace": "n"}})
    remote.synced = True
    state, _ = source._read()
    assert [found.ips for found in state.pods.values()] == [(POD,)]
    source.assignments.forget(given["metadata"]["uid"])
    source._read()
    assert not source._remote, "nobody needs it here any more"
    # What the server had sent by then is still read.
    remote.forget(pod["metadata"]["uid"])
    state, _ = source._read()
    assert not state.pods
    source.close()
