"""``-f MANIFEST``: variables of all containers, ConfigMaps resolved, and texts that are none."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.inputs import Problems, SourceText
from egress_router.errors import ConfigurationError
from egress_router.manifests.containers import ManifestPod
from egress_router.manifests.containers import manifest_pods as pods_of
from egress_router.manifests.judge import judge_pods
from egress_router.manifests.objects import read_objects
from egress_router.manifests.pod import parse_manifest_pod
from egress_router.manifests.unprocessed import no_pods
from tests.cli.unit.conftest import CommandLine
from tests.cli.unit.manifests import CONFIG_MAP, HTTP_PROXY, REDIRECT, TYPOGRAPHIC, plain, pod, values


def manifest_pods(text: str, label: str, problems: Problems | None = None) -> list[ManifestPod]:
    found = problems or Problems()
    return pods_of(read_objects([SourceText(label, text)], found), found)


MISPLACED = (
    "warning: ReplicationController/egress-router egress-demo-init: serviceAccountName in a container means nothing "
    "(it belongs to the pod)\n"
)


def test_a_manifest_for_the_upstream_image(cli: CommandLine) -> None:
    result = cli("check", "-f", cli.file(REDIRECT))
    assert (result.status, result.err) == (0, MISPLACED)
    assert result.out == (
        "ReplicationController/egress-router: mode init, leaving with 10.42.253.46/32 by 10.42.253.1, "
        "1 redirect rule; ok\n"
    )


def test_a_manifest_for_the_upstream_http_proxy(cli: CommandLine) -> None:
    result = cli("check", "-f", cli.file(HTTP_PROXY))
    assert (result.status, result.err) == (0, MISPLACED)
    assert "mode http-proxy, leaving with 10.42.253.46/32" in result.out


def test_typographic_characters(cli: CommandLine) -> None:
    path = cli.file(TYPOGRAPHIC)
    result = cli("check", "-f", path)
    assert result.status == 78
    assert f"{path} line " in result.err
    assert "is not YAML" in result.err
    first = TYPOGRAPHIC.splitlines().index("        pod.network.openshift.io/assign-macvlan: “true”") + 1
    assert f'line {first} of {path} has a typographic "“"' in result.err


BASE = values(EGRESS_SOURCE="192.0.2.46", EGRESS_GATEWAY="192.0.2.1", EGRESS_ROUTER_MODE="init")
FROM_MAP = BASE[:-1] + (", {name: EGRESS_DESTINATION, valueFrom: {configMapKeyRef: {name: egress-rules, key: rules}}}]")


def test_a_value_from_a_config_map(cli: CommandLine) -> None:
    result = cli("explain", "8080/tcp", "-f", cli.file(pod(FROM_MAP) + "---" + CONFIG_MAP))
    assert result.status == 0
    assert 'line 2 "8080 tcp 203.0.113.26 80" sends it to 203.0.113.26:80' in result.out


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/etc/egress/rules", "{name: rules, mountPath: /etc/egress}"),
        ("/etc/egress/rules", "{name: rules, mountPath: /etc/egress/}"),
        ("/rules.txt", "{name: rules, mountPath: /rules.txt, subPath: rules}"),
    ],
)
def test_a_file_of_a_mounted_config_map(cli: CommandLine, path: str, mount: str) -> None:
    env = BASE[:-1] + f", {{name: EGRESS_DESTINATION_FILE, value: {path}}}]"
    manifest = pod(env, f", volumeMounts: [{mount}]") + "---" + CONFIG_MAP
    result = cli("check", "-f", cli.file(manifest))
    assert (result.status, "is mounted by subPath" in result.err) == (0, "subPath" in mount)
    assert result.err.count("warning") == ("subPath" in mount)
    assert "3 redirect rules" in result.out


def test_a_file_that_is_not_mounted(cli: CommandLine) -> None:
    env = BASE[:-1] + ", {name: EGRESS_DESTINATION_FILE, value: /etc/egress/rules}]"
    result = cli("check", "-f", cli.file(pod(env) + "---" + CONFIG_MAP))
    assert result.status == 78
    assert "EGRESS_DESTINATION_FILE" in result.err
    assert "is in no ConfigMap of" in result.err


def test_env_from_a_config_map(cli: CommandLine) -> None:
    env = values(EGRESS_SOURCE="192.0.2.46", EGRESS_DESTINATION="203.0.113.27", EGRESS_ROUTER_MODE="init")
    manifest = pod(env, ", envFrom: [{configMapRef: {name: egress-rules}}]") + "---" + CONFIG_MAP
    result = cli("check", "-f", cli.file(manifest))
    assert (result.status, result.err) == (0, "")
    assert "by 192.0.2.1" in result.out


def test_env_wins_over_env_from(cli: CommandLine) -> None:
    env = values(EGRESS_SOURCE="192.0.2.46", EGRESS_DESTINATION="203.0.113.27", EGRESS_GATEWAY="192.0.2.254")[:-1]
    env += ", {name: EGRESS_ROUTER_MODE, value: init}]"
    manifest = pod(env, ", envFrom: [{configMapRef: {name: egress-rules}}]") + "---" + CONFIG_MAP
    assert "by 192.0.2.254" in cli("check", "-f", cli.file(manifest)).out


def test_what_comes_from_outside_is_said(cli: CommandLine) -> None:
    path = cli.file(pod(FROM_MAP))
    result = cli("check", "-f", path)
    assert result.status == 78
    where = f"EGRESS_DESTINATION: comes from outside of {path} (ConfigMap egress-rules)"
    assert f"warning: {where} and was not checked" in result.err
    assert f"{where} (put it into the same file" in result.err
    assert "is not set" not in result.err
    optional = BASE[:-1] + ", {name: EGRESS_DESTINATION, value: 203.0.113.27}"
    optional += ", {name: EGRESS_ROUTER_DEBUG, valueFrom: {secretKeyRef: {name: s, key: k}}}]"
    result = cli("check", "-f", cli.file(pod(optional)))
    assert result.status == 0
    assert "warning: EGRESS_ROUTER_DEBUG: comes from outside" in result.err


def test_env_from_outside_is_said(cli: CommandLine) -> None:
    result = cli("check", "-f", cli.file(plain().replace("image: router", "envFrom: [{configMapRef: {name: gone}}]")))
    assert result.status == 0
    assert "warning:" in result.err
    assert "the ConfigMap gone" in result.err


@pytest.mark.parametrize(("value", "kind"), [("off", "truth value"), ("46", "number"), ("1.5", "number"), ("{}", "")])
def test_values_that_kubernetes_refuses(cli: CommandLine, value: str, kind: str) -> None:
    env = BASE[:-1] + f", {{name: EGRESS_DESTINATION, value: 203.0.113.27}}, {{name: EGRESS_DAD, value: {value}}}]"
    result = cli("check", "-f", cli.file(pod(env)))
    assert result.status == 78
    assert "EGRESS_DAD" in result.err
    assert kind in result.err
    assert "quotes" in result.err


def test_other_values_in_other_containers(cli: CommandLine) -> None:
    second = "  containers:\n  - {name: again, env: [{name: EGRESS_SOURCE, value: 192.0.2.47}]}\n"
    result = cli("check", "-f", cli.file(plain() + second))
    assert result.status == 0
    assert "warning: Pod/egress-1 again EGRESS_SOURCE" in result.err
    assert "another container" in result.err


TWO = plain() + "---" + plain("192.0.2.47", name="egress-2")


def test_two_pods(cli: CommandLine) -> None:
    path = cli.file(TWO)
    assert [line.split(":")[0] for line in cli("check", "-f", path).out.splitlines()] == [
        "Pod/egress-1",
        "Pod/egress-2",
    ]
    explained = cli("explain", "80/tcp", "-f", path).out
    assert explained.startswith("# Pod/egress-1\n")
    assert "\n# Pod/egress-2\nIPv4 tcp port 80: line 1" in explained
    found = cli("explain", "80/tcp", "-f", path, "-o", "json").json
    assert [found[name][0]["source"] for name in ("Pod/egress-1", "Pod/egress-2")] == ["192.0.2.46", "192.0.2.47"]
    plans = cli("plan", "-f", path, "-o", "json").json
    assert plans["Pod/egress-2"]["sources"] == ["192.0.2.47/32"]
    result = cli("status", "-f", path)
    assert result.status == 2
    assert "Pod/egress-1, Pod/egress-2" in result.err


def test_problems_of_two_pods_come_together(cli: CommandLine) -> None:
    wrong = plain("x") + "---" + plain("y", name="egress-2")
    for words in (["check"], ["plan"], ["explain", "80"]):
        result = cli(*words, "-f", cli.file(wrong))
        assert result.status == 78
        assert "Pod/egress-1 EGRESS_SOURCE" in result.err
        assert "Pod/egress-2 EGRESS_SOURCE" in result.err


WRAPPED = """
apiVersion: v1
kind: List
items:
- kind: {kind}
  metadata: {{name: wrapped}}
  spec: {{template: {{spec: {{containers: [{{env: [{{name: EGRESS_SOURCE, value: x}}]}}]}}}}}}
