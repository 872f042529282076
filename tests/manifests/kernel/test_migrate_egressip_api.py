"""A real API server takes what `migrate egressip` writes, strictly validated, and our controller's source reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.kubernetes.client import Client
from egress_router.kubernetes.configuration import from_kubeconfig
from lab import CommandFailed
from lab.kubernetes.api_server import ApiServer
from tests.support.kubernetes import VERSIONS
from tests.support.threads import threads

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(180),
    pytest.mark.xdist_group("api_server"),
    pytest.mark.parametrize("api_server", VERSIONS, indirect=True),
]

CRDS = Path(__file__).parents[3] / "deploy" / "egress-ips" / "base" / "crds"
GOLDEN = Path(__file__).parents[1] / "golden" / "migrate_egressip"
WRITTEN = sorted(path for path in GOLDEN.glob("*/new.yaml") if not (path.parent / "args").exists())


@pytest.fixture(scope="module")
def server(api_server: ApiServer) -> ApiServer:
    for file in sorted(CRDS.glob("*.yaml")):
        api_server.kubectl("apply", "-f", str(file))
    api_server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
    return api_server


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.parent.name)
def test_the_server_takes_it_and_the_source_reads_it(server: ApiServer, path: Path) -> None:
    items = list(yaml.safe_load_all(path.read_text()))
    done = server.kubectl("apply", "--validate=strict", "-f", str(path))
    assert done.count(" created") == len(items)
    try:
        source = KubernetesSource(Client(from_kubeconfig(server.kubeconfig, {})), threads().start, None)
        try:
            _, problems = source.read()
            assert problems == ()
            objects = source.objects
        finally:
            source.close()
        given = {entry.egress_ip: entry.node for entry in objects.assignments.values()}
        assert given == {
            item["spec"]["egressIP"]: item["spec"]["node"] for item in items if item["kind"] == "EgressIPAssignment"
        }
        assert {value.name for value in objects.egress_ips.values()} == {
            item["metadata"]["name"] for item in items if item["kind"] == "EgressIP"
        }
        # Before any agent runs: the controller waits for those of nodes that are there.
        assert source.unheard() == set()
    finally:
        server.kubectl("delete", "-f", str(path), "--wait=false")


def test_the_server_finds_mistakes(server: ApiServer, tmp_path: Path) -> None:
    text = WRITTEN[0].read_text()
    for right, wrong in (("namespaceSelector:", "namespaceSelectors:"), ("matchLabels:", "matchLabel:")):
        changed = tmp_path / "wrong.yaml"
        changed.write_text(text.replace(right, wrong))
        assert changed.read_text() != text
        with pytest.raises(CommandFailed):
            server.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(changed))


def test_the_controller_knows_whose_agents_are_missing(server: ApiServer) -> None:
    path = GOLDEN / "ovn-kubernetes" / "new.yaml"
    nodes = [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}} for name in ("worker-a", "worker-c")]
    server.kubectl("apply", "-f", str(path))
    server.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(nodes))
    source = KubernetesSource(Client(from_kubeconfig(server.kubeconfig, {})), threads().start, None)
    try:
        source.read()
        # worker-b has addresses and no Node any more; worker-c has none.
        assert source.unheard() == {"worker-a"}
        status = '{"status": {"hostIPs": ["192.0.2.11"]}}'
        server.kubectl("patch", "egressnode", "worker-a", "--subresource=status", "--type=merge", "-p", status)
        for _ in range(50):
            if source.wait(0.2):
                source.read()
            if not source.unheard():
                break
        assert source.unheard() == set()
    finally:
        source.close()
        server.kubectl("delete", "-f", str(path), "--wait=false")
