"""The alert rules of deploy/monitoring with promtool: each fires in its trouble, and is silent without."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.root

FOLDER = Path(__file__).parents[3] / "deploy/monitoring"
RULES = FOLDER / "alerts.yaml"
POD = {"job": "egress", "namespace": "egress-routers", "instance": "pod:9909"}
SERVICE = {"job": "egress", "namespace": "egress-routers"}


@dataclass(frozen=True)
class Case:
    """An alert; each series, without its prefix, with the values (a minute apart, as promtool writes them) that make it
    fire and that do not; the labels that it has beside those of ``common``, and words of its summary.
    """

    alert: str
    series: dict[str, tuple[str, str]]
    says: str
    labels: dict[str, str] = field(default_factory=dict)
    common: dict[str, str] = field(default_factory=lambda: POD)


def one(alert: str, series: str, fires: str, quiet: str, says: str, **labels: str) -> Case:
    return Case(alert, {series: (fires, quiet)}, says, labels)


GROWS, STAYS = "0+60x30", "7x30"
CASES = [
    one("EgressRouterNotReady", "ready", "0x30", "0x5 1x25", "not been ready"),
    Case(
        "EgressRouterNotReady",
        {"ready": ("0x30", "0x30"), 'pair_role{role="standby"}': ("0x30", "1x30")},
        "not been ready",
    ),
    Case("EgressRouterNoneReady", {"ready": ("0x30", "0x15 1x15")}, "No router of egress", common=SERVICE),
    Case(
        "EgressRouterNoneReady",
        {'ready{instance="a"}': ("0x30", "0x30"), 'ready{instance="b"}': ("0x30", "1x30")},
        "No router of egress",
        common=SERVICE,
    ),
    Case("EgressRouterGone", {"build_info": ("1x8", "1x30")}, "gone", common=SERVICE),
    one("EgressRouterReloadRefused", "last_reload_successful", "0x30", "1x30", "refused the changed list"),
    one("EgressRouterNameDead", 'name_addresses{name="a.b"}', "0x30", "1x30", "a.b has no address", name="a.b"),
    one(
        "EgressRouterNameStale", 'name_answer_age_seconds{name="a.b"}', "950x30", "60x30", "answer for a.b", name="a.b"
    ),
    one("EgressRouterLinkDown", "link_up", "0x30", "1x30", "no carrier"),
    one("EgressRouterGatewayDown", 'gateway_up{gateway="::1"}', "0x30", "1x30", "gateway ::1", gateway="::1"),
    one("EgressRouterCheckDown", 'check_up{to="a:1"}', "0x30", "1x30", "a:1 does not accept", to="a:1"),
    one("EgressRouterAddressConflict", "address_conflicts_total", "0x17 1x13", STAYS, "Another machine"),
    one("EgressRouterPairBothActive", "pair_both_active_adverts_total", "0x17 3x13", STAYS, "were active"),
    one("EgressRouterPairSplit", "pair_splits_total", "0x17 1x13", STAYS, "do not hear each other"),
    Case(
        "EgressRouterPairAlone",
        {"pair_standbys": ("0x30", "0x3 1x27"), 'pair_role{role="active"}': ("1x30", "1x30")},
        "Nobody stands by",
    ),
    # A standby of two has nobody else who stands by.
    Case(
        "EgressRouterPairAlone",
        {"pair_standbys": ("0x30", "0x30"), 'pair_role{role="active"}': ("1x30", "0x30")},
        "Nobody stands by",
    ),
    one("EgressRouterPairDiffers", "pair_peers_differing", "1x30", "1x8 0x22", "have different lists"),
    one("EgressRouterPairChanges", "pair_changes_total", "0+1x30", "0x10 2x20", "keeps changing its role"),
    one("EgressRouterRepairs", "repairs_total", "0+1x30", "0x10 1x20", "keeps taking away"),
    Case(
        "EgressRouterConntrackFull",
        {"conntrack_entries": ("950x30", "500x30"), "conntrack_entries_limit": ("1000x30", "1000x30")},
        "nine tenths",
    ),
    one(
        "EgressRouterPortsRunOut",
        'source_ports_used{remote="r",port="1",protocol="tcp"}',
        "60000x30",
        "400x30",
        "r port 1",
        remote="r",
        port="1",
        protocol="tcp",
    ),
    one("EgressProxyRestarts", "engine_restarts_total", "0+1x30", "0x10 1x20", "keeps dying"),
    one(
        "EgressProxyLogLost",
        'log_lines_lost_total{by="supervisor"}',
        "0x15 9x15",
        STAYS,
        "loses lines",
        by="supervisor",
    ),
    Case(
        "EgressHttpProxyErrors",
        {
            'http_request_errors_total{reason="dns"}': ("0+20x30", "0+2x30"),
            'http_request_errors_total{reason="connect"}': ("0x30", "0x30"),
            'http_requests_total{decision="allow"}': ("0+100x30", "0+100x30"),
            'http_requests_total{decision="deny"}': ("0x30", "0x30"),
        },
        "fails: dns",
        {"reason": "dns"},
    ),
    Case(
        "EgressHttpProxyNameServerSilent",
        {
            "dns_queries_total": (GROWS, GROWS),
            'dns_replies_total{code="noerror"}': ("0+10x30", "0+30x30"),
            'dns_replies_total{code="nxdomain"}': ("0+10x30", "0+29x30"),
        },
        "have no reply",
    ),
    Case(
        "EgressDnsProxyUnreached",
        {
            'destination_unreached_total{destination="80 a 80"}': ("0+20x30", "0+1x30"),
            'destination_connections_total{destination="80 a 80"}': (GROWS, GROWS),
        },
        '"80 a 80" reaches no server',
        {"destination": "80 a 80"},
    ),
    Case(
        "EgressByNameErrors",
        {
            'by_name_errors_total{reason="connect"}': ("0+20x30", "0+2x30"),
            'by_name_errors_total{reason="dns"}': ("0x30", "0x30"),
            'by_name_requests_total{decision="allow"}': ("0+100x30", "0+100x30"),
            'by_name_requests_total{decision="deny"}': ("0x30", "0x30"),
        },
        "fails: connect",
        {"reason": "connect"},
    ),
    Case(
        "EgressDnsProxyFull",
        {
            'by_name_open_connections{port="443"}': ("70x30", "50x30"),
            'by_name_open_connections{port="80"}': ("30x30", "30x30"),
            "connections_limit": ("100x30", "100x30"),
        },
        "nine tenths",
    ),
    Case(
        "EgressDnsProxyFull",
        {
            'destination_open_connections{destination="80 a 80"}': ("50x30", "5x30"),
            'destination_open_connections{destination="81 a 80"}': ("49x30", "5x30"),
            "connections_limit": ("100x30", "100x30"),
        },
        "nine tenths",
    ),
    one("EgressIPsLacking", "node_egress_ips_lacking", "1x30", "0x30", "do not have"),
    one("EgressIPHolderDown", 'node_holder_up{node="n2"}', "0x30", "1x30", "n2 holds", node="n2"),
    one(
        "EgressIPHolderLegDown",
        'node_holder_leg_up{node="n2",leg="tunnel"}',
        "0x30",
        "1x30",
        "n2",
        node="n2",
        leg="tunnel",
    ),
    one(
        "EgressIPPortsRunOut",
        'node_source_ports_used{ip="192.0.2.45",remote="203.0.113.25",port="443"}',
        "60000x30",
        "40000x30",
        "203.0.113.25",
        ip="192.0.2.45",
        remote="203.0.113.25",
        port="443",
    ),
    one("EgressIPDrops", 'node_dropped_packets_total{reason="no_way"}', GROWS, STAYS, "no_way", reason="no_way"),
    one("EgressIPAppliesFail", "node_failed_applies_total", "0x15 1x15", STAYS, "cannot put"),
    Case(
        "EgressIPStandbyLags",
        {'node_standby_connected{standby="b"}': ("0x30", "0x3 1x27")},
        "standby b does not hear",
        {"standby": "b"},
    ),
    Case(
        "EgressIPStandbyLags",
        {
            'node_standby_connected{standby="b"}': ("1x30", "1x30"),
            'node_standby_lag_seconds{standby="b"}': ("3x30", "0.1x30"),
        },
        "standby b does not hear",
        {"standby": "b"},
    ),
    one("EgressIPsWithoutStandby", "controller_egress_ips_without_standby", "2x30", "2x8 0x22", "nobody keeps"),
    Case("EgressIPNobodyAssigns", {"controller_leads": ("0x30", "1x30")}, "No controller", common=SERVICE),
    one(
        "EgressIPWritesFail", 'controller_writes_total{result="failed"}', GROWS, STAYS, "cannot write", result="failed"
    ),
]


def rules() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def series(case: Case, index: int) -> list[dict[str, str]]:
    found = []
    for text, values in case.series.items():
        name, _, own = text.partition("{")
        labels = {key: value for key, value in POD.items() if f'{key}="' not in own}
        inside = ",".join([*filter(None, [own.rstrip("}")]), *(f'{key}="{value}"' for key, value in labels.items())])
        found.append({"series": f"egress_router_{name}{{{inside}}}", "values": values[index]})
    return found


def summary(rule: dict[str, Any], labels: dict[str, str]) -> str:
    text = str(rule["annotations"]["summary"])
    for name, value in labels.items():
        text = text.replace(f"{{{{ $labels.{name} }}}}", value)
    assert "$labels" not in text, "a label that the alert does not have"
    return text


def test_rules_are_valid() -> None:
    done = subprocess.run(["promtool", "check", "rules", "--lint-fatal", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_in_its_trouble_alone(tmp_path: Path) -> None:
    known = rules()
    assert {case.alert for case in CASES} == set(known)
    tests = []
    for case in CASES:
        labels = case.common | case.labels
        text = summary(known[case.alert], labels)
        assert case.says in text
        expected = {
            "exp_labels": labels | known[case.alert]["labels"],
            "exp_annotations": {"summary": text},
        }
        for index, alerts in enumerate(([expected], [])):
            look = {"eval_time": "20m", "alertname": case.alert, "exp_alerts": alerts}
            tests.append({"interval": "1m", "input_series": series(case, index), "alert_rule_test": [look]})
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_for_the_operator_are_the_same() -> None:
    resource = yaml.safe_load((FOLDER / "alerts-prometheus-rule.yaml").read_text())
    assert (resource["kind"], resource["apiVersion"]) == ("PrometheusRule", "monitoring.coreos.com/v1")
    assert resource["spec"] == yaml.safe_load(RULES.read_text())


def test_the_queries_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    """As rules, which promtool parses; Grafana's variables stand in quotes and need no value."""
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    queries = [item["expr"] for panel in panels for item in panel.get("targets", ())]
    assert len(queries) > 40
    file = tmp_path / "queries.yaml"
    written = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": written}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(queries)} rules found" in done.stdout
