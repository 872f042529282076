"""The lab is what all other kernel tests believe in, so it is tested first: who reaches whom, and as whom."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import CommandFailed, Lab, NoReply
from lab.host import Host

pytestmark = pytest.mark.root

SERVICE = {4: "203.0.113.25", 6: "2001:db8:113::25"}
ASK = {"tcp": Lab.tcp, "udp": Lab.udp}


def seen_by(lab: Lab, client: Host, address: object, protocol: str) -> str:
    """Return the source address that an echo server on port 80 sees."""
    peer, _, local, port, payload = ASK[protocol](lab, client, str(address), 80, f"hello over {protocol}").split(" ", 4)
    assert (local, port, payload) == (str(address), "80", f"hello over {protocol}")
    return peer


@pytest.mark.parametrize("family", [4, 6])
def test_who_reaches_whom(make_lab: Callable[..., Lab], shape: str, family: int) -> None:
    lab = make_lab(nodes=2, shape=shape)
    near, beside, far = lab.pod("near"), lab.pod("beside"), lab.pod("far", node=1)
    other = lab.machine("other", "192.0.2.99")
    address = {host.name: str(host.addresses[family]) for host in lab.hosts if host.addresses}
    for host in (near, beside, far, *lab.nodes, other, lab.services):
        lab.echo(address[host.name], tcp=80, udp=80, host=host)
    # (client, server, whom the server sees): pods among each other are themselves, elsewhere they are their node.
    expected = [
        (near, beside, near),
        (near, far, near),
        (far, near, far),
        (near, lab.nodes[0], near),
        (near, other, lab.nodes[0]),
        (near, lab.services, lab.nodes[0]),
        (far, lab.services, lab.nodes[1]),
        (lab.nodes[0], near, lab.nodes[0]),
        (lab.nodes[0], lab.nodes[1], lab.nodes[0]),
        (other, lab.services, other),
        (lab.services, other, lab.services),
    ]
    for protocol in ASK:
        for client, server, seen in expected:
            got = seen_by(lab, client, address[server.name], protocol)
            if server is near and client is lab.nodes[0] and shape == "bridge":
                continue  # it uses the address of its bridge
            assert got == address[seen.name], (protocol, client, server)


@pytest.mark.parametrize("family", [4, 6])
def test_reasons_for_no_reply(lab: Lab, family: int) -> None:
    pod = lab.pod("client")
    lab.echo(SERVICE[family], tcp=80, udp=80)
    seen_by(lab, pod, SERVICE[family], "tcp")
    for ask in ASK.values():
        with pytest.raises(NoReply) as refused:
            ask(lab, pod, SERVICE[family], 81)
        assert refused.value.reason == "refused"
    lab.services.nft("table inet t { chain c { type filter hook input priority 0; meta l4proto { tcp, udp } drop; }; }")
    for ask in ASK.values():
        with pytest.raises(NoReply) as silent:
            ask(lab, pod, SERVICE[family], 80, timeout=0.2)
        assert silent.value.reason == "timeout"
    pod.ip(f"-{family} route del default")
    for ask in ASK.values():
        with pytest.raises(NoReply) as lost:
            ask(lab, pod, SERVICE[family], 80)
        assert lost.value.reason == "unreachable"


def test_gateway_does_not_know_pods(lab: Lab) -> None:
    pod = lab.pod("client")
    lab.echo(pod.addresses[4], tcp=80, host=pod)
    assert seen_by(lab, lab.nodes[0], pod.addresses[4], "tcp")
    with pytest.raises(NoReply, match="unreachable"):
        lab.tcp(lab.gateway, pod.addresses[4], 80)


def test_point_to_point_pod_has_no_connected_subnet(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(shape="point-to-point")
    pod = lab.pod("client")
    routes = pod.ip("-4 route show").splitlines()
    assert [route.strip() for route in routes] == [
        "default via 169.254.1.1 dev eth0",
        "169.254.1.1 dev eth0 scope link",
    ]
    assert "198.51.100.2/32" in pod.ip("-4 addr show dev eth0")
    lab.echo(SERVICE[4], tcp=80)
    assert seen_by(lab, pod, SERVICE[4], "tcp")
    neighbour = pod.ip("-4 neigh show 169.254.1.1")
    assert lab.nodes[0].mac("veth1") in neighbour, neighbour


def test_bridge_pod_has_a_connected_subnet(make_lab: Callable[..., Lab]) -> None:
    pod = make_lab(shape="bridge").pod("client")
    assert "198.51.100.0/27 dev eth0" in pod.ip("-4 route show")
    assert "default via 198.51.100.1 dev eth0" in pod.ip("-4 route show")


def test_macvlan_is_as_openshift_sdn_makes_it(lab: Lab) -> None:
    pod = lab.pod("router")
    mac = lab.macvlan(pod)
    link = pod.ip("-d link show dev macvlan0")
    assert "state DOWN" in link
    assert "macvlan mode private" in link
    assert mac in link
    assert mac not in (pod.mac(), lab.nodes[0].mac())
    assert pod.ip("addr show dev macvlan0").count("inet") == 0


@pytest.mark.parametrize("family", [4, 6])
def test_macvlan_owns_its_address_on_the_lan(lab: Lab, family: int) -> None:
    pod = lab.pod("router")
    mac = lab.macvlan(pod)
    lab.echo(SERVICE[family], tcp=80)
    own, gateway = {4: ("192.0.2.46", "192.0.2.1"), 6: ("2001:db8:2::46", "2001:db8:2::1")}[family]
    with lab.capture() as capture:
        pod.ip("link set macvlan0 up")
        pod.add_addresses([own], "macvlan0")
        pod.ip(f"-{family} route replace default via {gateway} dev macvlan0")
        assert seen_by(lab, pod, SERVICE[family], "tcp") == own
        assert capture.owner_mac(own) == mac
        assert capture.owner_mac(lab.nodes[0].addresses[family]) in (None, lab.nodes[0].mac())
    assert {str(source) for source in capture.sources()} == {own}
    assert capture.owners(own) == {mac}


def test_duplicate_address_detection_works_on_macvlan(lab: Lab) -> None:
    pod = lab.pod("router")
    lab.macvlan(pod)
    lab.machine("other", "192.0.2.46")
    pod.ip("link set macvlan0 up")
    lab.worker.wait_ready(pod.netns_path, ["macvlan0"])
    pod.ip("addr add 2001:db8:2::46/64 dev macvlan0")
    assert wait_for(lambda: "dadfailed" in pod.ip("-6 addr show dev macvlan0"))


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Ask until the condition holds, at most for a while."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_power_cut_and_return(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(nodes=2)
    pod = lab.pod("client")
    lab.echo(lab.nodes[1].addresses[4], tcp=80, host=lab.nodes[1])
    assert seen_by(lab, pod, lab.nodes[1].addresses[4], "tcp")
    lab.unplug(lab.nodes[1])
    with pytest.raises(NoReply):
        lab.tcp(pod, lab.nodes[1].addresses[4], 80, timeout=0.2)
    lab.plug(lab.nodes[1])
    assert seen_by(lab, pod, lab.nodes[1].addresses[4], "tcp")


def test_commands_see_their_own_world(make_lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGRESS_SOURCE", "from outside")
    pod = make_lab().pod("client")
    assert pod.run(["sh", "-c", "echo $EGRESS_SOURCE"]).stdout == "\n"
    assert pod.run(["sh", "-c", "echo $EGRESS_SOURCE"], env={"EGRESS_SOURCE": "192.0.2.46"}).stdout == "192.0.2.46\n"
    assert pod.run(["cat"], input="through").stdout == "through"
    assert "nameserver 192.0.2.53" in pod.run(["cat", "/etc/resolv.conf"]).stdout
    pod.set_resolv_conf("nameserver 192.0.2.54\n")
    assert pod.run(["cat", "/etc/resolv.conf"]).stdout == "nameserver 192.0.2.54\n"
    with pytest.raises(CommandFailed, match=r"(?s)gave 3\n.*out\n.*err"):
        pod.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert pod.run(["false"], check=False).returncode == 1
    assert pod.sysctl("net.ipv4.ip_forward") == "0"
    assert pod.sysctl("net.ipv4.ip_forward", 1) == "1"
    assert Path(f"/proc/{pod.pid}/ns/net").stat().st_ino == Path(pod.netns_path).stat().st_ino


def test_sockets_of_a_host_are_ordinary_sockets(make_lab: Callable[..., Lab]) -> None:
    pod = make_lab().pod("client")
    with pod.socket(socket.AF_INET) as listener, pod.socket(socket.AF_INET) as client:
        listener.bind((str(pod.addresses[4]), 8080))
        listener.listen()
        client.settimeout(2)
        client.connect((str(pod.addresses[4]), 8080))
        assert client.getpeername() == (str(pod.addresses[4]), 8080)
    with socket.socket() as outside, pytest.raises(OSError, match="assign"):
        outside.bind((str(pod.addresses[4]), 8080))  # this process is still in its own namespace


def test_dump_names_what_matters(lab: Lab) -> None:
    pod = lab.pod("client")
    text = lab.dump(pod, lab.nodes[0])
    for word in (str(pod.addresses[4]), "ip -4 rule", "lookup main", "default via", "masquerade", "conntrack -L"):
        assert word in text


def test_http_server(lab: Lab) -> None:
    pod = lab.pod("client")
    for address in SERVICE.values():
        server = lab.http(address)
        seen = pod.run(["curl", "-gsS", f"{server.url}/some/path"]).stdout.split()
        family = 6 if ":" in address else 4
        assert (seen[0], seen[2], seen[4:]) == (str(lab.nodes[0].addresses[family]), address, ["GET", "/some/path"])
        code = ["curl", "-gsS", "-o", "/dev/null", "-w", "%{http_code} %{size_download}"]
        assert pod.run([*code, f"{server.url}/status/404"]).stdout == "404 0"
        assert pod.run([*code, f"{server.url}/bytes/1000000"]).stdout == "200 1000000"
        assert pod.run(["curl", "-gsS", f"{server.url}/stream/3?seconds=0.1"]).stdout.count("chunk") == 3
        assert "text" in pod.run(["curl", "-gsS", "-d", "text", f"{server.url}/"]).stdout
        assert [request.method for request in server.requests] == ["GET", "GET", "GET", "GET", "POST"]
        assert server.requests[-1].body == "text"
        assert server.requests[-1].headers["Content-Length"] == "4"
