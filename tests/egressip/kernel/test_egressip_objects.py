"""Our objects, rights and admission policy on a real API server: what is taken and what refused, in which words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from egress_router.egressip.source.api_objects import assignment_name
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.egressip.source.kubernetes_record import KubernetesRecord
from egress_router.kubernetes.client import MERGE_PATCH, ApiError, Client
from egress_router.kubernetes.configuration import ApiConfiguration, from_kubeconfig
from egress_router.kubernetes.lease import KubernetesLease
from lab.kubernetes.api_server import ApiServer
from tests.support.kubernetes import VERSIONS
from tests.support.threads import threads

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(180),
    pytest.mark.parametrize("api_server", VERSIONS, indirect=True),
]

DEPLOY = Path(__file__).parents[3] / "deploy" / "egress-ips"
OURS = "/apis/egress-router.io/v1alpha1"
SELECTOR = {"matchLabels": {"env": "shop"}}
NAMESPACE = "egress-router"


@pytest.fixture(scope="module")
def server(api_server: ApiServer) -> ApiServer:
    """A server on which `kubectl apply -k deploy/egress-ips` was run once."""
    api_server.kubectl("apply", "-k", str(DEPLOY))
    api_server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
    return api_server


@pytest.fixture
def client(server: ApiServer) -> Client:
    return Client(from_kubeconfig(server.kubeconfig, {}))


def egress_ip(**spec: Any) -> dict[str, Any]:
    whole = {"egressIPs": ["192.0.2.45"], "namespaceSelector": SELECTOR, **spec}
    return {"spec": {name: value for name, value in whole.items() if value is not None}}


def excepting(*networks: Any) -> dict[str, Any]:
    return egress_ip(destinations={"except": list(networks)})


def pool(*ranges: Any) -> dict[str, Any]:
    return {"spec": {"ipRanges": list(ranges)}}


def expressions(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"matchExpressions": list(parts)}


def assigned(ip: str, name: str = "", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name or assignment_name(ip)}, "spec": {"egressIP": ip, "epoch": 1, **spec}}


TAKEN: list[tuple[str, dict[str, Any]]] = [
    ("EgressIP", egress_ip()),
    ("EgressIP", egress_ip(egressIPs=["192.0.2.45", "2001:db8::45"])),
    ("EgressIP", egress_ip(podSelector={}, egressNodeSelector={"matchLabels": {"zone": "a"}})),
    (
        "EgressIP",
        egress_ip(namespaceSelector=expressions({"key": "kubernetes.io/metadata.name", "operator": "Exists"})),
    ),
    ("EgressIP", egress_ip(namespaceSelector=expressions({"key": "a", "operator": "NotIn", "values": ["b"]}))),
    ("EgressIP", egress_ip(destinations={})),
    ("EgressIP", excepting()),
    ("EgressIP", excepting("10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32", "192.0.2.7/32", "2001:db8::7/128")),
    ("EgressIP", excepting("0.0.0.0/0", "::/0")),
    ("EgressIP", excepting(*(f"10.{n}.0.0/16" for n in range(64)))),
    ("EgressIP", egress_ip(whenUnavailable="NodeIP")),
    ("EgressIP", egress_ip(whenUnavailable="Drop")),
    ("EgressIP", egress_ip(egressIPs=None, pool="office")),
    ("EgressIP", egress_ip(egressIPs=None, pool="office", poolAddresses=16)),
    ("EgressIPPool", pool({"cidr": "192.0.2.64/28"}, {"start": "192.0.2.100", "end": "192.0.2.120"})),
    ("EgressIPPool", pool({"cidr": "2001:db8::/64"}, {"cidr": "192.0.2.7/32"})),
    ("EgressIPAssignment", assigned("192.0.2.45", givenTo={"egressIP": "shop", "uid": "u", "pool": "office"})),
    ("EgressNode", {"spec": {}}),
    ("EgressNode", {"spec": {"egressIPs": ["192.0.2.45"], "egressCIDRs": ["192.0.2.0/24"], "capacity": {"ip": 3}}}),
    ("EgressIPAssignment", assigned("192.0.2.45", node="node-a")),
    ("EgressIPAssignment", assigned("2001:db8::")),
]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("EgressIP", egress_ip(egressIPs=None), "Required value"),
    ("EgressIP", egress_ip(egressIPs=None), "give egressIPs, or the name of a pool that addresses are given from"),
    ("EgressIP", egress_ip(whenUnavailable="nodeIP"), 'supported values: "Drop", "NodeIP"'),
    ("EgressIP", egress_ip(pool="office"), "egressIPs and pool exclude each other"),
    ("EgressIP", egress_ip(poolAddresses=2), "poolAddresses goes with pool only"),
    ("EgressIP", egress_ip(egressIPs=None, pool="office", poolAddresses=0), "greater than or equal to 1"),
    ("EgressIP", egress_ip(egressIPs=None, pool="Not_A_Name"), "should match"),
    ("EgressIPPool", {"spec": {}}, "Required value"),
    ("EgressIPPool", pool(), "at least 1"),
    ("EgressIPPool", pool({}), "either cidr, or start and end"),
    ("EgressIPPool", pool({"start": "192.0.2.1"}), "either cidr, or start and end"),
    ("EgressIPPool", pool({"cidr": "192.0.2.64/28", "start": "192.0.2.1", "end": "192.0.2.2"}), "either cidr, or"),
    ("EgressIPPool", pool({"cidr": "192.0.2.65/28"}), "must be a network without host bits"),
    ("EgressIPPool", pool({"cidr": "192.0.2.64"}), "must be a network without host bits"),
    ("EgressIPPool", pool({"cidr": "0.0.0.0/0"}), "must be a network of addresses that a node can hold"),
    ("EgressIPPool", pool({"cidr": "224.0.0.0/8"}), "must be a network of addresses that a node can hold"),
    ("EgressIPPool", pool({"cidr": "fe80::/64"}), "must be a network of addresses that a node can hold"),
    ("EgressIPPool", pool({"start": "192.0.2.1", "end": "2001:db8::1"}), "start and end must be of one family"),
    ("EgressIPPool", pool({"start": "192.0.2.01", "end": "192.0.2.9"}), "must be one address in its usual short form"),
    ("EgressIPPool", pool({"start": "127.0.0.1", "end": "127.0.0.9"}), "must be an address that a node can hold"),
    ("EgressIPPool", pool(*({"cidr": f"192.0.2.{n}/32"} for n in range(33))), "at most 32"),
    ("EgressIPAssignment", assigned("192.0.2.45", givenTo={"egressIP": "shop"}), "Required value"),
    ("EgressIP", egress_ip(egressIPs=[]), "at least 1"),
    ("EgressIP", egress_ip(egressIPs=["192.0.2.45", "192.0.2.45"]), "must not have an address twice"),
    ("EgressIP", egress_ip(egressIPs=["192.0.2.045"]), "must be one address in its usual short form"),
    ("EgressIP", egress_ip(egressIPs=["2001:DB8::1"]), "must be one address in its usual short form"),
    ("EgressIP", egress_ip(egressIPs=["192.0.2.0/24"]), "must be one address in its usual short form"),
    ("EgressIP", egress_ip(egressIPs=["127.0.0.1"]), "must be an address that a node can hold"),
    ("EgressIP", egress_ip(egressIPs=["0.1.2.3"]), "must be an address that a node can hold"),
    ("EgressIP", egress_ip(egressIPs=["240.0.0.1"]), "must be an address that a node can hold"),
    ("EgressIP", egress_ip(egressIPs=["::2"]), "must be an address that a node can hold"),
    ("EgressIP", egress_ip(egressIPs=["fe80::1"]), "must be an address that a node can hold"),
    ("EgressIP", egress_ip(egressIPs=["224.0.0.1"]), "must be an address that a node can hold"),
    ("EgressIP", egress_ip(egressIPs=[f"192.0.2.{n}" for n in range(1, 66)]), "at most 64"),
    ("EgressIP", excepting("10.1.2.3/8"), "must be written without host bits and in the usual short form"),
    ("EgressIP", excepting("2001:db8::1/64"), "must be written without host bits and in the usual short form"),
    ("EgressIP", excepting("2001:DB8::/32"), "must be written without host bits and in the usual short form"),
    ("EgressIP", excepting("2001:db8:0::/48"), "must be written without host bits and in the usual short form"),
    ("EgressIP", excepting("10.1.2.3"), "192.0.2.7/32 for one address"),
    ("EgressIP", excepting("10.0.0.0/33"), "must be a network, such as 10.0.0.0/8"),
    ("EgressIP", excepting("10.0.0/8"), "must be a network, such as 10.0.0.0/8"),
    ("EgressIP", excepting("010.0.0.0/8"), "must be a network, such as 10.0.0.0/8"),
    ("EgressIP", excepting("::ffff:10.0.0.0/104"), "must be a network, such as 10.0.0.0/8"),
    ("EgressIP", excepting("fe80::%eth0/64"), "must be a network, such as 10.0.0.0/8"),
    ("EgressIP", excepting("corp.example"), "must be a network, such as 10.0.0.0/8"),
    ("EgressIP", excepting(""), "must be a network, such as 10.0.0.0/8"),
    ("EgressIP", excepting("10.0.0.0/8", "10.0.0.0/8"), "must not have a network twice"),
    ("EgressIP", excepting(8), "must be of type string"),
    ("EgressIP", excepting(*(f"10.{n}.0.0/16" for n in range(65))), "at most 64"),
    ("EgressIP", egress_ip(destinations={"except": "10.0.0.0/8"}), "must be of type array"),
    ("EgressIP", egress_ip(namespaceSelector=None), "Required value"),
    ("EgressIP", egress_ip(namespaceSelector={}), "an empty selector would take every pod"),
    ("EgressIP", egress_ip(namespaceSelector=expressions({"key": "a", "operator": "Is"})), "supported values"),
    (
        "EgressIP",
        egress_ip(namespaceSelector=expressions({"key": "a", "operator": "In"})),
        "values go with In and NotIn",
    ),
    (
        "EgressIP",
        egress_ip(podSelector=expressions({"key": "a", "operator": "Exists", "values": ["b"]})),
        "values go with In and NotIn",
    ),
    ("EgressIP", egress_ip(podSelector={"matchLabels": {"not a key": "x"}}), "must have the keys of labels"),
    ("EgressIP", egress_ip(podSelector={"matchLabels": {"a": "not a value"}}), "should match"),
    ("EgressNode", {"spec": {"egressIPs": ["192.0.2.300"]}}, "must be one address in its usual short form"),
    ("EgressNode", {"spec": {"egressCIDRs": ["192.0.2.1/24"]}}, "must be a network without host bits"),
    ("EgressNode", {"spec": {"egressCIDRs": ["0.0.0.0/0"]}}, "must be a network of addresses that a node can hold"),
    ("EgressNode", {"spec": {"capacity": {"ip": -1}}}, "greater than or equal to 0"),
    ("EgressIPAssignment", assigned("192.0.2.45", "some-name"), "the name is the address"),
    ("EgressIPAssignment", assigned("2001:db8::", "2001-db8--1"), "the name is the address"),
    ("EgressIPAssignment", assigned("192.0.2.45", node="Not_A_Node"), "should match"),
    ("EgressIPAssignment", {"metadata": {"name": "192.0.2.45"}, "spec": {"egressIP": "192.0.2.45"}}, "epoch"),
]
PLURALS = {
    "EgressIP": "egressips",
    "EgressNode": "egressnodes",
    "EgressIPAssignment": "egressipassignments",
    "EgressIPPool": "egressippools",
}


def post(client: Client, kind: str, value: dict[str, Any], *, dry: bool = True) -> dict[str, Any]:
    body = {
        "apiVersion": "egress-router.io/v1alpha1",
        "kind": kind,
        **value,
        "metadata": {"name": "tried", **value.get("metadata", {})},
    }
    query = {"dryRun": "All"} if dry else {}
    return client.request("POST", f"{OURS}/{PLURALS[kind]}", {**query, "fieldValidation": "Strict"}, body)


@pytest.mark.parametrize(("kind", "value"), TAKEN, ids=[str(n) for n in range(len(TAKEN))])
def test_what_is_taken(client: Client, kind: str, value: dict[str, Any]) -> None:
    post(client, kind, value)


@pytest.mark.parametrize(("kind", "value", "words"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_what_is_refused_with_which_words(client: Client, kind: str, value: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError) as raised:
        post(client, kind, value)
    assert raised.value.code == 422
    assert words in str(raised.value), str(raised.value)


def test_a_field_that_nobody_knows_is_refused_when_asked_strictly(client: Client) -> None:
    """As kubectl asks by default."""
    with pytest.raises(ApiError, match=r'unknown field "spec\.destinations\.only"'):
        post(client, "EgressIP", egress_ip(destinations={"only": ["10.0.0.0/8"]}))


def test_a_lower_epoch_and_another_address_are_refused(client: Client) -> None:
    post(client, "EgressIPAssignment", assigned("192.0.2.9", node="node-a", epoch=5), dry=False)
    path = f"{OURS}/egressipassignments/192.0.2.9"

    def patch(**spec: Any) -> dict[str, Any]:
        return client.request("PATCH", path, body={"spec": spec}, content_type=MERGE_PATCH)

    with pytest.raises(ApiError, match="written by a controller that does not lead any more"):
        patch(node="node-b", epoch=4)
    with pytest.raises(ApiError, match="the address of an assignment never changes"):
        patch(egressIP="192.0.2.10", epoch=5)
    with pytest.raises(ApiError, match="whom an address of a pool was given to never changes"):
        patch(givenTo={"egressIP": "shop", "uid": "u", "pool": "office"}, epoch=5)
    assert patch(node="node-b", epoch=5)["spec"]["node"] == "node-b"
    assert patch(node=None, epoch=6)["spec"] == {"egressIP": "192.0.2.9", "epoch": 6}
    # Its status can be written whatever the epoch is: a rule about an optional field would freeze the object.
    client.request("PATCH", f"{path}/status", body={"status": {"node": "node-b"}}, content_type=MERGE_PATCH)
    client.request("DELETE", path)


def test_who_has_an_address_of_a_pool_is_said_once(client: Client) -> None:
    """Of two that give it at the same time the server lets one do it, and no patch changes it or takes it back."""
    shop, lab = ({"egressIP": name, "uid": name, "pool": "office"} for name in ("shop", "lab"))
    post(client, "EgressIPAssignment", assigned("192.0.2.8", givenTo=shop), dry=False)
    with pytest.raises(ApiError) as raised:
        post(client, "EgressIPAssignment", assigned("192.0.2.8", givenTo=lab, epoch=9), dry=False)
    assert raised.value.code == 409
    path = f"{OURS}/egressipassignments/192.0.2.8"
    for given in (lab, None):
        with pytest.raises(ApiError, match="never changes"):
            client.request("PATCH", path, body={"spec": {"givenTo": given}}, content_type=MERGE_PATCH)
    moved = client.request("PATCH", path, body={"spec": {"node": "node-a", "epoch": 2}}, content_type=MERGE_PATCH)
    assert moved["spec"]["givenTo"] == shop
    client.request("DELETE", path)


# Rights


@pytest.fixture(scope="module")
def token_of(server: ApiServer) -> Callable[[str, str], Client]:
    """Return a client with the token of a pod of a service account on a node, as the kubelet asks for it."""
    asked = Client(from_kubeconfig(server.kubeconfig, {}))

    def client_of(account: str, node: str) -> Client:
        name = f"{account}-{node}"
        body: dict[str, Any] = {
            "metadata": {"name": name},
            "spec": {
                "nodeName": node,
                "serviceAccountName": account,
                "hostNetwork": True,
                "containers": [{"name": "main", "image": "none"}],
            },
        }
        asked.request("POST", "/api/v1/nodes", body={"metadata": {"name": node}})
        pod = asked.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", body=body)
        bound = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod["metadata"]["uid"]}
        answer = asked.request(
            "POST",
            f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token",
            body={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound}},
        )
        configuration = ApiConfiguration(server.url, ca_file=server.ca, token=answer["status"]["token"])
        return Client(configuration)

    return client_of


def test_an_agent_writes_of_its_own_node_only(client: Client, token_of: Callable[[str, str], Client]) -> None:
    agent = token_of("egress-router-node", "node-a")
    for node in ("node-a", "node-b"):
        post(client, "EgressNode", {"metadata": {"name": node}, "spec": {}}, dry=False)
    post(client, "EgressIPAssignment", assigned("192.0.2.20", node="node-a"), dry=False)
    post(client, "EgressIPAssignment", assigned("192.0.2.21", node="node-b"), dry=False)
    post(client, "EgressIP", {**egress_ip(), "metadata": {"name": "shop"}}, dry=False)

    def patch(path: str, body: dict[str, Any]) -> None:
        agent.request("PATCH", f"{OURS}/{path}", body=body, content_type=MERGE_PATCH)

    status = {"status": {"heldIPs": ["192.0.2.20"]}}
    told = {"status": {"node": "node-a"}}
    patch("egressnodes/node-a/status", status)
    patch("egressipassignments/192.0.2.20/status", told)
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("egressnodes/node-b/status", status, "this agent is on node node-a, and writes the EgressNode of no other"),
        ("egressipassignments/192.0.2.21/status", told, "this agent is on node node-a, and writes of no assignment"),
        ("egressnodes/node-a", {"spec": {"drain": True}}, "forbidden"),
        ("egressipassignments/192.0.2.20", {"spec": {"node": "node-b"}}, "forbidden"),
        ("egressips/shop/status", {"status": {}}, "forbidden"),
    ]
    for path, body, words in refused:
        with pytest.raises(ApiError) as raised:
            patch(path, body)
        assert words in str(raised.value), str(raised.value)
        assert raised.value.code in (403, 422)
    for path in ("/api/v1/secrets", "/api/v1/nodes", "/api/v1/configmaps"):
        with pytest.raises(ApiError) as raised:
            agent.request("GET", path)
        assert raised.value.code == 403, "an agent needs none of these"
    client.request("DELETE", f"{OURS}/egressips/shop")


def test_a_token_that_is_bound_to_no_pod_writes_nothing(server: ApiServer, client: Client) -> None:
    answer = client.request(
        "POST",
        f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/egress-router-node/token",
        body={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
    )
    stolen = Client(ApiConfiguration(server.url, ca_file=server.ca, token=answer["status"]["token"]))
    post(client, "EgressNode", {"metadata": {"name": "node-c"}, "spec": {}}, dry=False)
    with pytest.raises(ApiError, match="bound to no node"):
        stolen.request("PATCH", f"{OURS}/egressnodes/node-c/status", body={"status": {}}, content_type=MERGE_PATCH)


def test_the_controller_can_do_its_work_with_its_rights(client: Client, token_of: Callable[[str, str], Client]) -> None:
    rights = token_of("egress-router-controller", "node-d")
    lease = KubernetesLease(
        rights, threads().start, NAMESPACE, "egress-router-controller", "one", duration=3, deadline=2, retry=0.4
    )
    other = KubernetesLease(
        rights, threads().start, NAMESPACE, "egress-router-controller", "two", duration=3, deadline=2, retry=0.4
    )
    source = KubernetesSource(rights, threads().start, None)
    try:
        while True:
            try:
                source.read()
                break
            except OSError:
                source.wait(5)
        assert lease.acquire()
        assert not other.acquire()
        assert (other.holder(), lease.transitions) == ("one", 0)
        record = KubernetesRecord(rights, source, lease)
        post(
            client,
            "EgressIP",
            {**egress_ip(egressIPs=["192.0.2.30", "192.0.2.31"]), "metadata": {"name": "x"}},
            dry=False,
        )
        while "192.0.2.30" not in json.dumps([v.egress_ips for v in source.egress_ips.objects().values()]):
            source.wait(5)
        record.write({"node-a": ["192.0.2.30"], "node-b": ["192.0.2.31"]}, ["node-z"])
        record.write({"node-b": ["192.0.2.30", "192.0.2.31"]}, [])
        written = {
            item["spec"]["egressIP"]: item["spec"].get("node")
            for item in client.request("GET", f"{OURS}/egressipassignments")["items"]
        }
        assert written["192.0.2.30"] == written["192.0.2.31"] == "node-b"
        record.write({"node-b": ["192.0.2.31"]}, [])
        client.request("DELETE", f"{OURS}/egressips/x")
        while source.egress_ips.objects():
            source.wait(5)
        record.write({}, [])
        assert client.request("GET", f"{OURS}/egressipassignments")["items"] == []
        status = {"usage": {"total": 1, "used": 0}}
        post(client, "EgressIPPool", {**pool({"cidr": "192.0.2.64/32"}), "metadata": {"name": "p"}}, dry=False)
        assert source.pools is not None
        while not source.pools.objects():
            source.wait(5)
        rights.request("PATCH", f"{OURS}/egressippools/p/status", body={"status": status}, content_type=MERGE_PATCH)
        with pytest.raises(ApiError, match="forbidden"):
            rights.request("DELETE", f"{OURS}/egressippools/p")
        client.request("DELETE", f"{OURS}/egressippools/p")
        lease.release()
        assert not lease.held()
        assert not lease.lost, "giving it back is no loss"
        other._next = 0.0
        assert other.acquire(), "a standby need not wait"
        other.release()
    finally:
        source.close()
