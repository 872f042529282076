"""The capabilities that are needed, no more and no less, tried one by one."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import pytest

from lab import Host, Lab
from tests.redirect.kernel.router import SOURCE4, SOURCE6, Router

pytestmark = pytest.mark.root

RULES = "80 tcp 203.0.113.25\n443 tcp 2001:db8:113::25\n"
GIVEN = ("NET_ADMIN", "NET_RAW")


def init(
    router: Router, capabilities: tuple[str, ...], pod: Host | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run init as root with exactly ``capabilities``, permitted and bounding, and a read-only /proc/sys."""
    sets = ",".join(["-all", *(f"+{name.lower()}" for name in capabilities)])
    drop = ["setpriv", "--bounding-set", sets, "--inh-caps", sets, "--no-new-privs", "--"]
    script = 'mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", *drop, sys.executable, "-m", "egress_router", "init"]
    return (pod or router.host).run(command, env={**router.env, **env}, check=False, timeout=30)


def forward(pod: Host) -> None:
    """What the pod's spec.securityContext.sysctls do: IPv6 forwards with /proc/sys alone."""
    pod.sysctl("net.ipv6.conf.all.forwarding", 1)


def serve(lab: Lab) -> None:
    lab.echo("203.0.113.25", tcp=[80])
    lab.echo("2001:db8:113::25", tcp=[443])


def test_a_given_interface_needs_net_admin_and_net_raw(lab: Lab, backend: str) -> None:
    serve(lab)
    router = Router(lab, backend, rules=RULES)
    forward(router.host)
    before = router.state()
    for lacking in GIVEN:
        refused = init(router, tuple(name for name in GIVEN if name != lacking))
        assert refused.returncode == 77, refused.stderr
        assert lacking in refused.stderr
        assert f"capabilities.add: [{lacking}]" in refused.stderr
    none = init(router, ())
    assert none.returncode == 77
    assert "capabilities.add: [NET_ADMIN, NET_RAW]" in none.stderr
    assert router.state() == before
    done = init(router, GIVEN, EGRESS_DAD="on")
    assert done.returncode == 0, done.stderr
    assert router.tcp(80).startswith(SOURCE4)
    assert router.tcp(443, 6).startswith(SOURCE6)
    again = init(router, GIVEN)
    assert "nothing changed" in again.stderr


def test_creating_the_interface_needs_more(lab: Lab, backend: str) -> None:
    """SYS_ADMIN to enter the host's namespace; and where its path leads through a process, SYS_PTRACE."""
    serve(lab)
    router = Router(lab, backend, rules=RULES, macvlan=False)
    node = lab.nodes[0]
    for path, needed in (
        (node.netns_path, (*GIVEN, "SYS_ADMIN")),
        (f"/proc/{node.pid}/ns/net", (*GIVEN, "SYS_ADMIN", "SYS_PTRACE")),
    ):
        pod = lab.pod(f"router-{len(needed)}", node=0)
        forward(pod)
        for present in combinations(needed, len(needed) - 1):
            (lacking,) = set(needed) - set(present)
            refused = init(router, present, pod, EGRESS_HOST_NETNS=path)
            assert refused.returncode == 77, (present, refused.stderr)
            assert f"capabilities.add: [{lacking}" in refused.stderr
            assert "macvlan0" not in pod.ip("link")
        done = init(router, needed, pod, EGRESS_HOST_NETNS=path)
        assert done.returncode == 0, done.stderr
        router.host = pod
        assert router.tcp(80).startswith(SOURCE4)
        pod.ip("link del macvlan0")
