"""The egress interface: created on the host's NIC, adopted, or an error that says what was seen and what lacked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from lab import Host, Lab
from tests.redirect.kernel.router import SOURCE4, SOURCE6, Router, assert_no_leak

pytestmark = pytest.mark.root

RULES = "80 tcp 203.0.113.25\n443 tcp 2001:db8:113::25\n"


@pytest.fixture
def router(lab: Lab) -> Router:
    """A router pod without an egress interface."""
    lab.echo("203.0.113.25", tcp=[80])
    lab.echo("2001:db8:113::25", tcp=[443])
    return Router(lab, "nftables", rules=RULES, macvlan=False)


def assert_works(router: Router) -> None:
    assert router.tcp(80).startswith(SOURCE4)
    assert router.tcp(443, 6).startswith(SOURCE6)


def refused(router: Router, code: int = 69, **env: str | None) -> str:
    """Run init, which must fail and change nothing."""
    before = router.state()
    done = router.init(check=False, **env)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert router.state() == before
    return done.stderr


def links(host: Host) -> list[tuple[str, ...]]:
    """Without their states: a bridge's is new a while after that of its ports."""
    return [tuple(str(one[key]) for key in ("ifname", "address", "mtu")) for one in json.loads(host.ip("-j link"))]


@pytest.mark.parametrize(("mode", "parent"), [("private", None), ("vepa", "eth0"), ("bridge", None)])
def test_created_on_the_hosts_nic(router: Router, parent: str | None, mode: str) -> None:
    lab, pod, node = router.lab, router.host, router.lab.nodes[0]
    node.ip("link set eth0 mtu 1420")
    seen = links(node)
    with lab.capture() as capture:
        done = router.init(EGRESS_HOST_NETNS=node.netns_path, EGRESS_PARENT_INTERFACE=parent, EGRESS_MACVLAN_MODE=mode)
        assert_works(router)
    assert_no_leak(capture)
    assert f"created macvlan0 on eth0 of {node.netns_path}" in done.stderr
    link = pod.ip("-d link show macvlan0")
    assert f"macvlan mode {mode}" in link
    assert " mtu 1420 " in link
    assert capture.owner_mac(SOURCE4) == capture.owner_mac(SOURCE6) == pod.mac("macvlan0")
    assert links(node) == seen
    # The run after it adopts what the first one made.
    again = router.init(EGRESS_HOST_NETNS=node.netns_path)
    assert "nothing changed" in again.stderr


def test_passthru_takes_the_whole_nic(router: Router) -> None:
    node = router.lab.nodes[0]
    node.ip("link add spare type veth peer name other")
    router.init(
        EGRESS_HOST_NETNS=node.netns_path, EGRESS_PARENT_INTERFACE="spare", EGRESS_MACVLAN_MODE="passthru", check=False
    )
    assert "macvlan mode passthru" in router.host.ip("-d link show macvlan0")
    other = router.lab.pod("other-router", node=0)
    env = {**router.env, "EGRESS_HOST_NETNS": node.netns_path, "EGRESS_PARENT_INTERFACE": "spare"}
    second = other.run([sys.executable, "-m", "egress_router", "init"], env=env, check=False)
    assert second.returncode == 69
    assert "spare cannot carry it (it is no Ethernet NIC, or a macvlan in passthru mode has it)" in second.stderr


