"""A real API server takes what `manifests` and `migrate` write, strictly validated, and reads YAML as we do."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from egress_router.cli.main import run
from egress_router.config.kubernetes_yaml import parse_documents
from lab import CommandFailed
from lab.kubernetes.api_client import wait_until
from lab.kubernetes.api_server import ApiServer
from tests.config.unit.test_kubernetes_yaml import SCALARS
from tests.support.kubernetes import VERSIONS, custom_definition

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("api_server")]
GOLDEN = Path(__file__).parents[1] / "golden"
DEPLOY = Path(__file__).parents[3] / "deploy"
WRITTEN = sorted(
    [
        *GOLDEN.glob("manifests/*/manifests.yaml"),
        *GOLDEN.glob("migrate/*/new.yaml"),
        *DEPLOY.glob("kubernetes/*.yaml"),
        *DEPLOY.glob("openshift/*.yaml"),
        *DEPLOY.glob("kustomize/*/manifests.yaml"),
    ]
)
#: Kinds of the cluster's operators: any contents, so that the rest of a file can be applied with them.
CUSTOM = [
    ("k8s.cni.cncf.io", "v1", "NetworkAttachmentDefinition", "network-attachment-definitions", "Namespaced"),
    ("security.openshift.io", "v1", "SecurityContextConstraints", "securitycontextconstraints", "Cluster"),
    ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors", "Namespaced"),
    ("tests.example.com", "v1", "Scalar", "scalars", "Namespaced"),
]
SHORT = {"SecurityContextConstraints": ["scc"]}


@pytest.fixture(scope="module")
def cluster(api_server: ApiServer) -> ApiServer:
    items = [custom_definition(*custom, SHORT.get(custom[2], ())) for custom in CUSTOM]
    items += [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        for name in ("egress-routers", "egress", "shop", "tools")
    ]
    if "default" not in api_server.kubectl("get", "namespaces", "-o", "name"):
        items.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    api_server.kubectl("apply", "-f", "-", input=text)

    def served() -> bool:
        try:
            return "scalars" in api_server.kubectl("api-resources", "--api-group=tests.example.com", "-o", "name")
        except CommandFailed:
            return False

    wait_until("the custom resources are served", served, 30.0)
    return api_server


every_version = pytest.mark.parametrize("api_server", VERSIONS, indirect=True)


@every_version
@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_server_takes_what_is_written(cluster: ApiServer, path: Path) -> None:
    kinds = [item["kind"] for item in yaml.safe_load_all(path.read_text()) if item]
    done = cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(path))
    assert done.count("created (server dry run)") == len(kinds)


@every_version
def test_the_server_finds_mistakes(cluster: ApiServer, tmp_path: Path) -> None:
    text = WRITTEN[0].read_text()
    unknown = text.replace("terminationGracePeriodSeconds", "terminationGracePeriod")
    no_text = text.replace('value: "192.0.2.1"', "value: 08")
    for wrong in (unknown, no_text):
        path = tmp_path / "wrong.yaml"
        path.write_text(wrong)
        assert wrong != text
        with pytest.raises(CommandFailed):
            cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(path))


@every_version
def test_scalars_are_read_as_the_server_reads_them(cluster: ApiServer, tmp_path: Path) -> None:
    """The table of scalars, asked from kubectl and the API server itself."""
    asked = [text for text in SCALARS if text not in ("-", "18446744073709551615", "18446744073709551616")]
    lines = "".join(f"  k{index}: {text}\n" for index, text in enumerate(asked))
    path = tmp_path / "scalars.yaml"
    head = "apiVersion: tests.example.com/v1\nkind: Scalar\nmetadata: {name: a, namespace: egress}\nspec:\n"
    path.write_text(head + lines)
    answer = json.loads(cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", str(path)))["spec"]
    (document,) = parse_documents(path.read_text())
    for index, text in enumerate(asked):
        theirs, ours = answer.get(f"k{index}"), document.value["spec"][f"k{index}"]
        assert isinstance(theirs, bool) == isinstance(ours, bool), text
        assert isinstance(theirs, str) == isinstance(ours, str), text
        assert theirs == ours, text


def objects(text: str) -> dict[tuple[str, str], Any]:
    return {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(text) if item}


@every_version
@pytest.mark.parametrize("base", ["redirect", "http-proxy", "dns-proxy"])
def test_bases_for_kustomize_are_what_manifests_writes(cluster: ApiServer, base: str) -> None:
    folder = DEPLOY / "kustomize" / base
    assert objects(cluster.kubectl("kustomize", str(folder))) == objects((folder / "manifests.yaml").read_text())


@every_version
def test_the_overlay_for_kustomize_does_what_it_says(cluster: ApiServer) -> None:
    found = objects(cluster.kubectl("kustomize", str(DEPLOY / "kustomize" / "example")))
    spec = found["Deployment", "egress-redirect"]["spec"]["template"]["spec"]
    for container in (*spec["initContainers"], *spec["containers"]):
        values = {one["name"]: one.get("value") for one in container["env"]}
        assert (values["EGRESS_SOURCE"], values["EGRESS_GATEWAY"]) == ("198.51.100.46", "198.51.100.1")
        assert container["image"] == "registry.example.com/egress/egress-router-init:0.1.0"
    assert {item["metadata"]["namespace"] for item in found.values()} == {"shop-egress"}
    assert found["ConfigMap", "egress-redirect"]["data"]["destinations"] == "443 tcp 203.0.113.25"


def removal(instance: str, name: str) -> list[list[str]]:
    """Return the commands that the documentation has for taking one set away, those that go with what is in a file of
    deploy/: a line ends with a comment where it is for some clusters alone.
    """
    text = (DEPLOY.parent / "docs" / "install-images.md").read_text().partition("**Remove**")[2]
    lines = [line.partition("#") for line in text.splitlines() if line.startswith("kubectl ")]
    assert [comment.strip() for _, _, comment in lines] == [
        "",
        "where there is Multus",
        "with --service-monitor",
        "OpenShift",
    ]
    written = (DEPLOY / name).read_text()
    here = [True, True, "kind: ServiceMonitor" in written, "kind: SecurityContextConstraints" in written]
    return [
        line.replace("=shop", f"={instance}").replace("egress-routers-shop", f"egress-routers-{instance}").split()[1:]
        for (line, _, _), one in zip(lines, here, strict=True)
        if one
    ]


@every_version
@pytest.mark.parametrize("name", ["openshift/redirect-ovn.yaml", "kubernetes/http-proxy.yaml"])
def test_the_documented_removal_takes_one_set_and_nothing_else(cluster: ApiServer, name: str, tmp_path: Path) -> None:
    text = (DEPLOY / name).read_text()
    instance = next(item["metadata"]["name"] for item in yaml.safe_load_all(text) if item["kind"] == "Service")
    other = tmp_path / "other.yaml"
    other.write_text(
        text.replace(f'"{instance}', '"other').replace(f"-{instance}", "-other").replace(f": {instance}", ": other")
    )
    kinds = "serviceaccount,configmap,service,networkpolicy,deployment,network-attachment-definitions,scc"
    cluster.kubectl("apply", "-f", str(DEPLOY / name), "-f", str(other))

    def left(label: str) -> list[str]:
        found = cluster.kubectl("get", kinds, "-A", "-o", "name", "-l", f"app.kubernetes.io/instance={label}")
        return sorted(found.split())

    assert len(left(instance)) == len(left("other")) == len([one for one in yaml.safe_load_all(text) if one])
    before = left("other")
    for words in removal(instance, name):
        cluster.kubectl(*words)
    assert left(instance) == []
    assert left("other") == before
    for words in removal("other", name):
        cluster.kubectl(*words)


@every_version
@pytest.mark.parametrize("name", ["kubernetes/redirect.yaml", "openshift/redirect.yaml", "kubernetes/http-proxy.yaml"])
def test_a_dump_of_what_was_applied_comes_out_as_it_went_in(
    cluster: ApiServer, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With everything that the API server fills in."""
    path = DEPLOY / name
    written = path.read_text()
    instance = next(item["metadata"]["name"] for item in yaml.safe_load_all(written) if item["kind"] == "Service")
    cluster.kubectl("apply", "-f", str(path))
    kinds = "serviceaccount,configmap,service,networkpolicy,poddisruptionbudget,deployment,"
    kinds += "network-attachment-definitions,scc"
    dump = tmp_path / "dump.yaml"
    try:
        dump.write_text(
            cluster.kubectl("get", kinds, "-A", "-o", "yaml", "-l", f"app.kubernetes.io/instance={instance}")
        )
        assert "resourceVersion" in dump.read_text()
        assert run(["migrate", str(dump)]) == 0
        printed = capsys.readouterr()
        assert objects(printed.out) == objects(written)
        assert run(["check", "-f", str(dump)]) == 0
        assert capsys.readouterr().err == ""
    finally:
        for words in removal(instance, name):
            cluster.kubectl(*words)


