"""What would happen to a packet of a pod, or of a namespace's pods: the question of the fleet's page. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from egress_router.config import fields
from egress_router.config.fields import Invalid
from egress_router.config.values import Address
from egress_router.daemon.page.view import AskForm, Reply
from egress_router.egressip.api import ClusterState, Decision, NamespaceDecision, Pod, Via, address_key
from egress_router.egressip.assignment.explain import explain
from egress_router.egressip.node.plan import chosen
from egress_router.errors import quoted

CLIENT = "namespace, namespace/pod or pod address"
EXAMPLE = "203.0.113.7"


def ask_form(state: ClusterState, decision: Decision) -> AskForm:
    """Return what can be asked of the objects as they are."""
    return AskForm(EXAMPLE, CLIENT, lambda target, client: ask(state, decision, client, target))


def ask(state: ClusterState, decision: Decision, client: str, target: str) -> list[Reply]:
    """Return how what ``client`` (CLIENT says what that may be) sends to an address outside of the cluster leaves, and
    why: one reply for a namespace, and one for each address of a pod that fits.
    """
    destination = fields.bare_address(target)
    if isinstance(destination, Invalid):
        return [Reply(None, f"{quoted(target)} is not an address such as {EXAMPLE}: names are looked up by pods")]
    if not client:
        return [Reply(None, f"who sends it? {CLIENT}")]
    pods = _pods(state, client)
    if pods is None:
        return [_of_namespace(decision, client, destination)]
    if not pods:
        return [Reply(None, f"no pod {quoted(client)} is known here; a namespace can be asked about as well")]
    version = destination.version
    found = [_of_pod(decision, pod, ip, destination) for pod, ip in pods if ip_address(ip).version == version]
    return found or [Reply(False, f"{client} has no IPv{version} address to send from")]


def _pods(state: ClusterState, client: str) -> Sequence[tuple[Pod, str]] | None:
    """Return the pods that are meant, with each address; None when a namespace is."""
    namespace, slash, name = client.partition("/")
    if slash:
        pod = state.pods.get((namespace, name))
        return [(pod, ip) for ip in pod.ips] if pod else []
    key = address_key(client)
    if key is None:
        return None
    return [(pod, ip) for pod in list(state.pods.values()) for ip in pod.ips if address_key(ip) == key]


def _of_namespace(decision: Decision, namespace: str, destination: Address) -> Reply:
    verdict, *reasons = explain(decision, namespace, destination)
    return Reply(_leaves(verdict), "; ".join([f"namespace {namespace} to {destination}: {verdict}", *reasons]))


def _of_pod(decision: Decision, pod: Pod, ip: str, destination: Address) -> Reply:
    words, *reasons = explain(decision, pod.namespace, destination)
    verdict = decision.namespaces.get(pod.namespace)
    if words.startswith("with ") and verdict is not None:
        words = _way(verdict, pod, ip)
    about = f"pod {pod.namespace}/{pod.name} ({ip} on {pod.node}) to {destination}"
    return Reply(_leaves(words), "; ".join([f"{about}: {words}", *reasons]))


def _leaves(words: str) -> bool:
    return not words.startswith("dropped")


def _way(verdict: NamespaceDecision, pod: Pod, ip: str) -> str:
    """Return with which egress IP, and by which node; its own where that holds one."""
    usable = [via for via in verdict.via if ip_address(via.ip).version == ip_address(ip).version]
    own = _on(usable, pod.node)
    via = own or chosen(ip, usable)
    how = "its own node" if own else "through the tunnel"
    return f"with {via.ip} by {via.node}, {how}"


def _on(usable: Iterable[Via], node: str) -> Via | None:
    return next((via for via in usable if via.node == node), None)
