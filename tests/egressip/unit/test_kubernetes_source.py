"""The watches of an agent, without a server: what is known when one takes the place of another."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest

from egress_router.egressip.api import Pod
from egress_router.egressip.source.groups import LocalNode
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.kubernetes.informer import Stored
from egress_router.kubernetes.nri import Sandbox

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


@pytest.mark.parametrize("selector", [{"matchLabels": {"env": "x"}}, None], ids=["drops its pods", "nothing counts"])
@pytest.mark.parametrize("known_before", [True, False])
@pytest.mark.parametrize("how", ["deleted", "gone while the watch was away"])
def test_problems_of_an_object_go_with_it(selector: Mapping[str, Any] | None, known_before: bool, how: str) -> None:
    source = agent_of("a")
    informer = source.egress_ips
    good = of("EgressIP", "bad", spec={"egressIPs": ["192.0.2.46"], "namespaceSelector": {"matchLabels": {"env": "y"}}})
    wrong = {"egressIPs": ["192.0.2.46"], "namespaceSelector": selector, "destinations": {"except": ["no network"]}}
    bad = of("EgressIP", "bad", spec=wrong)
    if known_before:
        informer.assume(good)
    informer.assume(bad)
    assert any("bad" in str(problem) for problem in source._read()[1])
    if how == "deleted":
        informer._event("DELETED", bad, None)
    else:
        fresh: dict[str, Stored[Any]] = {}
        informer._passing_over = set()
        informer._put(
            of("EgressIP", "e", spec={"egressIPs": [ADDRESS], "namespaceSelector": {"matchLabels": {"env": "x"}}}),
            fresh,
        )
        informer._swap(fresh)
    assert source._read()[1] == ()
    informer.assume(bad)
    assert source._read()[1], "the last good value went with the object"
    source.close()


def test_problems_stay_while_the_object_does() -> None:
    source = agent_of("a")
    informer = source.egress_ips
    bad = of("EgressIP", "bad", spec={"egressIPs": ["no address"], "namespaceSelector": None})
    informer.assume(bad)
    for _ in range(2):
        fresh: dict[str, Stored[Any]] = {}
        informer._passing_over = set()
        informer._put(bad, fresh)
        informer._swap(fresh)
        assert source._read()[1]
    source.close()


def test_what_has_gone_is_kept_for_nobody_who_never_asks() -> None:
    """Namespaces that come and go by the thousand: an agent asks for those that there are, and never for changes."""
    source = agent_of("a")
    pod = of("Pod", "p", spec={"nodeName": "b"}, status={"podIPs": [{"ip": "10.1.0.1"}]})
    source._pods._event("ADDED", pod, None)
    for number in range(1000):
        for informer, kind in ((source._namespaces, "Namespace"), (source._pods, "Pod")):
            gone = of(kind, f"gone-{number}", spec={"nodeName": "b"}, status={"podIPs": [{"ip": "10.1.0.2"}]})
            informer._event("ADDED", gone, None)
            informer._event("DELETED", gone, None)
    source._namespaces.objects()
    assert not source._namespaces._changes
    assert not source._pods._changes
    assert source._pods.take_changes().keys() == {"Pod p"}, "the first time all that there are"
    source._pods._event("DELETED", pod, None)
    assert source._pods.take_changes() == {"Pod p": None}
    assert source._pods.take_changes() == {}
    source.close()


def test_one_is_told_once_of_what_one_reading_takes_in() -> None:
    source = agent_of("a")
    source._read()
    while source.wait(0):
        pass
    pods = [of("Pod", f"p{n}", spec={"nodeName": "b"}, status={"podIPs": [{"ip": f"10.1.0.{n}"}]}) for n in (1, 2, 3)]
    source._pods._event("ADDED", pods[0], None)
    assert source.wait(0), "the first change is told"
    source._pods._event("ADDED", pods[1], None)
    assert not source.wait(0), "who was told reads both"
    state, _ = source._read()
    assert len(state.pods) == 2
    source._pods._event("ADDED", pods[2], None)
    assert source.wait(0), "from then on it is news again"
    assert source.runtime is not None
    source.runtime.listed([Sandbox("s", "uid-1", "n", "p", (), (POD,))])
    assert source.wait(0), "what a pod waits for is told at once, whatever was told before"
    source.close()


def test_a_pod_of_the_runtime_is_in_its_group_before_the_api_shows_its_address() -> None:
    source = agent_of("a")
    assert source.runtime is not None
    source.runtime.listed([])
    source._read()
    source.runtime.listed([Sandbox("s", "uid-1", "n", "p", (), (POD,))])
    assert source.wait(0), "the agent is told"
    state, _ = source._read()
    assert state.pods == {("e", "n/p"): Pod("e", "n/p", "a", (POD,))}
    pod = of("Pod", "p", spec={"nodeName": "a"}, status={"podIPs": [{"ip": POD}]})
    source._pods.assume({**pod, "metadata": {**pod["metadata"], "namespace": "n", "uid": "uid-1"}})
    assert source._read()[0].pods is state.pods, "nothing new"
    source.runtime.listed([])
    source._pods.forget("uid-1")
    assert source._read()[0].pods == {}
    other = Sandbox("t", "uid-2", "elsewhere", "q", (), (POD,))
    source.runtime.listed([other])
    assert list(source._read()[0].pods) == [("?", "elsewhere/q")], "of a namespace that is not known: dropped"
    source.close()


def test_pods_that_another_node_tells_of_are_read_at_once_and_until_the_api_shows_them() -> None:
    source = agent_of("a")
    source._read()
    source.wait(0)
    assert not source.pods_told("b", {POD: "unknown uid-1"}, signed=True), "there is no such EgressIP"
    assert not source.pods_told("b", {POD: "- uid-1"}, signed=True), "nor can anybody leave as if none selected it"
    assert not source.urgent()
    assert source.pods_told("b", {POD: "e uid-1"}, signed=True)
    assert source.urgent()
    assert source.wait(0)
    state, _ = source._read()
    assert not source.urgent()
    assert [(pod.namespace, pod.node, pod.ips) for pod in state.pods.values()] == [("e", "b", (POD,))]
    pod = of("Pod", "p", spec={"nodeName": "a"}, status={"podIPs": [{"ip": POD}]})
    source._pods.assume({**pod, "metadata": {**pod["metadata"], "namespace": "n"}})
    assert [pod.node for pod in source._read()[0].pods.values()] == ["a"], "nobody speaks for our pods"
    source.close()