def without_defaults(found: dict[tuple[str, str], Any]) -> dict[tuple[str, str], Any]:
    """Take away what the API server has filled in inside of parts that are kept as they are."""
    spec = found["Deployment", "shop-proxy"]["spec"]["template"]["spec"]
    for port in spec["containers"][1]["ports"]:
        assert port.pop("protocol") == "TCP"
    for volume in spec["volumes"]:
        if "secret" in volume:
            assert volume["secret"].pop("defaultMode") == 0o644
    return found


@every_version
@pytest.mark.parametrize("case", ["rich-deployment"])
def test_a_dump_of_another_router_is_migrated_as_its_manifest_is(
    cluster: ApiServer, case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the API server fills in is neither kept nor lost."""
    folder = GOLDEN / "migrate" / case
    options = shlex.split((folder / "args").read_text())
    old, dump = tmp_path / "old.yaml", tmp_path / "dump.yaml"
    # The address is of another cluster.
    old.write_text(re.sub(r"(?m)^ *clusterIPs?: .*[0-9]\]?\n", "", (folder / "old.yaml").read_text()))
    cluster.kubectl("apply", "-f", str(old))
    try:
        dump.write_text(cluster.kubectl("get", "-f", str(old), "-o", "yaml"))
        assert "resourceVersion" in dump.read_text()
        assert run(["migrate", str(dump), *options]) == 0
        found = capsys.readouterr()
        assert run(["migrate", str(old), *options]) == 0
        wanted = capsys.readouterr()
        assert without_defaults(objects(found.out)) == objects(wanted.out)
        lost = [line for line in found.err.splitlines() if line.startswith("lost")]
        assert lost == [line for line in wanted.err.splitlines() if line.startswith("lost")]
    finally:
        cluster.kubectl("delete", "-f", str(old))
