"""Costs grow with the input, not faster: twice the lines may take at most GROWTH times the steps.

Steps are lines of Python that run, counted; time would tell about the machine. What a step costs in C (a slice, a
sort) is not seen here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from egress_router.config.inputs import Inputs, Problems, SourceText, load_inputs, parse_env_file
from egress_router.config.kubernetes_yaml import parse_documents
from egress_router.dns.resolv_conf import parse_hosts, parse_resolv_conf
from egress_router.dns_proxy.destinations import parse_dns_proxy
from egress_router.egressip.api import networks_of, pod_ranges
from egress_router.egressip.node.cluster_networks import cluster_networks
from egress_router.egressip.source.objects import parse_cluster_state
from egress_router.http_proxy.targets import parse_target
from egress_router.manifests.plan import plan_manifests
from egress_router.manifests.render import join_manifests, render_manifests
from egress_router.manifests.upstream.legacy import MigrateOptions, parse_legacy
from egress_router.manifests.values import Component, ManifestRequest, Platform
from egress_router.policy.compile import compile_policy
from egress_router.policy.parse import parse_policy
from egress_router.policy.shadowed import shadow_warnings
from egress_router.redirect.config import parse_router
from egress_router.redirect.desired import desired_sample
from egress_router.redirect.nft_rules import nft_table

GROWTH = 2.3
SMALL = 300
ROUTER = {
    "EGRESS_SOURCE": "192.0.2.46 2001:db8:2::46",
    "EGRESS_GATEWAY": "192.0.2.1 2001:db8:2::1",
    "EGRESS_ROUTER_MODE": "init",
}

POLICIES: dict[str, Callable[[int], str]] = {
    "nested networks": lambda n: f"10.{n % 256}.0.0/{9 + n % 15}".replace(f".{n % 256}.", ".0." if n % 3 else ".128."),
    "networks in networks": lambda n: f"{'!' if n % 3 else ''}10.{n % 4}.{n % 256}.0/24",
    "single addresses": lambda n: f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",
    "IPv6 networks": lambda n: f"2001:{n >> 8 & 255:x}00:{n & 255:x}00::/40",
    "names": lambda n: f"host{n}.example.com",
    "one name, many ports": lambda n: f"host.example.com:{1 + n * 7919 % 65000}",
    "one name again and again": lambda _: "host.example.com",
    "wildcards under each other": lambda n: ("!*.a" if n % 2 else "*.b") + f"{n // 2}.example.com",
    "names and networks by turns": lambda n: f"10.0.{n & 255}.0/24" if n % 2 else f"!host{n}.example.com",
    "what is wrong": lambda n: f"no name {n}",
    "sections": lambda n: f"team{n}.example.com" if n % 3 else f"[from 10.{n >> 8}.{n & 255}.0/24]",
    "lines for all before sections": lambda n: (
        f"!10.0.{n & 255}.{n >> 8}" if n % 10 else f"[from any]\n[from 10.{n % 20}.0.0/16]"
    ),
}
REDIRECTS: dict[str, Callable[[int], str]] = {
    "ports": lambda n: f"{n} tcp 203.0.113.25 80",
    "ports and protocols": lambda n: f"{n} {'udp' if n % 2 else 'tcp'} 203.0.113.{1 + n % 200}",
    "the same port": lambda _: "80 tcp 203.0.113.25",
    "overlapping ranges": lambda n: f"{n}-{n + 20} tcp 203.0.113.25",
    "what is wrong": lambda n: f"{n} icmp x",
}


def text(line: Callable[[int], str], lines: int) -> str:
    return "\n".join(line(number) for number in range(1, lines + 1))


def steps(action: Callable[[], Any]) -> int:
    """Return how many lines of the package run."""
    count = 0

    def local(_frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal count
        count += event == "line"
        return local

    def trace(frame: FrameType, _event: str, _arg: object) -> Any:
        return local if "egress_router" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


def grows(action: Callable[[str], Any], line: Callable[[int], str]) -> float:
    """Return how many times the steps of SMALL lines twice as many take. The first run fills caches."""
    action(text(line, 2 * SMALL))
    return steps(lambda: action(text(line, 2 * SMALL))) / steps(lambda: action(text(line, SMALL)))


def http(policy: str) -> None:
    parsed = parse_policy(Inputs({"EGRESS_HTTP_PROXY_DESTINATION": policy}), Problems(), required=True)
    if parsed is not None:
        compile_policy(parsed)
        shadow_warnings(parsed)


def redirect(rules: str) -> None:
    config = parse_router(Inputs({**ROUTER, "EGRESS_DESTINATION": rules}), problems := Problems())
    if config is not None and not problems.errors:
        nft_table(desired_sample(config).translation)


def migrate(manifests: str) -> None:
    options = MigrateOptions(ManifestRequest(component=Component.REDIRECT, name="", platform=Platform.OPENSHIFT))
    sets, _ = parse_legacy([SourceText("old.yaml", manifests)], options, problems := Problems())
    assert not problems.errors
    assert sets
    join_manifests([render_manifests(plan_manifests(one.request, "1")) for one in sets])


def pod(number: int) -> str:
    return (
        f"---\nkind: Pod\nmetadata: {{name: r{number}, labels: {{app: r{number}}}, "
        'annotations: {pod.network.openshift.io/assign-macvlan: "true"}}\n'
        "spec:\n  containers:\n  - name: r\n    image: openshift/origin-egress-router\n"
        "    securityContext: {privileged: true}\n    env:\n"
        f"    - {{name: EGRESS_SOURCE, value: 10.0.{number >> 8}.{number & 255}}}\n"
        "    - {name: EGRESS_GATEWAY, value: 10.0.255.254}\n    - {name: EGRESS_DESTINATION, value: 203.0.113.25}"
    )


@pytest.mark.parametrize("kind", POLICIES)
def test_http_policies(kind: str) -> None:
    assert grows(http, POLICIES[kind]) <= GROWTH


@pytest.mark.parametrize("kind", REDIRECTS)
def test_redirect_lines(kind: str) -> None:
    assert grows(redirect, REDIRECTS[kind]) <= GROWTH


@pytest.mark.parametrize("kind", ["names", "addresses", "the same port", "what is wrong"])
def test_dns_proxy_lists(kind: str) -> None:
    line = {
        "names": lambda n: f"{1024 + n} host{n}.example.com",
        "addresses": lambda n: f"{1024 + n} 203.0.113.{1 + n % 200} 80",
        "the same port": lambda n: f"80 host{n}.example.com",
        "what is wrong": lambda n: f"{n} tcp tcp",
    }[kind]

    def parse(destinations: str) -> None:
        variables = {"EGRESS_SOURCE": "192.0.2.46", "EGRESS_DNS_PROXY_DESTINATION": destinations}
        parse_dns_proxy(Inputs(variables), Problems(), required=True)

    assert grows(parse, line) <= GROWTH


OTHERS: dict[str, tuple[Callable[[str], Any], Callable[[int], str]]] = {
    "YAML documents": (parse_documents, lambda n: f"---\nkind: Pod\nmetadata: {{name: p{n}}}"),
    "YAML aliases": (parse_documents, lambda n: f"a{n}: &a{n} x\nb{n}: *a{n}"),
    "YAML mappings": (parse_documents, lambda n: f"a{n}:\n  b: [1, 2, {n}]"),
    "a state file": (
        lambda text: parse_cluster_state({"f.yaml": text}, Problems()),
        lambda n: f"---\n{{kind: NetNamespace, metadata: {{name: n{n}}}, netid: {n}, egressIPs: [192.0.2.{n % 256}]}}",
    ),
    "a state file of what is wrong": (
        lambda text: parse_cluster_state({"f.yaml": text}, Problems()),
        lambda n: f"---\n{{kind: HostSubnet, metadata: {{name: {n}}}, hostIP: [{n}]}}",
    ),
    "one name again and again in a state file": (
        lambda text: parse_cluster_state({"f.yaml": text}, Problems()),
        lambda _: "---\n{kind: HostSubnet, metadata: {name: a}, hostIP: 192.0.2.1}",
    ),
    "an env file": (lambda text: load_inputs(parse_env_file(text, "f")), lambda n: f"EGRESS_A{n}=x"),
    "links of Services": (
        lambda text: load_inputs(parse_env_file(text, "f")),
        lambda n: f"EGRESS_S{n}_SERVICE_HOST=10.0.0.1\nEGRESS_S{n}_PORT=tcp://10.0.0.1:80\nEGRESS_S{n}_PORT_80_TCP=x",
    ),
    "resolv.conf": (parse_resolv_conf, lambda n: f"search a{n}.example\noptions ndots:{n % 9}\nnameserver 10.0.0.1"),
    "hosts": (parse_hosts, lambda n: f"10.0.{n % 256}.1 host{n} alias{n}"),
    "cluster networks": (
        lambda text: cluster_networks(text.split(), "--cluster", Problems()),
        lambda n: f"10.{n % 256}.{n // 256}.0/24",
    ),
    "pod subnets": (
        lambda text: networks_of(pod_ranges(text.replace("\n", ","))),
        lambda n: f"10.{n % 256}.{n // 256}.0/{20 + n % 5}",
    ),
    "bare pods": (migrate, lambda n: "" if n % 10 else pod(n)),
    "a URL": (lambda text: parse_target(f"http://{text}/"), lambda n: "a." * 5 + str(n)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_text(kind: str) -> None:
    assert grows(*OTHERS[kind]) <= GROWTH


def test_the_count_can_fail() -> None:
    """The control: work that is done again for each line is found."""

    def again(policy: str) -> None:
        for line in policy.splitlines()[:: SMALL // 6]:
            http(policy + line)

    assert grows(again, POLICIES["names"]) > GROWTH
