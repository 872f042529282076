"""The leak count is 0, whatever happens, while clients and the pod's own processes never stop sending."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from lab import Host, Lab, NoReply
from lab.cni import BRIDGE
from tests.redirect.kernel.router import ALLOWED, SOURCE4, SOURCE6, Router, assert_answered_by
from tests.redirect.kernel.traffic import A_WHILE, Program, Watch, client_flows, own_flows

pytestmark = pytest.mark.root


def to(end: int) -> str:
    """Rules to the servers whose addresses end in ``end``."""
    return "".join(
        f"80 tcp {prefix}{end}\n53 udp {prefix}{end}\n2000-2010 udp {prefix}{end}\n"
        for prefix in ("203.0.113.", "2001:db8:113::")
    )


RULES, OTHER_RULES = to(25), to(26)
KINDS = (("tcp", 80), ("udp", 53), ("udp", 2005), ("tcp", 99))
PORTS = [(family, kind, port) for family in (4, 6) for kind, port in KINDS]
OWN = {4: "203.0.113.27", 6: "2001:db8:113::27"}


def serve(lab: Lab) -> None:
    for end in ("25", "26"):
        for prefix in ("203.0.113.", "2001:db8:113::"):
            lab.echo(prefix + end, tcp=[80], udp=[53])


def assert_works(router: Router, rules: str = RULES, sources: tuple[str, str] = (SOURCE4, SOURCE6)) -> None:
    end = "25" if rules == RULES else "26"
    assert_answered_by(router.tcp(80), sources[0], f"203.0.113.{end}", 80)
    assert_answered_by(router.tcp(80, 6), sources[1], f"2001:db8:113::{end}", 80)


def unordered(state: str) -> list[str]:
    """What was put back may stand in another order; a default route that the CNI added has a copy of its own."""
    return sorted(line.strip() for line in state.splitlines() if not re.search(" table 14600 .* metric 50 ", line))


def test_no_leak_whatever_happens(lab: Lab, backend: str) -> None:
    serve(lab)
    router = Router(lab, backend, rules=RULES)
    pod = router.host
    # Some pods get forwarding from their sandbox, before anything of ours runs.
    pod.sysctl("net.ipv4.ip_forward", 1)
    pod.sysctl("net.ipv6.conf.all.forwarding", 1)
    defaults = [pod.ip(f"-{family} route show default").strip().removesuffix(" pref medium") for family in (4, 6)]
    watch = Watch(lab, pod, ALLOWED)
    clients, own = Program(router.client, "sender"), Program(pod, "sender")
    clients.tell(client_flows(pod, PORTS))
    own.tell(own_flows(pod, OWN))

    router.init()
    # Before the filter stands, what the pod's own processes send leaves as it ever did; nothing is forwarded.
    assert_works(router)
    time.sleep(A_WHILE)
    first = min(packet.time for packet in watch.egress())
    early = [packet for packet in watch.by_cluster() if str(packet.dst) in OWN.values()]
    assert early, "the pod's own processes were not sending"
    assert max(packet.time for packet in early) < first
    assert [packet for packet in watch.leaks() if packet not in early] == []
    watch.clear()

    before = router.state()
    router.init()
    assert router.state() == before
    assert_works(router)
    watch.assert_none("a second run")

    for rules in (OTHER_RULES, RULES):
        router.init(EGRESS_DESTINATION=rules)
        assert_works(router, rules)
        watch.assert_none("other rules")
    assert router.state() == before

    command = [sys.executable, "-m", "egress_router", "init"]
    legacy = {**router.env, "EGRESS_ROUTER_MODE": "legacy", "EGRESS_SHUTDOWN_GRACE": "0"}
    staying = pod.popen(command, env=legacy, stderr=subprocess.PIPE, text=True)
    assert staying.stderr is not None
    while "staying" not in staying.stderr.readline():
        assert staying.poll() is None
    staying.send_signal(signal.SIGTERM)
    assert staying.wait(10) == 0
    watch.assert_none("legacy mode and its end")
    router.init()
    assert_works(router)
    assert router.state() == before
    watch.assert_none("a start after legacy mode")

    faults = {
        "the egress interface goes down and up": ["link set macvlan0 down", "link set macvlan0 up"],
        "the egress interface is down": ["link set macvlan0 down"],
        "the egress default route is deleted": [
            "route del default dev macvlan0",
            "-6 route del default dev macvlan0",
        ],
        "the egress table and all policy rules are deleted": [
            "route flush table 14601",
            "-6 route flush table 14601",
            *(f"-{family} rule del pref {number}" for number in range(14600, 14604) for family in (4, 6)),
        ],
        "the egress address is deleted": [
            f"addr del {SOURCE4}/32 dev macvlan0",
            f"addr del {SOURCE6}/128 dev macvlan0",
        ],
        "the CNI puts its default route back": [f"route replace {defaults[0]}", f"-6 route replace {defaults[1]}"],
        "the CNI builds its network anew": [
            "route flush table 14600",
            "-6 route flush table 14600",
            f"route replace {defaults[0]}",
            f"-6 route replace {defaults[1]}",
        ],
        "the CNI adds a default route": [
            f"route add {defaults[0]} metric 50",
            f"-6 route add {defaults[1]}",
        ],
    }
    for what, commands in faults.items():
        for command_line in commands:
            pod.ip(command_line)
            time.sleep(A_WHILE / 2)
        router.init()
        assert_works(router)
        watch.assert_none(f"{what}, and a run after it")
        assert unordered(router.state()) == unordered(before), what
    # The watch itself: without our rules both ways are open.
    pod.nft("flush ruleset") if backend == "nftables" else pod.run(["iptables-legacy", "-F", "OUTPUT"])
    time.sleep(A_WHILE)
    assert watch.by_cluster()
    assert watch.leaks()


#: Kill points, spread evenly over the steps of a run that is not killed; the two shapes take turns.
POINTS = 20


def anonymous(router: Router, pod: Host) -> list[str]:
    """The state of a pod with what is its own taken out: addresses, hardware addresses, indexes of the other ends."""
    state = router.state(pod)
    for family, name in ((4, "POD4"), (6, "POD6")):
        state = re.sub(rf"{re.escape(str(pod.addresses[family]))}(?![0-9a-f])", name, state)
    state = re.sub(r"([0-9a-f]{2}:){5}[0-9a-f]{2}|fe80::[0-9a-f:]+|@if\d+|link-netnsid \d+", "…", state)
    # A macvlan's state is unknown until its first change of carrier.
    return unordered(state.replace(" state UNKNOWN ", " state UP "))


def devices(node: Host) -> set[str]:
    """The names of a node's devices, without its pods' cables."""
    names = {line.split()[0] for line in node.ip("-br link").splitlines()}
    return {name for name in names if not name.startswith("veth")}


def test_killed_anywhere_and_run_again_it_is_the_same(lab: Lab, backend: str) -> None:
    """The egress interface is created by the run that is killed, so that this is covered too."""
    serve(lab)
    router = Router(lab, backend, rules=RULES, macvlan=False)
    node = lab.nodes[0]
    env = {**router.env, "EGRESS_HOST_NETNS": node.netns_path}
    links = devices(node)
    numbers = range(lab.shape == BRIDGE, POINTS, 2)
    watch = Watch(lab, router.host, ALLOWED)
    stepper, clients = Program(router.host, "stepper"), Program(router.client, "sender")

    def run(pod: Host, kill_at: int | None, group: bool = True, rules: str = RULES) -> dict[str, Any]:
        request = {
            "netns": pod.netns_path,
            "env": {**env, "EGRESS_DESTINATION": rules},
            "kill_at": kill_at,
            "group": group,
        }
        return dict(stepper.ask(request))

    def check(pod: Host) -> None:
        router.host = pod
        assert_works(router)

    whole = run(router.host, None)
    assert whole["status"] == 0, whole
    check(router.host)
    wanted = anonymous(router, router.host)
    router.host.ip("link del macvlan0")
    killed = 0
    for number in numbers:
        pod = lab.pod(f"router-{number}", node=0)
        clients.tell(client_flows(pod, PORTS))
        first = run(pod, whole["steps"] * number // POINTS + 1, group=number % 4 < 2)
        killed += first["status"] == -signal.SIGKILL
        again = run(pod, None)
        assert again["status"] == 0, (number, again)
        assert anonymous(router, pod) == wanted, f"killed at {number}/{POINTS}"
        check(pod)
        watch.assert_none(f"killed at {number}/{POINTS}")
        if number != numbers[-1]:
            pod.ip("link del macvlan0")
    assert killed > len(numbers) * 0.8, "the runs were not killed"
    last = router.host
    assert devices(node) == links, "something was left in the node's namespace"

    # A change of rules that is killed.
    whole = run(last, None, rules=OTHER_RULES)
    other = anonymous(router, last)
    for number in numbers[::3]:
        assert run(last, None)["status"] == 0
        assert anonymous(router, last) == wanted
        run(last, whole["steps"] * number // POINTS + 1, group=number % 4 < 2, rules=OTHER_RULES)
        assert run(last, None, rules=OTHER_RULES)["status"] == 0
        assert anonymous(router, last) == other
        watch.assert_none(f"a change killed at {number}")


def test_a_connection_that_began_with_another_source_ends(lab: Lab, backend: str) -> None:
    """The kernel goes on translating it to the source it began with, so its packets must be dropped."""
    serve(lab)
    router = Router(lab, backend, rules=RULES)
    pod, source4, source6 = router.host, "192.0.2.47", "2001:db8:2::47"
    router.init()
    opened = []
    for family, af in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        for kind, port in ((socket.SOCK_STREAM, 80), (socket.SOCK_DGRAM, 53)):
            opened.append(router.client.socket(af, kind))
            opened[-1].settimeout(2)
            opened[-1].connect((str(pod.addresses[family]), port))
            opened[-1].send(b"x")
            assert opened[-1].recv(100)
    refused = router.init(check=False, EGRESS_SOURCE=f"{source4} {source6}")
    assert refused.returncode == 69
    assert f"ip address del {SOURCE4}/32 dev macvlan0" in refused.stderr
    pod.ip(f"addr del {SOURCE4}/32 dev macvlan0")
    pod.ip(f"addr del {SOURCE6}/128 dev macvlan0")
    router.init(EGRESS_SOURCE=f"{source4} {source6}")
    with lab.capture(pod) as arrived:
        watch = Watch(lab, pod, (source4, source6))
        for item in opened:
            item.send(b"more")
        assert_works(router, sources=(source4, source6))
        watch.assert_none("old connections after a change of the source")
    # Positive control: they did reach the pod.
    ports = {item.getsockname()[1] for item in opened}
    assert ports <= {packet.sport for packet in arrived.packets}
    for item in opened:
        item.close()


@pytest.mark.parametrize("family", [4, 6])
def test_nothing_of_the_other_family_leaves(lab: Lab, backend: str, family: int) -> None:
    serve(lab)
    source = {4: SOURCE4, 6: SOURCE6}[family]
    gateway = {4: "192.0.2.1", 6: "2001:db8:2::1"}[family]
    rules = "".join(line + "\n" for line in RULES.splitlines() if (":" in line) == (family == 6))
    router = Router(lab, backend, rules=rules)
    router.init(EGRESS_SOURCE=source, EGRESS_GATEWAY=gateway)
    watch = Watch(lab, router.host, [source])
    clients, own = Program(router.client, "sender"), Program(router.host, "sender")
    clients.tell(client_flows(router.host, PORTS))
    own.tell(own_flows(router.host, OWN))
    assert router.tcp(80, family).startswith(source)
    with pytest.raises(NoReply):
        router.tcp(80, 10 - family, timeout=0.5)
    watch.assert_none(f"IPv{family} alone")
