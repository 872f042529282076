"""Further variables of what `manifests` writes (--set), and the Secret of a parent proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from egress_router.cli.main import guarded, run


class Manifests:
    """Runs `manifests` with options."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capture = capture

    def __call__(self, component: str, *options: str, sources: int = 1) -> tuple[int, list[dict[str, Any]], str]:
        lists = {"redirect": "80 tcp 203.0.113.25\n", "dns-proxy": "80 a.example.com\n", "tls-proxy": "a.example.com\n"}
        path = self.folder / "list"
        path.write_text(lists.get(component, "*\n"))
        words = ["--name", "x", "--gateway", "192.0.2.1", "--destinations", str(path), "--platform", "kubernetes"]
        for number in range(sources):
            words += ["--source", f"192.0.2.{46 + number}"]
        self.capture.readouterr()
        status = guarded(lambda: run(["manifests", component, *words, "--parent-interface", "eth1", *options]))
        printed = self.capture.readouterr()
        items = [item for item in yaml.safe_load_all(printed.out) if item]
        return status, [item for item in items if item["kind"] == "Deployment"], printed.err


@pytest.fixture
def manifests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Manifests:
    return Manifests(tmp_path, capsys)


def spec(item: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = item["spec"]["template"]["spec"]
    return found


def env(item: dict[str, Any], kind: str) -> dict[str, str]:
    (container,) = spec(item)[kind]
    return {one["name"]: one.get("value", "") for one in container["env"]}


@pytest.mark.parametrize(
    ("component", "name", "value", "where"),
    [
        ("redirect", "EGRESS_LOG_LEVEL", "debug", {"initContainers", "containers"}),
        ("redirect", "EGRESS_DAD", "off", {"initContainers", "containers"}),
        ("redirect", "EGRESS_CHECK", "203.0.113.25:443", {"containers"}),
        ("redirect", "EGRESS_LIST_WAIT", "0", {"initContainers"}),
        ("redirect", "EGRESS_FLOW_OFFLOAD", "off", {"initContainers", "containers"}),
        ("redirect", "EGRESS_HANDOVER", "40", {"initContainers", "containers"}),
        ("http-proxy", "EGRESS_LOG_FORMAT", "text", {"initContainers", "containers"}),
        ("http-proxy", "EGRESS_NAT_BACKEND", "nftables", {"initContainers"}),
        ("http-proxy", "EGRESS_HTTP_PROXY_IDLE_TIMEOUT", "2h", {"containers"}),
        ("http-proxy", "EGRESS_HTTP_PROXY_IPV6_CLIENTS", "on", {"containers"}),
        ("dns-proxy", "EGRESS_CLUSTER_CIDRS", "198.51.100.0/24", {"initContainers"}),
        ("dns-proxy", "EGRESS_DNS_PROXY_IDLE_TIMEOUT", "2h", {"containers"}),
        ("tls-proxy", "EGRESS_DNS_PROXY_IDLE_TIMEOUT", "2h", {"containers"}),
        ("tls-proxy", "EGRESS_TLS_PROXY_PORTS", "8443", {"containers"}),
    ],
)
def test_variables_go_to_the_containers_that_read_them(
    manifests: Manifests, component: str, name: str, value: str, where: set[str]
) -> None:
    status, (item,), err = manifests(component, "--set", f"{name}={value}")
    assert (status, err) == (0, "")
    assert {kind for kind in ("initContainers", "containers") if env(item, kind).get(name) == value} == where


@pytest.mark.parametrize(
    ("component", "options", "part"),
    [
        ("redirect", ("--set", "EGRESS_SOURCE=192.0.2.47"), '"EGRESS_SOURCE" is set otherwise (--source)'),
        ("redirect", ("--set", "EGRESS_HTTP_PROXY_WORKERS=2"), "means nothing to the redirect router"),
        ("http-proxy", ("--set", "EGRESS_CHECK=203.0.113.25:443"), "means nothing to the http-proxy router"),
        ("http-proxy", ("--set", "EGRESS_LIST_WAIT=0"), "means nothing to the http-proxy router"),
        ("http-proxy", ("--set", "EGRESS_FLOW_OFFLOAD=on"), "means nothing to the http-proxy router"),
        ("redirect", ("--set", "EGRESS_FLOW_OFFLOAD=yes"), "EGRESS_FLOW_OFFLOAD"),
        ("http-proxy", ("--set", "EGRESS_HANDOVER=20"), "means nothing to the http-proxy router"),
        ("redirect", ("--set", "EGRESS_LIST_WAIT=soon"), "EGRESS_LIST_WAIT"),
        ("http-proxy", ("--set", "EGRESS_HTTP_PROXY_PARENT=http://a:b@c:1"), "--parent-secret"),
        ("http-proxy", ("--set", "EGRESS_LOGLEVEL=x"), "is no variable of ours"),
        ("http-proxy", ("--set", "EGRESS_LOG_LEVEL"), "is no variable of ours"),
        ("http-proxy", ("--set", "EGRESS_LOG_LEVEL=loud"), 'EGRESS_LOG_LEVEL: "loud" is not known'),
        ("http-proxy", ("--set", "EGRESS_HTTP_PROXY_IDLE_TIMEOUT=soon"), "EGRESS_HTTP_PROXY_IDLE_TIMEOUT"),
        ("dns-proxy", ("--parent-secret", "a"), "is for the HTTP proxy alone"),
        ("http-proxy", ("--parent-secret", "a/"), "is no Secret"),
    ],
)
def test_what_is_refused(manifests: Manifests, component: str, options: tuple[str, ...], part: str) -> None:
    status, items, err = manifests(component, *options)
    assert (status, items) == (78, [])
    assert part in err


def test_a_longer_grace_makes_kubelet_and_successor_wait(manifests: Manifests) -> None:
    status, (first, second), _ = manifests("http-proxy", "--set", "EGRESS_SHUTDOWN_GRACE=300", sources=2)
    assert status == 0
    for item in (first, second):
        hooks = [one.get("lifecycle") for one in spec(item)["containers"]]
        hold = int(hooks[0]["preStop"]["exec"]["command"][1]) if hooks[0] else 0
        delay = int(env(item, "containers")["EGRESS_SHUTDOWN_DELAY"])
        assert spec(item)["terminationGracePeriodSeconds"] > hold + delay + 300
        assert int(env(item, "initContainers")["EGRESS_DAD_WAIT"]) > spec(item)["terminationGracePeriodSeconds"]
    assert spec(second)["terminationGracePeriodSeconds"] > spec(first)["terminationGracePeriodSeconds"]
    _, (item,), _ = manifests("redirect", "--set", "EGRESS_SHUTDOWN_GRACE=300", "--set", "EGRESS_DAD_WAIT=1h")
    assert env(item, "containers")["EGRESS_DAD_WAIT"] == "1h"


@pytest.mark.parametrize("component", ["redirect", "http-proxy", "dns-proxy", "tls-proxy"])
def test_the_successor_of_one_alone_starts_beside_it(manifests: Manifests, component: str) -> None:
    _, (item,), _ = manifests(component)
    assert item["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 1}
    (main,) = spec(item)["containers"]
    assert ("lifecycle" in main) == (component != "redirect"), "a proxy cannot hear its successor"
    for kind in ("initContainers", "containers"):
        assert env(item, kind).get("EGRESS_HANDOVER") == ("30" if component == "redirect" else None)
    hold = 0 if component == "redirect" else int(main["lifecycle"]["preStop"]["exec"]["command"][1])
    grace = int(env(item, "containers").get("EGRESS_SHUTDOWN_GRACE", "30"))
    termination = spec(item)["terminationGracePeriodSeconds"]
    wait = int(env(item, "initContainers").get("EGRESS_DAD_WAIT", "50"))
    assert hold + grace < termination < wait


@pytest.mark.parametrize(
    ("component", "options", "sources"),
    [
        ("redirect", (), 2),
        ("http-proxy", (), 2),
        ("redirect", ("--set", "EGRESS_DAD=off"), 1),
        ("http-proxy", ("--set", "EGRESS_DAD=off"), 1),
        ("redirect", ("--set", "EGRESS_HANDOVER=0"), 1),
        ("redirect", ("--set", "EGRESS_SHUTDOWN_DELAY=5"), 1),
        ("http-proxy", ("--headless",), 1),
    ],
)
def test_elsewhere_the_old_one_goes_first(
    manifests: Manifests, component: str, options: tuple[str, ...], sources: int
) -> None:
    status, items, err = manifests(component, *options, sources=sources)
    assert (status, err) == (0, "")
    for item in items:
        assert item["spec"]["strategy"] == {"type": "Recreate"}
        assert env(item, "initContainers").get("EGRESS_HANDOVER", "0") == "0"


def test_a_router_may_wait_for_its_address_before_it_tells_of_its_health(manifests: Manifests) -> None:
    _, (item,), _ = manifests("redirect", "--set", "EGRESS_SHUTDOWN_GRACE=300")
    (main,) = spec(item)["containers"]
    wait = int(env(item, "containers")["EGRESS_DAD_WAIT"])
    assert main["startupProbe"]["failureThreshold"] * main["startupProbe"]["periodSeconds"] > wait > 300


@pytest.mark.parametrize(("secret", "path"), [("up", "parent"), ("up/url", "url")])
def test_the_secret_of_a_parent(manifests: Manifests, secret: str, path: str) -> None:
    status, (item,), _ = manifests("http-proxy", "--parent-secret", secret)
    assert status == 0
    assert env(item, "containers")["EGRESS_HTTP_PROXY_PARENT_FILE"] == f"/etc/egress-router-parent/{path}"
    (mount,) = [one for one in spec(item)["containers"][0]["volumeMounts"] if one["name"] == "parent"]
    assert (mount["mountPath"], mount["readOnly"]) == ("/etc/egress-router-parent", True)
    (volume,) = [one for one in spec(item)["volumes"] if one["name"] == "parent"]
    assert volume["secret"] == {"secretName": "up", "defaultMode": 0o440}
