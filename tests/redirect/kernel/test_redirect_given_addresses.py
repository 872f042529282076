"""An egress interface that comes with addresses, by IPAM or router advertisements, and what others say of them."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import pytest

from egress_router.net.arp_nd import Neighbours
from lab import Host, Lab
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.router import SOURCE4, SOURCE6, Router, assert_no_leak

pytestmark = pytest.mark.root

RULES = "80 tcp 203.0.113.25\n443 tcp 2001:db8:113::25\n"
ETH_P_ALL, ARP, ICMPV6 = 3, b"\x08\x06", 58


@pytest.fixture
def router(lab: Lab) -> Router:
    """A router whose egress interface is up already, as Multus gives it."""
    lab.echo("203.0.113.25", tcp=[80])
    lab.echo("2001:db8:113::25", tcp=[443])
    router = Router(lab, "nftables", rules=RULES)
    router.host.ip("link set macvlan0 up")
    return router


@pytest.fixture
def third(router: Router) -> Router:
    """With net1, the pod's third interface, up."""
    pod = router.host
    router.lab.nodes[0].ip(f"link add name third type veth peer name net1 netns {pod.netns}")
    router.lab.nodes[0].ip("link set third up")
    pod.ip("addr add 172.31.9.2/24 dev net1")
    pod.ip("link set net1 up")
    return router


def assert_works(router: Router) -> None:
    assert router.tcp(80).startswith(SOURCE4)
    assert router.tcp(443, 6).startswith(SOURCE6)


def wait_for(condition: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.02)


@contextmanager
def frames(host: Host, interface: str = "eth0") -> Iterator[socket.socket]:
    """A raw socket on an interface of a host."""
    with host.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as raw:
        raw.bind((interface, ETH_P_ALL))
        yield raw


@pytest.mark.parametrize("dad", ["on", "off"])
def test_an_address_whose_detection_is_under_way_is_waited_for(router: Router, dad: str) -> None:
    router.host.ip(f"-6 addr add {SOURCE6}/128 dev macvlan0")
    assert "tentative" in router.host.ip("-6 addr show dev macvlan0"), "positive control"
    with router.lab.capture() as capture:
        router.init(EGRESS_DAD=dad)
        assert_works(router)
    assert_no_leak(capture)
    assert "tentative" not in router.host.ip("-6 addr show dev macvlan0")


@pytest.mark.parametrize("dad", ["on", "off"])
def test_a_duplicate_that_the_kernel_has_found(router: Router, dad: str) -> None:
    """The other machine is named; when it is gone, the address that the kernel refuses for ever is made anew."""
    pod = router.host
    holder = router.lab.machine("holder", "192.0.2.98")
    holder.add_addresses([SOURCE6])
    pod.ip(f"-6 addr add {SOURCE6}/128 dev macvlan0")
    wait_for(lambda: "dadfailed" in pod.ip("-6 addr show dev macvlan0"))
    if dad == "on":
        refused = router.init(EGRESS_DAD="on", check=False)
        assert refused.returncode == 75, refused.stderr
        assert f"{SOURCE6} is in use: {holder.mac()} has it on macvlan0" in refused.stderr
    holder.ip(f"addr del {SOURCE6}/64 dev eth0")
    router.init(EGRESS_DAD=dad)
    assert "dadfailed" not in pod.ip("-6 addr show dev macvlan0")
    assert_works(router)
    assert "nothing changed" in router.init(EGRESS_DAD=dad).stderr


def test_an_address_found_at_a_first_run_is_asked_for_too(router: Router) -> None:
    router.host.ip(f"addr add {SOURCE4}/32 dev macvlan0")
    holder = router.lab.machine("holder", "192.0.2.98")
    holder.add_addresses([SOURCE4])
    refused = router.init(EGRESS_DAD="on", check=False)
    assert refused.returncode == 75, refused.stderr
    assert f"{SOURCE4} is in use: {holder.mac()} has it on macvlan0 (an ARP reply)" in refused.stderr
    holder.ip(f"addr del {SOURCE4}/24 dev eth0")
    router.init(EGRESS_DAD="on")
    assert_works(router)
    with router.lab.capture() as capture:
        assert "nothing changed" in router.init(EGRESS_DAD="on").stderr
    probes = [p for p in capture.packets if p.arp_op == 1 and str(p.src) == "0.0.0.0"]
    assert probes == [], "what stands as it should is not asked for again"