def test_what_creating_can_lack(router: Router) -> None:
    node, pod = router.lab.nodes[0], router.host
    own = refused(router, EGRESS_HOST_NETNS=pod.netns_path)
    assert "there is no macvlan0 and no macvlan link (links seen: lo (device, up), eth0 (veth, up))" in own
    assert "is the pod's own namespace" in own
    gone = refused(router, EGRESS_HOST_NETNS="/run/netns/there-is-none")
    assert "/run/netns/there-is-none cannot be opened: No such file or directory" in gone
    file = refused(router, EGRESS_HOST_NETNS="/etc/hostname")
    assert "/etc/hostname" in file
    missing = refused(router, EGRESS_HOST_NETNS=node.netns_path, EGRESS_PARENT_INTERFACE="ens5")
    assert "EGRESS_PARENT_INTERFACE=ens5" in missing
    assert "it has lo, eth0" in missing

    node.ip("link add br0 type bridge")
    node.ip("link add spare type veth peer name other")
    node.ip("link set spare master br0")
    busy = refused(router, EGRESS_HOST_NETNS=node.netns_path, EGRESS_PARENT_INTERFACE="spare")
    assert "spare is taken by another owner" in busy
    assert "EBUSY" in busy
    loopback = refused(router, EGRESS_HOST_NETNS=node.netns_path, EGRESS_PARENT_INTERFACE="lo")
    assert "lo cannot carry it" in loopback

    for family in (4, 6):
        node.ip(f"-{family} route del default")
    lost = refused(router, EGRESS_HOST_NETNS=node.netns_path)
    assert "has no default route to take the NIC from; set EGRESS_PARENT_INTERFACE" in lost
    assert "macvlan0" not in pod.ip("link")


@pytest.mark.parametrize(
    ("names", "chosen", "wanted"),
    [
        (["macvlan0"], "macvlan0", None),
        (["egress1"], "egress1", None),
        (["other0", "macvlan0"], "macvlan0", None),
        (["macvlan0", "other0"], "other0", "other0"),
    ],
)
def test_an_existing_interface_is_adopted(router: Router, names: list[str], chosen: str, wanted: str | None) -> None:
    for name in names:
        router.lab.macvlan(router.host, name)
    with router.lab.capture() as capture:
        router.init(EGRESS_INTERFACE=wanted)
        assert_works(router)
    assert capture.owner_mac(SOURCE4) == router.host.mac(chosen)
    assert "nothing changed" in router.init(EGRESS_INTERFACE=wanted).stderr


def test_any_kind_of_interface_that_is_named(router: Router) -> None:
    """As Multus gives it: up, with a link-local address, some other kind than macvlan."""
    lab, pod = router.lab, router.host
    lab.lan.ip(f"link add name extra type veth peer name net1 netns {pod.netns}")
    lab.lan.ip("link set extra master br0")
    lab.lan.ip("link set extra up")
    pod.ip("link set net1 up")
    with lab.capture() as capture:
        router.init(EGRESS_INTERFACE="net1", EGRESS_DAD="on")
        assert_works(router)
    assert_no_leak(capture)
    assert "fe80" not in pod.ip("addr show dev net1")


def test_what_cannot_be_adopted(router: Router) -> None:
    lab, pod = router.lab, router.host
    lab.macvlan(pod, "one")
    lab.macvlan(pod, "two")
    several = refused(router)
    assert "there are 2 macvlan links and none is macvlan0: set EGRESS_INTERFACE to one of one, two" in several
    assert "links seen: lo (device, up), eth0 (veth, up), one (macvlan, down), two (macvlan, down)" in several
    missing = refused(router, EGRESS_INTERFACE="net1")
    assert "EGRESS_INTERFACE=net1: there is no such interface here; links seen: lo" in missing
    cluster = refused(router, EGRESS_INTERFACE="eth0")
    assert "EGRESS_INTERFACE=eth0 carries the pod's default route" in cluster

    pod.ip("addr add 192.0.2.99/24 dev one")
    taken = refused(router, EGRESS_INTERFACE="one")
    assert "one already carries 192.0.2.99/24, EGRESS_SOURCE is 192.0.2.46/32" in taken
    pod.ip("addr flush dev one")
    pod.ip("addr add 2001:db8:2::99/64 dev one nodad")
    taken = refused(router, EGRESS_INTERFACE="one")
    assert "one already carries 2001:db8:2::99/64" in taken
    pod.ip("addr flush dev one")

    for family in (4, 6):
        pod.ip(f"-{family} route del default")
    lost = refused(router, EGRESS_INTERFACE="one")
    assert "no interface except one carries a default route" in lost


