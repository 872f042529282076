"""`check -f` of ports that the list has, and Service and NetworkPolicy of the same files have not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.unit.conftest import CommandLine

GOLDEN = Path(__file__).parents[2] / "manifests" / "golden" / "manifests"
WRITTEN = sorted(path for path in GOLDEN.iterdir() if (path / "manifests.yaml").exists())


def objects(case: str) -> list[dict[str, Any]]:
    return [item for item in yaml.safe_load_all((GOLDEN / case / "manifests.yaml").read_text()) if item]


def of(items: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(item for item in items if item["kind"] == kind)


def check(cli: CommandLine, items: list[dict[str, Any]]) -> str:
    result = cli("check", "-f", cli.file("".join(json.dumps(item) + "\n" for item in items)))
    assert result.status == 0
    return result.err


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_nothing_is_said_of_what_manifests_wrote(cli: CommandLine, path: Path) -> None:
    err = check(cli, objects(path.name))
    assert "Service/" not in err
    assert "NetworkPolicy/" not in err


@pytest.mark.parametrize("name", ["redirect-pair-cluster", "http-proxy-pair-cluster"])
def test_a_pair_that_elects_between_its_pods_must_hear_itself(cli: CommandLine, name: str) -> None:
    items = objects(name)
    for rule in of(items, "NetworkPolicy")["spec"]["ingress"]:
        rule["ports"] = [port for port in rule["ports"] if port["protocol"] != "UDP"]
    err = check(cli, items)
    assert "lets nobody in to" in err
    assert "udp, by which" in err
    assert "elects with the other routers of its pair" in err


@pytest.mark.parametrize("name", ["redirect-pair-cluster", "redirect-kubernetes"])
def test_what_one_network_policy_does_not_open_another_one_may(cli: CommandLine, name: str) -> None:
    """They add up."""
    items = objects(name)
    nothing = json.loads(json.dumps(of(items, "NetworkPolicy")))
    nothing["metadata"]["name"] = "nothing"
    nothing["spec"].update(ingress=[])
    assert "lets nobody in" not in check(cli, [*items, nothing])
    alone = [item for item in items if item["kind"] != "NetworkPolicy"]
    assert "NetworkPolicy/nothing: lets nobody in" in check(cli, [*alone, nothing])


def test_a_new_line_of_the_list_needs_new_manifests(cli: CommandLine) -> None:
    items = objects("redirect-kubernetes")
    of(items, "ConfigMap")["data"]["destinations"] += "7000-7001 udp 203.0.113.25\n"
    err = check(cli, items)
    assert "Service/dual: has no port that leads to 7000-7001 udp, which the list of Deployment/dual-1 has" in err
    assert "NetworkPolicy/dual: lets nobody in to 7000-7001 udp" in err
    of(items, "Service")["spec"]["ports"] += [
        {"name": f"u{port}", "protocol": "UDP", "port": port, "targetPort": port} for port in (7000, 7001)
    ]
    of(items, "NetworkPolicy")["spec"]["ingress"][0]["ports"].append({"protocol": "UDP", "port": 7000, "endPort": 7001})
    assert check(cli, items) == ""


def test_a_line_that_goes_is_said_as_well(cli: CommandLine) -> None:
    items = objects("dns-proxy-kubernetes")
    lines = of(items, "ConfigMap")["data"]["destinations"].splitlines()
    of(items, "ConfigMap")["data"]["destinations"] = "\n".join(lines[:-1]) + "\n"
    port = next(line for line in reversed(lines) if line.strip()).split()[0]
    assert f"leads to {port} tcp, and no line of" in check(cli, items)


@pytest.mark.parametrize(
    "change",
    [
        lambda items: of(items, "Service")["spec"].update(clusterIP="None", ports=[]),
        lambda items: of(items, "Service")["spec"]["selector"].update(other="x"),
        lambda items: of(items, "Service")["spec"]["ports"][0].update(port=9999),
        lambda items: next(one for one in of(items, "Service")["spec"]["ports"] if one["port"] == 443).update(
            targetPort="tcp-443"
        ),
        lambda items: of(items, "Service")["metadata"].update(namespace="other"),
        lambda items: of(items, "NetworkPolicy")["spec"]["ingress"][0].pop("ports"),
        lambda items: of(items, "NetworkPolicy")["spec"]["ingress"].append({}),
        lambda items: of(items, "NetworkPolicy")["spec"].update(policyTypes=["Egress"], ingress=[]),
    ],
)
def test_what_lets_clients_in_all_the_same(cli: CommandLine, change: Any) -> None:
    items = objects("redirect-names")
    for item in items:
        if item["kind"] == "Deployment":
            port = {"name": "tcp-443", "containerPort": 443}
            item["spec"]["template"]["spec"]["containers"][0]["ports"].append(port)
    change(items)
    assert "has no port" not in check(cli, items)
    assert "lets nobody in" not in check(cli, items)