def test_the_same_address_with_another_length(router: Router) -> None:
    router.host.ip(f"addr add {SOURCE4}/24 dev macvlan0")
    refused = router.init(check=False)
    assert refused.returncode == 69
    assert f"macvlan0 already carries {SOURCE4}/24, EGRESS_SOURCE is {SOURCE4}/32" in refused.stderr
    assert f"Set EGRESS_SOURCE={SOURCE4}/24" in refused.stderr
    router.init(EGRESS_SOURCE=f"{SOURCE4}/24 {SOURCE6}")
    assert_works(router)


def advertise(router: Router) -> None:
    """Send a router advertisement with a prefix (RFC 4861, 4.2, 4.6.2) to the LAN, as a router there would."""
    gateway = router.lab.gateway
    speaker = object.__new__(Neighbours)
    speaker._mac = bytes.fromhex(gateway.mac().replace(":", ""))
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 1800, 0) + IPv6Address("2001:db8:9::").packed
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
    all_nodes = IPv6Address("ff02::1").packed
    frame = speaker._ipv6(b"\x33\x33\0\0\0\1", IPv6Address("fe80::1").packed, all_nodes, body)
    with frames(gateway) as raw:
        raw.send(frame)


@pytest.mark.parametrize("mode", ["init", "http-proxy"])
def test_addresses_of_router_advertisements_are_taken_away(router: Router, mode: str) -> None:
    pod = router.host
    pod.sysctl("net.ipv6.conf.macvlan0.accept_ra", 1)
    wait_for(lambda: "fe80" in pod.ip("-6 addr show dev macvlan0") and "tentative" not in pod.ip("-6 addr show"))
    advertise(router)
    wait_for(lambda: "2001:db8:9:" in pod.ip("-6 addr show dev macvlan0 -tentative"))
    router.init(EGRESS_ROUTER_MODE=mode, EGRESS_DESTINATION=RULES if mode == "init" else None)
    advertise(router)
    time.sleep(0.3)
    assert "2001:db8:9:" not in pod.ip("-6 addr show dev macvlan0")
    assert "proto ra" not in pod.ip("-6 route show default")
    if mode == "init":
        assert_works(router)


@contextmanager
def answering_for_all(host: Host, but: str = "0.0.0.0") -> Iterator[list[bytes]]:
    """Let a machine answer ARP requests for every address but one, as some routers do (proxy ARP); yields what was
    asked.
    """
    asked: list[bytes] = []
    stop = threading.Event()

    def answer(raw: socket.socket, mac: bytes) -> None:
        raw.settimeout(0.05)
        while not stop.is_set():
            try:
                frame = raw.recv(2048)
            except TimeoutError:
                continue
            if frame[12:14] != ARP or frame[20:22] != b"\0\1" or frame[6:12] == mac:
                continue
            if frame[38:42] == ip_address(but).packed:
                continue
            asked.append(frame[38:42])
            reply = frame[6:12] + mac + ARP + frame[14:20] + b"\0\2" + mac + frame[38:42] + frame[22:32]
            raw.send(reply)

    with frames(host) as raw:
        thread = threading.Thread(target=answer, args=(raw, bytes.fromhex(host.mac().replace(":", ""))), daemon=True)
        thread.start()
        try:
            yield asked
        finally:
            stop.set()
            thread.join(2)


def test_a_gateway_that_answers_for_everything_is_no_rival(router: Router) -> None:
    with answering_for_all(router.lab.gateway) as asked:
        router.init(EGRESS_DAD="on")
    assert ip_address(SOURCE4).packed in asked, "positive control"
    assert router.tcp(80).startswith(SOURCE4)


