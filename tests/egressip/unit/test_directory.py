"""The state directory: read, watched, patched; and the verbs on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from egress_router.cli.main import guarded, run
from egress_router.egressip.source.directory import DirectorySource
from egress_router.errors import ConfigurationError

STATE = """# by hand
kind: NetNamespace
metadata: {name: toto}
netid: 12
---
kind: HostSubnet
metadata: {name: compute2}
hostIP: 192.0.2.12
---
kind: HostSubnet
metadata: {name: compute3}
hostIP: 192.0.2.13
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "all.yaml").write_text(STATE)
    return tmp_path


def call(*args: object) -> int:
    return guarded(lambda: run([str(arg) for arg in args]))


def test_the_scene_of_the_readme(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    patch = ("egressip", "patch")
    at = ("--state", state)
    assert call(*patch, "netnamespace", "toto", *at, "--egress-ips", "192.0.2.45, 192.0.2.54") == 0
    assert call(*patch, "hostsubnet", "compute3", *at, "--egress-ips", "192.0.2.45") == 0
    assert call(*patch, "hostsubnet", "compute2", *at, "--egress-ips", "192.0.2.54") == 0
    capsys.readouterr()
    assert call("egressip", "plan", *at, "--offline", "compute3", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "namespaces": {
            "toto": {
                "netid": 12,
                "disposition": "egress",
                "via": [{"ip": "192.0.2.54", "node": "compute2"}],
                "reasons": ["192.0.2.45: node compute3 is offline"],
            }
        },
        "nodes": {
            "compute2": {"claims": ["192.0.2.54"], "problems": []},
            "compute3": {"claims": ["192.0.2.45"], "problems": []},
        },
        "assignment": {},
    }
    assert call("egressip", "plan", *at) == 0
    assert capsys.readouterr().out.splitlines() == [
        "namespace toto: leaves with 192.0.2.45 on compute3, 192.0.2.54 on compute2",
        "node compute2: holds 192.0.2.54",
        "node compute3: holds 192.0.2.45",
    ]
    assert [path.name for path in state.iterdir()] == ["all.yaml"]


def test_patch_refuses_what_it_cannot_do(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (state / "all.yaml").read_text()
    at = ("--state", state)
    assert call("egressip", "patch", "netnamespace", "nobody", *at, "--egress-ips", "192.0.2.45") == 2
    assert call("egressip", "patch", "netnamespace", "toto", *at, "--egress-ips", "192.0.2.450") == 2
    assert call("egressip", "patch", "hostsubnet", "compute2", *at, "--egress-cidrs", "192.0.2.0") == 2
    assert call("egressip", "patch", "hostsubnet", "compute2", *at) == 2
    assert call("egressip", "plan", *at, "--offline", "typo") == 2
    assert call("egressip", "plan", "--state", state / "missing") == 78
    assert (state / "all.yaml").read_text() == before
    assert "192.0.2.450" in capsys.readouterr().err


def test_the_assignment_is_written_down_and_kept(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ("--state", state)
    for node in ("compute2", "compute3"):
        assert call("egressip", "patch", "hostsubnet", node, *at, "--egress-cidrs", "192.0.2.0/24") == 0
    assert call("egressip", "patch", "netnamespace", "toto", *at, "--egress-ips", "192.0.2.45,192.0.2.54") == 0
    assert call("egressip", "assign", *at, "--offline", "compute2") == 0
    capsys.readouterr()
    assert call("egressip", "assign", *at) == 0
    assert capsys.readouterr().out.splitlines() == ["compute2: 192.0.2.54", "compute3: 192.0.2.45"]
    written = (state / "egressip-assignment.json").stat()
    assert call("egressip", "assign", *at) == 0
    assert (state / "egressip-assignment.json").stat().st_mtime_ns == written.st_mtime_ns
    capsys.readouterr()
    assert call("egressip", "plan", *at, "--offline", "compute3") == 0
    assert "namespace toto: leaves with" in capsys.readouterr().out


def test_patch_keeps_json_json(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    path.write_text('{"kind": "HostSubnet", "metadata": {"name": "n"}, "hostIP": "192.0.2.1", "x": 1}')
    assert call("egressip", "patch", "hostsubnet", "n", "--state", tmp_path, "--egress-cidrs", "192.0.2.0/24") == 0
    assert json.loads(path.read_text())["egressCIDRs"] == ["192.0.2.0/24"]
    assert json.loads(path.read_text())["x"] == 1


def test_watching(state: Path) -> None:
    source = DirectorySource(state)
    try:
        assert set(source.read()[0].nodes) == {"compute2", "compute3"}
        assert not source.wait(0)
        (state / "more.yaml").write_text("{kind: HostSubnet, metadata: {name: n4}, hostIP: 192.0.2.14}")
        assert source.wait(5)
        assert set(source.read()[0].nodes) == {"compute2", "compute3", "n4"}
        (state / "more.yaml").unlink()
        assert source.wait(5)
        assert "n4" not in source.read()[0].nodes
    finally:
        source.close()


def test_a_broken_file_keeps_what_it_said(state: Path) -> None:
    source = DirectorySource(state)
    try:
        before, problems = source.read()
        assert problems == ()
        (state / "all.yaml").write_text(STATE[:40])
        after, problems = source.read()
        assert after == before
        assert problems
        (state / "all.yaml").write_text(STATE)
        assert source.read() == (before, ())
    finally:
        source.close()


def test_a_file_that_was_never_good_stops_the_start(state: Path) -> None:
    (state / "bad.yaml").write_text("kind: [")
    source = DirectorySource(state)
    try:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=r"bad\.yaml"):
                source.read()
        (state / "bad.yaml").unlink()
        assert source.read()[1] == ()
    finally:
        source.close()


def test_lists_of_one_kind_may_leave_it_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `oc get --raw` prints."""
    text = "kind: NetNamespaceList\nitems:\n- metadata: {name: toto}\n  netid: 1\n  egressIPs: [192.0.2.45]\n"
    (tmp_path / "all.yaml").write_text(text)
    assert run(["egressip", "plan", "--state", str(tmp_path)]) == 0
    assert "toto" in capsys.readouterr().out
    assert (
        run(["egressip", "patch", "netnamespace", "toto", "--egress-ips", "192.0.2.54", "--state", str(tmp_path)]) == 0
    )
    assert (tmp_path / "all.yaml").read_text() == text.replace(".45", ".54")
