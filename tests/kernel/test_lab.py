"""The lab is what all other kernel tests believe in, so it is tested first."""

from __future__ import annotations

import pytest

from egress_router.lab import Lab, NoReply

pytestmark = pytest.mark.root

SERVICE = {4: "203.0.113.25", 6: "2001:db8:113::25"}


@pytest.mark.parametrize("family", [4, 6])
def test_pod_reaches_service_with_node_address(lab: Lab, family: int) -> None:
    pod = lab.pod("client")
    lab.echo(SERVICE[family], tcp=80, udp=53)
    seen = str(lab.nodes[0].addresses[family])
    with lab.capture() as capture:
        peer, _, local, port, payload = lab.tcp(pod, SERVICE[family], 80, "over tcp").split(" ", 4)
        assert (peer, local, port, payload) == (seen, SERVICE[family], "80", "over tcp")
        peer, _, local, port, payload = lab.udp(pod, SERVICE[family], 53, "over udp").split(" ", 4)
        assert (peer, local, port, payload) == (seen, SERVICE[family], "53", "over udp")
    assert capture.sources() == {lab.nodes[0].addresses[family]}
    assert capture.leaks({seen}) == []
    assert len(capture.leaks(set())) == len(capture.outgoing()) > 0
    with pytest.raises(NoReply) as raised:
        lab.tcp(pod, SERVICE[family], 81)
    assert raised.value.reason == "refused"