def test_a_machine_that_is_no_gateway_is_one(router: Router) -> None:
    stranger = router.lab.machine("stranger", "192.0.2.98")
    with answering_for_all(stranger, but="192.0.2.1"):
        refused = router.init(EGRESS_DAD="on", check=False)
    assert refused.returncode == 75
    assert stranger.mac() in refused.stderr


def arp_probe(sender: str, target: bytes, address: str) -> bytes:
    """An ARP probe (RFC 5227, 1.1) from a MAC to one machine, or to all."""
    mac = bytes.fromhex(sender.replace(":", ""))
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, bytes(4), bytes(6), ip_address(address).packed)
    return target + mac + ARP + body


@pytest.mark.parametrize(("to_all", "code"), [(False, 0), (True, 75)])
def test_a_switch_that_looks_whether_we_are_still_there(router: Router, to_all: bool, code: int) -> None:
    """It asks us alone; who asks everybody is about to take the address."""
    switch = router.lab.machine("switch", "192.0.2.98")
    ours = bytes.fromhex(router.host.mac("macvlan0").replace(":", ""))
    stop = threading.Event()

    def ask() -> None:
        with frames(switch) as raw:
            while not stop.wait(0.05):
                raw.send(arp_probe(switch.mac(), b"\xff" * 6 if to_all else ours, SOURCE4))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        done = router.init(EGRESS_DAD="on", check=False)
    finally:
        stop.set()
        thread.join(2)
    assert done.returncode == code, done.stderr
    assert ("an ARP probe: it is about to take it" in done.stderr) == to_all


@pytest.mark.parametrize("dad", ["off", "on"])
def test_a_router_that_stays_obeys_the_switch(lab: Lab, tmp_path: Path, dad: str) -> None:
    """Switched off it asks nobody and complains of nobody; the other way round is the control."""
    lab.echo("203.0.113.25", tcp=[80])
    router = LiveRouter(lab, "nftables", tmp_path, "80 tcp 203.0.113.25\n", EGRESS_DAD=dad)
    router.start()
    rival = lab.machine("rival", "192.0.2.98")
    with lab.capture() as capture:
        rival.add_addresses([SOURCE4])
        rival.run(["arping", "-c", "3", "-w", "1", "-U", "-I", "eth0", SOURCE4], check=False)
        time.sleep(6)
    probes = [p for p in capture.packets if p.src_mac == router.macvlan_mac and p.arp_op and str(p.src) == "0.0.0.0"]
    claims = f"{rival.mac()} claims {SOURCE4}, which is ours, on macvlan0 (an ARP request from it)"
    assert (claims in router.log()) == (dad == "on"), router.log()
    assert bool(probes) == (dad == "on")


@pytest.mark.parametrize("source", [SOURCE4, SOURCE6])
@pytest.mark.parametrize("interface", ["eth0", "net1"])
def test_an_address_that_is_on_another_interface_is_refused(third: Router, interface: str, source: str) -> None:
    """As a second network attachment's IPAM may give it, or a mistake with the pod's own."""
    third.host.ip(f"addr add {source}/{128 if ':' in source else 32} dev {interface}")
    before = third.host.ip("rule"), third.host.run(["nft", "list", "ruleset"]).stdout
    refused = third.init(check=False)
    assert refused.returncode == 69, refused.stderr
    assert f"is on {interface}, not on macvlan0, the egress interface" in refused.stderr
    assert f"EGRESS_INTERFACE={interface}" in refused.stderr
    assert (third.host.ip("rule"), third.host.run(["nft", "list", "ruleset"]).stdout) == before


def test_both_addresses_in_use_are_named_together(router: Router) -> None:
    holders = [router.lab.machine("holder", "192.0.2.98"), router.lab.machine("other", "192.0.2.99")]
    holders[0].add_addresses([SOURCE4])
    holders[1].add_addresses([SOURCE6])
    refused = router.init(EGRESS_DAD="on", check=False)
    assert refused.returncode == 75, refused.stderr
    for address, holder in zip((SOURCE4, SOURCE6), holders, strict=True):
        assert f"{address} is in use: {holder.mac()} has it on macvlan0" in refused.stderr


