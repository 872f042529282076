"""``egressip`` and ``node``: what is refused before anything starts, and what is printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from egress_router.cli import egressip_controller
from egress_router.egressip.controller.process import LeaseSettings
from egress_router.egressip.controller.watched_nodes import ControllerSettings
from egress_router.egressip.node.leave import LeaveFile
from tests.cli.unit.conftest import CommandLine


def test_the_guard_names_the_networks_and_what_is_never_outside(cli: CommandLine) -> None:
    result = cli("node", "guard", env={"EGRESS_CLUSTER_NETWORKS": "198.51.100.0/24, 2001:db8:a::/48"})
    assert (result.status, result.err) == (0, "")
    assert "set cluster4 {" in result.out
    assert "elements = { 198.51.100.0/24 }" in result.out
    assert "elements = { 2001:db8:a::/48, fe80::/10, ff00::/8 }" in result.out
    assert result.out.startswith("add table inet egress_guard\ndelete table inet egress_guard\n")


def test_the_unit_loads_before_the_kubelet(cli: CommandLine) -> None:
    result = cli("node", "guard", "--unit")
    assert result.status == 0
    assert "RequiredBy=kubelet.service" in result.out
    assert "ExecStart=/usr/sbin/nft -f /etc/egress-router/guard.nft" in result.out


def test_the_unit_that_leaves_is_stopped_before_the_network_and_needs_no_agent(cli: CommandLine) -> None:
    result = cli("node", "leave", "--unit")
    assert result.status == 0
    assert "After=network.target kubelet.service" in result.out
    script = "/run/egress-router/node.leave.nft"
    assert f"ExecStop=/bin/sh -c '[ ! -e {script} ] || exec /usr/sbin/nft -f {script}'\n" in result.out


def test_the_script_that_leaves_is_the_agents(cli: CommandLine, tmp_path: Path) -> None:
    socket = tmp_path / "node.sock"
    result = cli("node", "leave", "--socket", str(socket))
    assert result.status == 75
    assert f"{tmp_path}/node.leave.nft" in result.err
    logged: list[str] = []
    LeaveFile(socket, "192.0.2.11", logged.append).keep({"192.0.2.45", "2001:db8:2::45"})
    result = cli("node", "leave", "--socket", str(socket))
    assert (result.status, logged) == (0, [])
    assert "elements = { 192.0.2.45 }" in result.out
    assert "elements = { 0x20010db8000200000000000000000045 }" in result.out
    assert "ip daddr 192.0.2.11 icmp type echo-request drop" in result.out


def test_a_script_that_cannot_be_kept_is_told_and_tried_again(tmp_path: Path) -> None:
    logged: list[str] = []
    kept = LeaveFile(tmp_path / "none" / "node.sock", "192.0.2.11", logged.append)
    kept.keep({"192.0.2.45"})
    assert "No such file or directory" in logged[0]
    (tmp_path / "none").mkdir()
    kept.keep({"192.0.2.45"})
    assert len(logged) == 1
    assert (tmp_path / "none" / "node.leave.nft").exists()


@pytest.mark.parametrize(
    ("arguments", "blamed"),
    [
        (["node", "guard"], "--cluster"),
        (["node", "--cluster", "10.128.0.0/14", "--tunnel-encryption", "wireguard"], "needs --agent-keys"),
        (["node", "--cluster", "10.128.0.0/14", "--nri", "on"], "--nri on needs --source kubernetes"),
        (["egressip", "controller", "--witness", "192.0.2.999"], "192.0.2.999"),
        (["egressip", "controller", "--health-port", "0"], "--health-port"),
        (["egressip", "controller", "--hold-down", "601"], "--hold-down"),
        (["egressip", "patch", "netnamespace", "toto", "--egress-ips", "127.0.0.1"], "127.0.0.1"),
        (["egressip", "patch", "netnamespace", "toto"], "--egress-ips, --except or both"),
        (["egressip", "patch", "netnamespace", "toto", "--except", "10.0.0.1/8"], "expected 10.0.0.0/8"),
        (["egressip", "patch", "netnamespace", "toto", "--except", "10.0.0.1"], "expected 10.0.0.1/32"),
        (["egressip", "explain", "toto", "free.fr"], "not an address of a machine"),
        (["egressip", "explain", "toto", "192.0.2.1,192.0.2.2"], "DESTINATION: one address"),
        (["egressip", "explain", "toto", "192.0.2.1", "--offline", "n1"], "no HostSubnet n1"),
    ],
)
def test_usage(cli: CommandLine, tmp_path: Path, arguments: list[str], blamed: str) -> None:
    result = cli(*arguments, env={"EGRESS_STATE_DIR": str(tmp_path)})
    assert result.status == 2
    assert blamed in result.err


def test_patch_leaves_every_other_byte(cli: CommandLine, tmp_path: Path) -> None:
    text = (
        "# ours\nkind: NetNamespace\nmetadata:\n  name: toto\n  creationTimestamp: 2018-10-01T10:00:00Z\n"
        '  annotations: {window: 22:22, mac: 021122334455, a: "1e3", b: "y"}\negressIPs:\n- 192.0.2.45  # hall 1\n'
    )
    (tmp_path / "toto.yaml").write_text(text)
    (tmp_path / "pipe.yaml").symlink_to("pipe.yaml")
    words = ["egressip", "patch", "netnamespace", "toto", "--state", str(tmp_path), "--egress-ips"]
    assert cli(*words, "192.0.2.45,192.0.2.54").status == 0
    assert (tmp_path / "toto.yaml").read_text() == text + "- 192.0.2.54\n"
    assert cli(*words, "192.0.2.45").status == 0
    assert (tmp_path / "toto.yaml").read_text() == text


def test_plan_says_what_it_passed_over(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "kind: NetNamespace\nmetadata: {name: toto}\nnetid: 7\negressIPs: [192.168.7.200/24]\n---\n"
        "kind: List\nitems:\n- {kind: EgressIP, metadata: {name: a}}\n- {kind: Egress, metadata: {name: b}}\n"
        "- {kind: Pod, metadata: {name: p, namespace: other}, spec: {nodeName: n1}, status: {podIP: 10.1.0.7}}\n"
    )
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "more").mkdir()
    result = cli("egressip", "plan", "--state", str(tmp_path))
    assert result.status == 0
    for part in (
        "warning: 1 of kind EgressIP in a.yaml",
        "warning: 1 of kind Egress in a.yaml",
        "warning: notes.txt is not read",
        "warning: more is a directory",
        "warning: namespace other has 1 pod and no NetNamespace",
    ):
        assert part in result.err
    assert '"192.168.7.200/24" is not an address that a node can hold: without /24' in result.out
    words = ["egressip", "patch", "netnamespace", "toto", "--state", str(tmp_path), "--egress-ips", "192.168.7.200/24"]
    assert "without /24" in cli(*words).err


def test_what_is_excepted_is_patched_planned_and_explained(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "kind: NetNamespace\nmetadata: {name: toto}\nnetid: 7\negressIPs: [192.0.2.45]\n---\n"
        "kind: HostSubnet\nmetadata: {name: n1}\nhostIP: 192.0.2.11\negressIPs: [192.0.2.45]\n"
    )
    state = ["--state", str(tmp_path)]
    words = ["egressip", "patch", "netnamespace", "toto", *state, "--except"]
    assert cli(*words, "10.0.0.0/8,2001:DB8::/32").status == 0
    assert "    reached directly: 10.0.0.0/8, 2001:db8::/32\n" in cli("egressip", "plan", *state).out
    explained = {
        "10.1.2.3": "directly, with the address that the container network gives: 10.0.0.0/8 is excepted",
        "203.0.113.7": "with 192.0.2.45 on n1",
        "2001:db8:7::7": "directly, with the address that the container network gives: 2001:db8::/32 is excepted",
        "2001:db9::7": "dropped: the namespace has no usable egress IP of IPv6",
    }
    for address, verdict in explained.items():
        result = cli("egressip", "explain", "toto", address, *state)
        assert (result.status, result.out.splitlines()[0]) == (0, f"namespace toto to {address}: {verdict}")
    down = cli("egressip", "explain", "toto", "203.0.113.7", *state, "--offline", "n1")
    assert down.out.endswith("has no usable egress IP of IPv4\n    192.0.2.45: node n1 is offline\n")
    assert cli(*words, "").status == 0
    assert "reached directly" not in cli("egressip", "plan", *state).out


@pytest.mark.parametrize(
    ("arguments", "interval", "lease"),
    [
        ([], 0.5, 15.0),
        (["--standby"], 0.1, 8.0),
        (["--standby", "--probe-interval", "0.3", "--lease-seconds", "20"], 0.3, 20.0),
    ],
)
def test_where_connections_wait_a_controller_is_faster(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, arguments: list[str], interval: float, lease: float
) -> None:
    """But never slower or faster than somebody says."""
    seen: list[float] = []

    def run(settings: ControllerSettings, api: object, election: LeaseSettings, *_: object, **__: object) -> int:
        seen.extend((settings.probe_interval, election.seconds))
        return 0

    monkeypatch.setattr(egressip_controller, "run_on_kubernetes", run)
    monkeypatch.setattr(egressip_controller, "load_configuration", lambda *_: None)
    assert cli("egressip", "controller", "--source", "kubernetes", *arguments).status == 0
    assert seen == [interval, lease]
