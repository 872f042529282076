"""A cluster leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lab.kubernetes import machines, network
from lab.kubernetes.children.keeper import CGROUP, hierarchies
from lab.kubernetes.cluster import Cluster
from lab.kubernetes.plan import Plan
from tests.cluster.kernel.objects import daemon_set

pytestmark = [pytest.mark.root, pytest.mark.on_demand, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(300)]

#: What the mounts of a kubelet, containerd or ours have in them.
MOUNTED = ("kubelet", "containerd", "/cni", "egress-router-lab", "/etc ", "/opt ", "/root ")
OWNER = """
import sys, time
from lab.kubernetes.cluster import Cluster
from lab.kubernetes.plan import Plan
with Cluster(Plan(nodes=1), lambda line: print(line, flush=True)) as cluster:
    print("name", cluster.name, flush=True)
    time.sleep(600)
"""


def namespaces() -> set[str]:
    """Return every namespace that a process is in."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            for kind in ("net", "mnt", "pid", "uts"):
                with suppress(OSError):
                    found.add(str((entry / "ns" / kind).readlink()))
    return found


def traces(name: str) -> list[str]:
    """Return what there is of a cluster: processes that name it, files, cgroups, mounts of this namespace."""
    found = [str(machines.STATE / name)] if (machines.STATE / name).exists() else []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):
                told = (entry / "cmdline").read_text(errors="replace") + (entry / "cgroup").read_text()
                if name in told:
                    found.append(f"process {entry.name} {(entry / 'comm').read_text().strip()}")
    found += [str(path) for root in hierarchies() if (path := root / CGROUP / name).exists()]
    return found + [line for line in Path("/proc/self/mounts").read_text().splitlines() if name in line]


def host_state() -> dict[str, str]:
    """Return what of this machine a cluster must not change."""

    def said(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    tables = Path("/proc/net/ip_tables_names")
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    sysctls = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/netfilter/nf_conntrack_max")
    return {
        "links": said("ip", "-o", "link"),
        "routes": said("ip", "route", "show", "table", "all"),
        "nft": said("nft", "-s", "list", "ruleset"),
        "legacy tables": tables.read_text() if tables.exists() else "",
        # Other labs' are none of ours: tests run side by side.
        "named namespaces": "\n".join(line for line in said("ip", "netns").splitlines() if line[:4] != "erl-"),
        "mounts": "\n".join(line for line in mounts if any(word in line for word in MOUNTED)),
        "cni": "\n".join(map(str, Path("/etc/cni").rglob("*"))),
        "kubelet": "\n".join(map(str, Path("/var/lib").glob("kubelet*"))),
        **{name: Path("/proc/sys", name).read_text() for name in sysctls if Path("/proc/sys", name).exists()},
    }


def gone(name: str, timeout: float = 20.0) -> list[str]:
    """Return what is still there of a cluster after waiting for it to go."""
    deadline = time.monotonic() + timeout
    while (left := traces(name)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


@pytest.fixture
def owner() -> Iterator[Callable[[], tuple[subprocess.Popen[str], str]]]:
    """Start processes that own a cluster; returns each with the cluster's name when it is up."""
    started: list[subprocess.Popen[str]] = []

    def start() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("name "):
                return process, line.split()[1]
        raise AssertionError(f"the owner ended with {process.wait()}")

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_nothing_is_left_and_nothing_else_was_changed(make_cluster: Callable[[Plan], Cluster]) -> None:
    before, others = host_state(), namespaces()
    cluster = make_cluster(Plan(nodes=1))
    cluster.apply([daemon_set("web", "exec sleep 2147483647")])
    cluster.kubectl("rollout", "status", "daemonset/web", "--timeout=60s")
    assert [found for found in traces(cluster.name) if "process" in found], (
        "the look-up finds something while it stands"
    )
    assert any(str(root) in found for root in hierarchies() for found in traces(cluster.name)), "cgroups too"
    ours = namespaces() - others
    assert len(ours) > 10
    assert host_state() == before
    cluster.down()
    assert traces(cluster.name) == []
    assert host_state() == before
    assert not held_by(cluster.name, ours)


def held_by(name: str, spaces: set[str]) -> set[str]:
    """Return which namespaces have a process that names a cluster."""
    found = set()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and name in (entry / "cmdline").read_text(errors="replace"):
                found |= {str((entry / "ns" / kind).readlink()) for kind in ("net", "mnt", "pid", "uts")} & spaces
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_cluster_ends_with_its_owner(
    owner: Callable[[], tuple[subprocess.Popen[str], str]], number: signal.Signals
) -> None:
    process, name = owner()
    assert traces(name)
    process.send_signal(number)
    process.wait()
    assert gone(name) == []


def test_what_a_killed_keeper_left_is_removed_by_the_next(
    owner: Callable[[], tuple[subprocess.Popen[str], str]],
) -> None:
    """The kernel ends the machines with it; files and cgroups are left, and nobody is there to remove them."""
    process, name = owner()
    process.send_signal(signal.SIGSTOP)
    keeper = machines.keeper_pid(machines.STATE / name)
    assert keeper is not None
    os.kill(keeper, signal.SIGKILL)
    process.kill()
    process.wait()
    assert str(machines.STATE / name) in traces(name)
    assert name in machines.reap()
    assert gone(name) == []


def test_without_a_network_plugin_a_node_waits_for_one(make_cluster: Callable[[Plan], Cluster]) -> None:
    """Whatever network plugins the machine below has: Podman's would be the pods', and the node Ready too soon."""
    cluster = make_cluster(Plan(nodes=1, cni="none"))
    assert cluster.node_machines[0].run(["ls", network.CNI_FOLDER]) == ""
    described = cluster.kubectl("describe", "node", "node-1")
    assert cluster.ready_nodes() == []
    assert "cni plugin not initialized" in described
    network.install_conflist(cluster.node_machines[0], "1.conflist", network.bridge_conflist(["10.128.0.0/24"]))
    cluster.wait("it is Ready with one", cluster.all_ready, 60)