def test_a_pod_address_whose_detection_is_under_way_is_waited_for(router: Router) -> None:
    """A router that is ready is spoken to at once, by the address that the CNI plugin has given it a moment before."""
    pod = router.host
    pod.sysctl("net.ipv6.conf.eth0.accept_dad", 1)
    pod.sysctl("net.ipv6.conf.eth0.dad_transmits", 3)
    pod.ip("-6 addr add 2001:db8:77::77/128 dev eth0")
    assert "tentative" in pod.ip("-6 addr show dev eth0"), "positive control"
    router.init()
    assert "tentative" not in pod.ip("-6 addr show dev eth0")
    assert "2001:db8:77::77 lookup 14600" in pod.ip("-6 rule")
    assert_works(router)


def test_a_pod_address_that_the_kernel_refuses_is_told(router: Router) -> None:
    """It does not hinder what works."""
    pod, node = router.host, router.lab.nodes[0]
    far = node.ip("-o route get 198.51.100.2").split(" dev ")[1].split()[0]
    node.ip(f"-6 addr add 2001:db8:77::77/128 dev {far} nodad")
    pod.sysctl("net.ipv6.conf.eth0.accept_dad", 1)
    pod.ip("-6 addr add 2001:db8:77::77/128 dev eth0")
    wait_for(lambda: "dadfailed" in pod.ip("-6 addr show dev eth0"))
    done = router.init()
    assert "2001:db8:77::77, the pod's own address on eth0, cannot be used" in done.stderr
    assert_works(router)


#: How else a third interface gets a default route: commands of ip-route(8). OURS is a next hop by eth0's gateway.
ELSEWHERE = {
    "IPv6 of the same metric": "-6 route append default via fe80::99 dev net1 metric 1024",
    "IPv6 of a better metric": "-6 route add default via fe80::99 dev net1 metric 10",
    "IPv4 paths, eth0 last": "route replace default nexthop via 172.31.9.1 dev net1 OURS onlink",
    "IPv4 paths, eth0 first": "route replace default OURS onlink nexthop via 172.31.9.1 dev net1",
    "IPv6 paths": "-6 route replace default nexthop via fe80::99 dev net1 OURS",
}


@pytest.mark.parametrize("how", list(ELSEWHERE))
def test_a_default_route_elsewhere_however_it_is_given(third: Router, how: str) -> None:
    pod = third.host
    family = 6 if "IPv6" in how else 4
    words = pod.ip(f"-{family} route show default").split()
    gateway = words[words.index("via") + 1]
    pod.ip(ELSEWHERE[how].replace("OURS", f"nexthop via {gateway} dev eth0"))
    assert "net1" in pod.ip(f"-{family} route show default"), "positive control"
    done = third.init()
    assert "net1 carries a default route that is no worse than that of eth0" in done.stderr
    assert "iif eth0 lookup 14601" in pod.ip(f"-{family} rule")
    assert f"default via {gateway} dev eth0" in pod.ip(f"-{family} route show table 14600")
    left = pod.ip(f"-{family} route show default")
    assert left.count("default") == 1, left
    assert "macvlan0" in left
    assert_works(third)
    assert "nothing changed" in third.init().stderr


def test_a_third_interface_with_a_default_route_as_good(third: Router) -> None:
    """The container runtime's interface is taken, and the other one named; the traffic would go nowhere."""
    pod = third.host
    metric = pod.ip("route show default").partition("metric ")[2].split(" ")[0] or "0"
    pod.ip(f"route prepend default via 172.31.9.1 dev net1 metric {metric}")
    done = third.init()
    assert "net1 carries a default route that is no worse than that of eth0" in done.stderr, done.stderr
    assert "iif eth0 lookup 14601" in pod.ip("rule")
    assert_works(third)
    assert "nothing changed" in third.init().stderr
