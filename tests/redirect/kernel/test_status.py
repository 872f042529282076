"""``status`` finds whatever differs from what is desired, says so in a line, and ``init`` puts it back."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from lab import Lab
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.router import SOURCE4, Router

pytestmark = pytest.mark.root

RULES = "80 tcp 203.0.113.25\n8080 tcp 203.0.113.26 80\n443 tcp 2001:db8:113::25\n"
#: what somebody does in the pod → a line of the drift
FAULTS = [
    (["ip", "rule", "del", "priority", "14602"], "- rule 14602: from all iif eth0 lookup 14601 (IPv4)"),
    (["ip", "-6", "rule", "del", "priority", "14601"], "- rule 14601: from all iif macvlan0 lookup 14600 (IPv6)"),
    (["ip", "route", "del", "unreachable", "default", "table", "14601"], "- route unreachable default table 14601"),
    (["ip", "route", "add", "default", "dev", "eth0", "metric", "5"], "+ route default dev eth0 table main metric 5"),
    (
        ["ip", "rule", "add", "priority", "14605", "lookup", "main", "protocol", "146"],
        "+ rule 14605: from all lookup 254 (IPv4)",
    ),
    (["ip", "address", "del", f"{SOURCE4}/32", "dev", "macvlan0"], f"- address {SOURCE4}/32 dev macvlan0"),
    (["ip", "link", "set", "macvlan0", "down"], "- the egress interface up"),
    (["sysctl", "-q", "-w", "net.ipv4.conf.eth0.forwarding=0"], "- sysctl net/ipv4/conf/eth0/forwarding = 1"),
]
FLUSH = {
    "nftables": (["nft", "delete", "table", "inet", "egress_router"], "table inet egress_router"),
    "iptables": (["iptables-legacy", "-t", "nat", "-F", "EGRESSR-PREROUTING"], "-A EGRESSR-PREROUTING"),
}


@pytest.mark.parametrize("shape", ["bridge"])
def test_every_kind_of_drift_is_found_and_mended(lab: Lab, backend: str) -> None:
    router = Router(lab, backend, rules=RULES)
    before = router.run("status", check=False)
    assert before.returncode == 1
    assert "- the egress interface up" in before.stdout
    router.init()
    fine = router.run("status", check=False)
    assert (fine.returncode, fine.stderr) == (0, "")
    assert fine.stdout.startswith(f"ok: leaving by macvlan0 with {SOURCE4}/32, ")
    faults = [*FAULTS, FLUSH[backend]]
    for command, _ in faults:
        router.host.run(command)
    drifted = router.run("status", check=False)
    assert drifted.returncode == 1, drifted.stderr
    assert drifted.stdout.startswith("drift: ")
    for _, line in faults:
        assert line in drifted.stdout
    router.init()
    mended = router.run("status", check=False)
    assert mended.returncode == 0, mended.stdout


@pytest.mark.parametrize("shape", ["bridge"])
def test_status_names_the_capability_it_lacks(lab: Lab, backend: str) -> None:
    router = Router(lab, backend, rules=RULES)
    router.init()
    needed = {"net_admin", "net_raw"} if backend == "iptables" else {"net_admin"}

    def status(*capabilities: str) -> tuple[int, str]:
        sets = ",".join(["-all", *(f"+{name}" for name in capabilities)])
        drop = ["setpriv", "--bounding-set", sets, "--inh-caps", sets, "--no-new-privs", "--"]
        command = [*drop, sys.executable, "-m", "egress_router", "status"]
        done = router.host.run(command, env=router.env, check=False, timeout=30)
        return done.returncode, done.stderr

    assert status(*needed) == (0, "")
    for lacking in needed:
        code, text = status(*(needed - {lacking}))
        assert code == 77
        assert f"needs {lacking.upper()}" in text


@pytest.mark.parametrize("shape", ["bridge"])
def test_status_and_explain_while_a_list_is_refused(lab: Lab, backend: str, tmp_path: Path) -> None:
    """The file is not what is in force: the router that runs is asked, and what is wrong with it is shown."""
    router = LiveRouter(lab, backend, tmp_path, RULES)
    router.start()
    router.reload("80 tpc 203.0.113.25\n")
    router.logged("reload refused")
    status = router.run("status", check=False)
    assert status.returncode == 1, status.stderr
    assert "ok: leaving by macvlan0" in status.stdout, "the kernel is as the list in force wants it"
    assert "8080 tcp 203.0.113.26 80" in status.stdout
    assert "the destinations before it are in force" in status.stdout
    assert 'line 1: "80 tpc 203.0.113.25"' in status.stdout
    explained = router.run("explain", "8080/tcp", check=False)
    assert explained.returncode == 0, explained.stderr
    assert 'line 2 "8080 tcp 203.0.113.26 80"' in explained.stdout
    assert "the one before it is in force" in explained.stderr
    router.reload(RULES)
    fine = router.run("status", check=False)
    assert (fine.returncode, fine.stderr) == (0, "")
    router.signal(signal.SIGKILL)
    router.wait()
    router.swap("80 tpc 203.0.113.25\n")
    assert router.run("status", check=False).returncode == 78, "nobody is there to ask"
