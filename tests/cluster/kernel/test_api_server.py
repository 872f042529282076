"""An API server alone: in seconds, with real rights, and its data survive what it does not."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.parse
from collections.abc import Callable
from contextlib import suppress

import pytest

from lab import CommandFailed, Lab
from lab.kubernetes.api_client import ApiError, wait_until
from lab.kubernetes.api_server import ApiServer
from tests.support.kubernetes import VERSIONS

pytestmark = [pytest.mark.root, pytest.mark.on_demand, pytest.mark.cross_section, pytest.mark.xdist_group("api_server")]
every_version = pytest.mark.parametrize("api_server", VERSIONS, indirect=True)

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


def config_map(name: str, **data: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


@every_version
def test_serves_this_process_with_a_certificate_that_can_be_verified(
    api_server: ApiServer, request: pytest.FixtureRequest
) -> None:
    """Plain Python reaches it: no namespace is to be entered."""
    where = urllib.parse.urlsplit(api_server.url)
    context = ssl.create_default_context(cafile=str(api_server.ca))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    connection = http.client.HTTPSConnection(str(where.hostname), where.port, timeout=5, context=context)
    connection.request("GET", "/version", headers={"Authorization": f"Bearer {api_server.token}"})
    answer = json.load(connection.getresponse())
    assert answer["gitVersion"] == f"v{request.node.callspec.params['api_server']}"


@every_version
def test_kubectl_applies_with_strict_validation(api_server: ApiServer) -> None:
    """What it does not know is refused, which shows that it does validate."""
    good = config_map("strict", key="value")
    assert (
        api_server.kubectl("apply", "--validate=strict", "-f", "-", input=json.dumps(good))
        == "configmap/strict created\n"
    )
    with pytest.raises(CommandFailed, match='unknown field "dat"'):
        api_server.kubectl("apply", "--validate=strict", "-f", "-", input=json.dumps(good | {"dat": {}}))


@every_version
def test_data_survive_a_kill(api_server: ApiServer) -> None:
    """As those of etcd on its own do."""
    api_server.client.request("POST", CONFIG_MAPS, config_map("kept"))
    api_server.kill()
    assert not api_server.client.ready()
    api_server.start()
    assert api_server.client.get(f"{CONFIG_MAPS}/kept")["metadata"]["name"] == "kept"


@every_version
def test_restore_goes_back_in_time(api_server: ApiServer) -> None:
    """Resource versions that clients have seen are then in the future."""
    api_server.client.request("POST", CONFIG_MAPS, config_map("before"))
    api_server.save()
    # Enough of them, for the server itself writes a little when it starts.
    for number in range(50):
        api_server.client.request("POST", CONFIG_MAPS, config_map(f"after-{number}"))
    later = api_server.client.request("POST", CONFIG_MAPS, config_map("after"))["metadata"]["resourceVersion"]
    api_server.restore()
    there = api_server.client.get(CONFIG_MAPS)
    names = {item["metadata"]["name"] for item in there["items"]}
    assert "before" in names
    assert "after" not in names
    assert int(there["metadata"]["resourceVersion"]) < int(later)


def test_users_have_no_rights_but_those_given(make_api_server: Callable[..., ApiServer]) -> None:
    server = make_api_server(users=["somebody"])
    token = server.credentials.tokens["somebody"]
    with pytest.raises(ApiError, match=r"403.*somebody"):
        server.client.request("GET", CONFIG_MAPS, token=token)
    server.kubectl("create", "clusterrole", "reader", "--verb=list", "--resource=configmaps")
    server.kubectl("create", "clusterrolebinding", "somebody", "--clusterrole=reader", "--user=somebody")

    def allowed() -> bool:
        with suppress(ApiError):
            return bool(server.client.request("GET", CONFIG_MAPS, token=token)["kind"] == "ConfigMapList")
        return False

    # The server's authorizer learns of it by a watch.
    wait_until("the right is given", allowed, 10)


def test_serves_in_the_network_of_a_lab(
    make_lab: Callable[..., Lab], make_api_server: Callable[..., ApiServer]
) -> None:
    """There agents in namespaces reach it, and this machine's own network does not."""
    lab = make_lab(nodes=1)
    address = str(lab.gateway.addresses[4])
    server = make_api_server(network=lab.gateway.netns_path, address=address)
    # It serves from the beginning; that it is ready, with the roles of RBAC, takes a second more.
    wait_until("it is ready", server.client.ready, 20.0)
    lab.nodes[0].run(["curl", "-sS", "--fail", "--cacert", str(server.ca), f"{server.url}/livez"])