"""


@pytest.mark.parametrize("kind", ["Deployment", "DeploymentConfig", "DaemonSet", "StatefulSet", "Job"])
def test_pod_templates_of_every_kind_in_a_list(kind: str) -> None:
    (found,) = manifest_pods(WRAPPED.format(kind=kind), "x")
    assert (found.name, found.env) == (f"{kind}/wrapped", {"EGRESS_SOURCE": "x"})


def test_cron_job() -> None:
    text = WRAPPED.format(kind="CronJob").replace("spec: {template", "spec: {jobTemplate: {spec: {template") + "\n"
    (found,) = manifest_pods(text.replace("]}}}\n", "]}}}}}\n"), "x")
    assert found.env == {"EGRESS_SOURCE": "x"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just text",
        "[1, 2]",
        "a: [",
        "a: 2001-99-99",
        "[\n" * 1500,
        "a: &a [*a]",
        "&a {kind: List, items: [*a]}",
        "\x00",
        "kind: Pod\nspec: []",
        "kind: Pod\nspec: {containers: {env: 1}}",
        "kind: ConfigMap\ndata: []\n",
    ],
)
def test_texts_that_are_no_manifest(cli: CommandLine, text: str) -> None:
    path = cli.file(text)
    result = cli("check", "-f", path)
    assert result.status == 78
    assert path in result.err
    assert "Traceback" not in result.err


WORDS = """
kind metadata name spec template containers initContainers env envFrom configMapRef value valueFrom configMapKeyRef key
data items volumes volumeMounts mountPath subPath configMap
"""
KEYS = st.sampled_from(WORDS.split())
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 9),
    st.sampled_from(["Pod", "List", "ConfigMap", "CronJob", "EGRESS_SOURCE", "EGRESS_DESTINATION_FILE", "/x/y", "x"]),
)
DOCUMENTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=30
)


@given(st.lists(DOCUMENTS, max_size=3))
def test_no_structure_makes_a_traceback(documents: list[object]) -> None:
    import yaml

    problems = Problems()
    objects = read_objects([SourceText("x", yaml.safe_dump_all(documents))], problems)
    pods = pods_of(objects, problems)
    judge_pods(pods, objects, problems)
    assert pods or problems.errors or str(no_pods(objects, ["x"], "check"))
    for found in pods:
        with suppress(ConfigurationError):
            parse_manifest_pod(found, Problems())
        assert all(isinstance(value, str) for value in found.env.values())
