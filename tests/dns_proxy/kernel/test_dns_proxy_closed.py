"""Names do not lead into the cluster: addresses of pods and Services in an answer are not used, unless a
line names the address.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import Lab
from tests.dns_proxy.kernel.dns_proxy_pod import CLOSED, DnsProxyPod

pytestmark = [pytest.mark.root, pytest.mark.parametrize("shape", ["bridge"])]

SERVER = "203.0.113.25"


def test_names_that_resolve_into_the_cluster(lab: Lab, open_directory: Path) -> None:
    lab.echo(SERVER, tcp=[80])
    inside = lab.pod("inside")
    address, address6 = str(inside.addresses[4]), str(inside.addresses[6])
    service = str(lab.dns.address)
    for one in (address, address6):
        lab.echo(one, tcp=[80], host=inside)
    names = {"pod": [address], "pod6": [address6], "service": [service], "mixed": [address, service, SERVER]}
    names["carried"] = [f"64:ff9b::{address}"]
    for name, addresses in names.items():
        v6 = [one for one in addresses if ":" in one]
        lab.dns.set(f"{name}.example.com", A=[one for one in addresses if one not in v6], AAAA=v6)
    lines = [f"{8000 + at} {name}.example.com 80" for at, name in enumerate(names)]
    with DnsProxyPod(lab, open_directory, "\n".join(lines)) as pod:
        assert lab.tcp(pod.router, address, 80), "the control: the router reaches the pod"
        for at, name in enumerate(names):
            if name == "mixed":
                assert pod.served(8000 + at, 6) == {SERVER: 6}
            else:
                assert pod.fails(8000 + at) in CLOSED, name
        messages = pod.messages()
    assert f"{address} is not used: it is in the cluster's network" in messages
    assert f"{service} is not used: it is in the cluster's network" in messages
    assert f"({address} inside)" in messages


def test_a_line_opens_the_address_that_it_names(lab: Lab, open_directory: Path) -> None:
    """And EGRESS_SOURCE does not leave by the cluster interface for it."""
    inside, other = lab.pod("inside"), lab.pod("second")
    for one in (inside, other):
        for family in (4, 6):
            lab.echo(str(one.addresses[family]), tcp=[80], host=one)
    lab.dns.set("other.example.com", A=[str(other.addresses[4])])
    lines = f"80 {inside.addresses[4]}\n81 {inside.addresses[6]} 80\n82 other.example.com 80\n"
    with DnsProxyPod(lab, open_directory, lines) as pod:
        for port, family in ((80, 4), (81, 6)):
            source, _, server, *_ = pod.ask(port)
            assert server == str(inside.addresses[family])
            assert source == str(pod.router.addresses[family])
        assert pod.fails(82) in CLOSED