def test_the_cluster_interface_stays_itself_after_a_run(router: Router) -> None:
    """Once we have moved its default route, it is still no egress interface."""
    router.lab.macvlan(router.host)
    router.init()
    message = refused(router, EGRESS_INTERFACE="eth0")
    assert "cluster interface" in message
    assert_works(router)


def test_an_egress_network_with_a_default_route_of_its_own(router: Router) -> None:
    """A second default route, on the egress interface, does not make that the cluster interface."""
    pod = router.host
    router.lab.macvlan(pod)
    pod.ip("link set macvlan0 up")
    pod.ip("route add default via 192.0.2.1 dev macvlan0 onlink metric 200")
    router.init()
    assert_works(router)
    assert router.lab.tcp(pod, "203.0.113.25", 80).startswith(SOURCE4)


def read_only(router: Router, **env: str) -> subprocess.CompletedProcess[str]:
    """Run init with a read-only /proc/sys, as an unprivileged container has it."""
    script = 'mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "egress_router", "init"]
    return router.host.run(command, env={**router.env, **env}, check=False, timeout=30)


def test_a_read_only_proc_sys(make_lab: Callable[..., Lab], shape: str, backend: str) -> None:
    lab = make_lab(nodes=1, shape=shape)
    lab.echo("203.0.113.25", tcp=[80])
    lab.echo("2001:db8:113::25", tcp=[443])
    router = Router(lab, backend, rules=RULES)
    pod = router.host
    key = "net.ipv6.conf.all.forwarding"
    with lab.capture() as capture:
        off = read_only(router)
    assert off.returncode == 69, off.stderr
    assert f"{key} is 0, 1 is needed, and it cannot be set (Read-only file system)" in off.stderr
    assert f"pod set {key}=1 (spec.securityContext.sysctls" in off.stderr
    assert "192.0.2.46" not in pod.ip("addr")
    assert capture.leaks(()) == []
    pod.sysctl(key, 1)
    on = read_only(router, EGRESS_DAD="on")
    assert on.returncode == 0, on.stderr
    assert_works(router)
    # IPv4 forwards between these two interfaces alone, which netlink switches on.
    assert pod.sysctl("net.ipv4.ip_forward") == "0"
    assert pod.sysctl("net.ipv4.conf.lo.forwarding") == "0"
    # ARP for the cluster's address is not answered all the same: netlink sets what /proc/sys cannot.
    assert pod.sysctl("net.ipv4.conf.macvlan0.arp_ignore") == "1"
    assert "nothing changed" in read_only(router).stderr


def test_the_address_of_the_node_is_refused(router: Router) -> None:
    """A macvlan never hears its parent, so that no probe finds out: looked up in the node's namespace, and told."""
    node = router.lab.nodes[0]
    node.ip(f"address add {SOURCE4}/24 dev eth0")
    seen = refused(router, 78, EGRESS_HOST_NETNS=node.netns_path, EGRESS_DAD="off")
    assert f'EGRESS_SOURCE: "{SOURCE4}" is the address of eth0 of the node itself' in seen
    seen = refused(router, 78, EGRESS_HOST_NETNS=node.netns_path, EGRESS_HOST_IPS=f"198.51.100.7,{SOURCE4}")
    assert f'EGRESS_SOURCE: "{SOURCE4}" is the address of the node that the pod runs on (EGRESS_HOST_IPS)' in seen
    node.ip(f"address del {SOURCE4}/24 dev eth0")
    router.init(EGRESS_HOST_NETNS=node.netns_path, EGRESS_HOST_IPS="198.51.100.7")


def test_a_twin_on_the_same_node_is_found_out(router: Router) -> None:
    """The macvlan that `init` makes is in mode bridge, which hears the other macvlans of the NIC."""
    node = router.lab.nodes[0]
    router.init(EGRESS_HOST_NETNS=node.netns_path)
    twin = router.lab.pod("twin", node=0)
    env = {**router.env, "EGRESS_HOST_NETNS": node.netns_path, "EGRESS_DAD": "on"}
    done = twin.run([sys.executable, "-m", "egress_router", "init"], env=env, check=False)
    assert done.returncode == 75, done.stderr
    assert "is in use" in done.stderr
