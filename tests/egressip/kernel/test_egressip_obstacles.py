"""What other programs put in the tunnel's way: a strict reverse path filter, and chains that forward nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab import Host
from tests.egressip.kernel.egress_scene import SERVICES, TOTO, Scene, overlay

pytestmark = pytest.mark.root

TOOL = {4: "iptables", 6: "ip6tables"}
#: What follows the name of the tool: the rules are of nf_tables, which tells of changes, or of the tables before it.
KINDS = ("", "-legacy")
#: Until then an obstacle is out of the way; seconds.
SOON = 5.0
UNINSTALL = "from egress_router.egressip.node.forward_policy import remove_rules; print(remove_rules())"


def leaves(scene: Scene, version: int) -> bool:
    return scene.cluster.source_of(scene.client, SERVICES[version], timeout=0.2) == TOTO[version]


def lost(scene: Scene, version: int) -> bool:
    from lab import NoReply

    try:
        return not leaves(scene, version)
    except NoReply:
        return True


@contextmanager
def without_agents(scene: Scene, *numbers: int) -> Iterator[None]:
    """Have the agents of these nodes end, and start again."""
    nodes = [scene.lab.nodes[number] for number in numbers]
    for node in nodes:
        scene.cluster.agents[node.name].kill()
        scene.cluster.agents[node.name].wait(10)
    try:
        yield
    finally:
        scene.cluster.start(*nodes)
        scene.cluster.settle()


def test_replies_by_an_overlay_with_a_strict_filter(scene: Scene) -> None:
    """As flannel.1 and vxlan.calico have it where the distribution's default is strict."""
    cluster, (near, holder, _) = scene.cluster, scene.lab.nodes
    with overlay((scene.client, near), (scene.local, holder), 4):
        parameter = "net.ipv4.conf.overlay.rp_filter"
        with scene.leaving_with(TOTO[4]):
            with without_agents(scene, 0):
                near.sysctl(parameter, 1)
                assert lost(scene, 4), "positive control: such replies are dropped"
            cluster.until(lambda: leaves(scene, 4), SOON)
            near.sysctl(parameter, 1)
            cluster.until(lambda: leaves(scene, 4), SOON)
        assert near.sysctl(parameter) == "2"
    assert "rp_filter of overlay was strict and is loose now" in cluster.logs[near.name].read_text()


def iptables(node: Host, version: int, *rules: str, kind: str = "") -> None:
    for rule in rules:
        node.run([TOOL[version] + kind, "-w", *rule.split()])


@pytest.fixture(params=KINDS, ids=["nft", "legacy"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hardened(scene: Scene, version: int, kind: str) -> Iterator[Scene]:
    """Have the nodes of the pod and of the holder forward nothing but what goes on, and what their own pods send."""
    nodes = scene.lab.nodes[:2]
    for node in nodes:
        own = scene.client if node is nodes[0] else scene.local
        accepted = [f"-A FORWARD -s {own.addresses[version]} -o eth0 -j ACCEPT"]
        accepted += ["-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"]
        iptables(node, version, "-P FORWARD DROP", *accepted, kind=kind)
    yield scene
    for node in nodes:
        iptables(node, version, "-P FORWARD ACCEPT", "-F FORWARD", kind=kind)


@pytest.mark.parametrize("version", [4, 6])
def test_what_goes_through_the_tunnel_is_forwarded(hardened: Scene, version: int, kind: str) -> None:
    """Where the policy is to drop; what others deny stays denied, and iptables still understands its chain."""
    scene, cluster, nodes = hardened, hardened.cluster, hardened.lab.nodes
    with scene.leaving_with(TOTO[version]):
        cluster.until(lambda: leaves(scene, version), SOON)
        for node in nodes[:2]:
            listed = node.run([TOOL[version] + kind, "-S", "FORWARD"]).stdout
            assert "-i egressvx0" in listed, listed
            assert "-o egressvx0" in listed, listed
        with without_agents(scene, 0, 1):
            for node in nodes[:2]:
                for way in ("-i", "-o"):
                    handle = next(
                        rule
                        for rule in node.run([TOOL[version] + kind, "-S", "FORWARD"]).stdout.splitlines()
                        if f"{way} egressvx0" in rule
                    )
                    number = node.run([TOOL[version] + kind, "-S", "FORWARD"]).stdout.splitlines().index(handle)
                    iptables(node, version, f"-D FORWARD {number}", kind=kind)
            assert lost(scene, version), "positive control: the policy drops it"
        cluster.until(lambda: leaves(scene, version), SOON)
        iptables(
            nodes[1],
            version,
            "-F FORWARD",
            "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            kind=kind,
        )
        cluster.until(lambda: leaves(scene, version), SOON)
        removed = nodes[1].run([sys.executable, "-c", UNINSTALL]).stdout
        assert removed.count(": egress-router") == 2, "as `node uninstall` does"
        cluster.until(lambda: leaves(scene, version), SOON)
        iptables(nodes[0], version, f"-I FORWARD -s {scene.client.addresses[version]} -p udp -j DROP", kind=kind)
        cluster.until(lambda: lost(scene, version))
        assert scene.lab.tcp(scene.client, SERVICES[version], 80).split()[0] == TOTO[version]


@pytest.mark.parametrize("version", [4, 6])
def test_a_rule_that_drops_the_rest_is_named(scene: Scene, version: int, kind: str) -> None:
    cluster, node = scene.cluster, scene.lab.nodes[0]
    family = {4: "ip", 6: "ip6"}[version]
    chain = f"FORWARD of {TOOL[version]}-legacy table filter" if kind else f"{family} filter FORWARD"
    iptables(node, version, "-A FORWARD -p tcp --dport 7 -j ACCEPT", "-A FORWARD -j REJECT", kind=kind)

    def named() -> bool:
        return any(f"the chain {chain} drops what goes through" in text for text in cluster.ask(node)["problems"])

    cluster.until(named, SOON)
    iptables(node, version, "-F FORWARD", kind=kind)
    cluster.until(lambda: not named(), SOON)
    # As ufw has it.
    iptables(node, version, "-N last", "-A last -j REJECT", "-A FORWARD -j last", kind=kind)
    cluster.until(named, SOON)
    iptables(node, version, "-F FORWARD", "-F last", "-X last", kind=kind)
    cluster.until(lambda: not named(), SOON)
    cluster.until(lambda: leaves(scene, version))


@pytest.mark.parametrize("version", [4, 6])
def test_a_policy_rule_that_comes_first_is_named(scene: Scene, version: int) -> None:
    """As wg-quick adds it: without a priority, so before all others, for every mark but its own."""
    cluster, near = scene.cluster, scene.lab.nodes[0]
    rule, table = f"-{version} rule {{}} not fwmark 0xca6c table 51820", 51820
    cluster.until(lambda: leaves(scene, version))

    def named() -> bool:
        return any("it comes before our rules" in text for text in cluster.ask(near)["problems"])

    assert not named(), "positive control"
    with scene.leaving_with(TOTO[version]):
        near.ip("link add vpn type veth peer name vpn-end")
        try:
            near.ip_batch(["link set vpn up", "link set vpn-end up"])
            near.ip(f"-{version} route add default dev vpn table {table}")
            near.ip(rule.format("add"))
            cluster.until(lambda: lost(scene, version))
            assert cluster.until(named) < SOON
        finally:
            near.ip(rule.format("del"))
            near.ip("link del vpn")
        cluster.until(lambda: leaves(scene, version))
        assert cluster.until(lambda: not named()) < SOON
