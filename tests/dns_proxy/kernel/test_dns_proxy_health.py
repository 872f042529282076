"""The DNS proxy's health and figures: true in trouble, open to the cluster, closed to the egress side."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from lab import Lab, NoReply
from tests.dns_proxy.kernel.dns_proxy_pod import SOURCE, DnsProxyPod
from tests.support.endpoint import PORT, Endpoint

pytestmark = pytest.mark.root

GOOD, DEAD = "203.0.113.25", "203.0.113.26"
LIST = f"80 {GOOD}\n8080 example.com 80 check\n81 nowhere.example.com 80\n82 {DEAD} 80\n"


def endpoint_of(pod: DnsProxyPod) -> Endpoint:
    return Endpoint(pod.client, pod.address)


def of(name: str, label: str, text: str) -> str:
    return f'egress_router_{name}{{{label}="{text}"}}'


@pytest.mark.parametrize("shape", ["bridge"])
def test_figures(lab: Lab, open_directory: Path) -> None:
    """Also across a reload with open connections."""
    lab.echo(GOOD, tcp=[80])
    lab.dns.set("example.com", A=[GOOD])
    with DnsProxyPod(lab, open_directory, LIST, families="4") as pod:
        endpoint = endpoint_of(pod)
        status, text = endpoint.get("/readyz")
        assert (status, text.splitlines()[0]) == (200, "ready"), "one dead name does not stop the others"
        assert "nowhere.example.com has no address: nowhere.example.com. does not exist" in text
        held = [pod.hold(80), pod.hold(8080), pod.hold(8080)]
        assert pod.served(8080, 3) == {GOOD: 3}
        with pytest.raises(NoReply):
            pod.ask(82, timeout=10)
        label, example = "destination", "8080 example.com 80"
        endpoint.until(
            lambda: endpoint.figure(of("destination_connections_total", label, example)) == 3, "three have ended"
        )
        assert endpoint.figure(of("destination_open_connections", label, example)) == 2
        with pod.list.open("a") as file:
            file.write("83 203.0.113.25 80\n")
        pod.until(lambda: "haproxy generation 2 is in force" in pod.messages())
        figures = endpoint.figures()
        assert figures['egress_router_reloads_total{result="ok"}'] == 1
        assert figures["egress_router_engines_draining"] == 1
        assert figures[of("destination_open_connections", label, example)] == 2, "in the former process"
        assert figures[of("destination_connections_total", label, "83 203.0.113.25 80")] == 0
        for connection in held:
            connection.close()
        endpoint.until(
            lambda: endpoint.figure(of("destination_connections_total", label, example)) == 5, "all have ended"
        )
        figures = endpoint.figures()
        assert figures[of("destination_connections_total", label, f"80 {GOOD} 80")] == 1
        assert figures[of("destination_open_connections", label, example)] == 0
        assert figures[of("destination_bytes_total", label, example)] > 5 * 40
        assert figures[of("destination_unreached_total", label, f"82 {DEAD} 80")] == 1
        assert figures[of("destination_unreached_total", label, example)] == 0
        assert figures[of("name_addresses", "name", "example.com")] == 1
        assert figures[of("name_addresses", "name", "nowhere.example.com")] == 0
        assert figures[of("name_failures_total", "name", "nowhere.example.com")] >= 1
        assert 0 <= figures[of("name_answer_age_seconds", "name", "example.com")] < 30
        assert figures["egress_router_connections_limit"] > 100
        assert figures[of("log_lines_lost_total", "by", "engine")] == 0
        endpoint.check_figures("dns-proxy")
        names = json.loads(endpoint.get("/status")[1])["names"]
        assert names["example.com"] == {"addresses": [GOOD], "answered_as": "example.com.", "problem": ""}
        assert len(pod.access_log()) == 7


@pytest.mark.parametrize("shape", ["bridge"])
def test_trouble(lab: Lab, open_directory: Path) -> None:
    lab.echo(GOOD, tcp=[80])
    with DnsProxyPod(lab, open_directory, "80 example.com\n81 other.example.com\n", families="4") as pod:
        endpoint = endpoint_of(pod)
        endpoint.until(lambda: endpoint.unready("no destination has an address"), "no name resolves")
        assert endpoint.healthy()
        lab.dns.set("example.com", A=[GOOD])
        lab.dns.set("other.example.com", A=[GOOD])
        endpoint.until(endpoint.ready, "all names are known")
        haproxy = pod.haproxy_pids()[0]
        os.kill(haproxy, signal.SIGSTOP)
        endpoint.until(lambda: endpoint.unready("haproxy does not answer"), "the hang is seen")
        assert endpoint.healthy()
        # What does not need HAProxy is still told.
        assert of("destination_connections_total", "destination", "80 example.com 80") in endpoint.figures()
        os.kill(haproxy, signal.SIGCONT)
        endpoint.until(endpoint.ready, "it answers again")
        os.kill(haproxy, signal.SIGKILL)
        pod.until(lambda: "haproxy generation 2 is in force" in pod.messages())
        assert endpoint.figure("egress_router_engine_restarts_total") == 1
        pod.list.write_text(f"80 example.com\n{PORT} example.com 80\n")
        pod.until(
            lambda: f"is claimed by line 2 of EGRESS_DNS_PROXY_DESTINATION ({PORT} example.com 80)" in pod.messages()
        )
        assert endpoint.figure("egress_router_last_reload_successful") == 0
        held = pod.hold(80)
        pod.signal(signal.SIGTERM)
        endpoint.until(lambda: endpoint.unready("leaving"), "it leaves")
        assert endpoint.healthy()
        held.close()
        assert pod.process is not None
        assert pod.process.wait(15) == 0


@pytest.mark.parametrize(("shape", "backend"), [("bridge", "nftables"), ("point-to-point", "iptables")])
def test_the_egress_side_does_not_reach_it(lab: Lab, backend: str, open_directory: Path) -> None:
    """At any address of the pod, while the cluster does."""
    lab.echo(GOOD, tcp=[80])
    outsider = lab.machine("outsider", "192.0.2.99")
    pod = DnsProxyPod(lab, open_directory, f"80 {GOOD}\n")
    pod.backend = backend
    with pod:
        for address in pod.router.addresses.values():
            endpoint = Endpoint(pod.client, str(address))
            assert endpoint.ready()
        assert Endpoint(lab.nodes[0], pod.address).ready(), "the kubelet asks from the node"
        outsider.ip(f"route add {pod.router.addresses[4]} via {SOURCE[4]}")
        with lab.capture(pod.router, "macvlan0") as capture:
            for aimed in (*SOURCE.values(), str(pod.router.addresses[4])):
                with pytest.raises(NoReply) as silent:
                    lab.tcp(outsider, aimed, PORT, timeout=0.7)
                assert silent.value.reason == "timeout"
        arrived = {str(packet.dst) for packet in capture.packets if packet.dport == PORT and packet.tcp_flags == "S"}
        assert arrived == {*SOURCE.values(), str(pod.router.addresses[4])}, "the packets did arrive"
        assert not [packet for packet in capture.packets if packet.sport == PORT], "nothing was answered"


@pytest.mark.parametrize("shape", ["bridge"])
def test_the_default_port_gives_way(lab: Lab, open_directory: Path) -> None:
    lab.echo(GOOD, tcp=[80])
    """And connections are counted where the access log is off."""
    pod = DnsProxyPod(lab, open_directory, f"{PORT} {GOOD} 80\n", families="4", DNS_PROXY_ACCESS_LOG="off")
    with pod:
        assert pod.ask(PORT)[2] == GOOD
        assert "there is no /healthz, /readyz or /metrics" in pod.messages()
    pod.env["EGRESS_HEALTH_PORT"] = str(PORT)
    pod.start(wait=False)
    assert pod.process is not None
    assert pod.process.wait(15) == 78
    pod.env["EGRESS_HEALTH_PORT"] = "9910"
    pod.start()
    endpoint = Endpoint(pod.client, pod.address, 9910)
    endpoint.until(endpoint.ready, "the proxy is ready")
    assert pod.served(PORT, 3) == {GOOD: 3}
    counted = of("destination_connections_total", "destination", f"{PORT} {GOOD} 80")
    endpoint.until(lambda: endpoint.figure(counted) == 3, "the connections are counted")
    assert (open_directory / "stdout").read_text() == ""
    pod.__exit__()
