"""Whatever a text holds, YAML gives it back."""

from __future__ import annotations

from dataclasses import replace

import yaml
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config import fields
from egress_router.config.inputs import Inputs, Problems, SourceText
from egress_router.config.values import Family
from egress_router.manifests.plan import plan_manifests
from egress_router.manifests.render import block, flow, mapping, quote, render_manifests
from egress_router.manifests.request import tidy
from egress_router.manifests.values import Component, ManifestRequest, Platform
from egress_router.redirect.destinations import parse_rules

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(texts)
def test_quote(text: str) -> None:
    assert yaml.safe_load(f"key: {quote(text)}\nnext: 1\n") == {"key": text, "next": 1}


@given(texts.map(lambda text: text + "\n") | texts)
def test_block(text: str) -> None:
    assert yaml.safe_load(f"a:\n  key: {block(text, 4)}\n  next: 1\n") == {"a": {"key": text, "next": 1}}


@given(st.lists(texts))
def test_flow(words: list[str]) -> None:
    assert yaml.safe_load(f"key: {flow(words)}\n") == {"key": words}


def test_mapping() -> None:
    assert yaml.safe_load(f"a:{mapping({'b': 'yes', 'c/d': '1'}, 2)}\n") == {"a": {"b": "yes", "c/d": "1"}}


@given(texts)
def test_tidy_keeps_lines_and_words(text: str) -> None:
    def lines(value: str) -> list[tuple[int, tuple[str, ...]]]:
        return [(line.number, line.words) for line in SourceText("X", value).lines()]

    assert lines(tidy(text)) == lines(text)
    assert tidy(tidy(text)) == tidy(text)


def test_service_monitor_is_written_where_there_is_something_to_scrape() -> None:
    source = fields.interface_address("192.0.2.46")
    gateway = fields.address("192.0.2.1")
    assert not isinstance(source, str)
    assert not isinstance(gateway, str)
    sources = {Family.IPV4: source}
    text = "80 tcp 203.0.113.25\n"
    rules = parse_rules(Inputs({"EGRESS_DESTINATION": text}), sources, Problems(), required=True)
    request = ManifestRequest(
        Component.REDIRECT,
        "shop",
        Platform.OPENSHIFT,
        (sources,),
        {Family.IPV4: gateway},
        text,
        rules=rules,
        sdn="true",
    )
    plan = replace(plan_manifests(request, "1"), metrics_port=9909)
    items = {item["kind"]: item for item in yaml.safe_load_all(render_manifests(plan))}
    assert items["ServiceMonitor"]["spec"]["endpoints"][0]["port"] == "metrics"
    assert {"name": "metrics", "protocol": "TCP", "port": 9909, "targetPort": 9909} in items["Service"]["spec"]["ports"]
    assert {"protocol": "TCP", "port": 9909} in items["NetworkPolicy"]["spec"]["ingress"][0]["ports"]


def test_a_line_of_no_break_spaces_is_no_empty_line() -> None:
    text = "a\u00a0\n\u00a0\n"
    assert yaml.safe_load(f"key: {block(text, 4)}\n") == {"key": text}
