"""A tunnel that ended the idle time after its last data was ended by silence."""

from __future__ import annotations

from ipaddress import ip_address

from egress_router.http_proxy.squid.idle_tunnels import IdleTunnels
from egress_router.net.socket_diag import Silence

CLIENT = ip_address("10.1.2.3")


def test_what_ended_by_silence() -> None:
    now = 1000.0
    found = [Silence(CLIENT, 40000, 20.0), Silence(CLIENT, 40001, 5.0)]
    idle = IdleTunnels(8080, 60, lambda _port: found, lambda: now)
    idle.look()
    assert idle.was_idle(CLIENT, 40000, 1040.5)
    assert idle.was_idle(CLIENT, 40000, 1042.6), "Squid was late"
    assert not idle.was_idle(CLIENT, 40000, 1030.0)
    assert not idle.was_idle(CLIENT, 40000, 1044.0)
    assert not idle.was_idle(CLIENT, 40001, 1040.5)
    assert not idle.was_idle(CLIENT, 40002, 1040.5)
    # Heard again: another end.
    now, found[0] = 1030.0, Silence(CLIENT, 40000, 2.0)
    idle.look()
    assert not idle.was_idle(CLIENT, 40000, 1040.5)
    assert idle.was_idle(CLIENT, 40000, 1088.3)
    # Its line may come after the next look, and is forgotten later.
    found.clear()
    idle.look()
    assert idle.was_idle(CLIENT, 40000, 1088.3)
    now = 2000.0
    idle.look()
    assert not idle.was_idle(CLIENT, 40000, 1088.3)


def test_looks_are_as_frequent_as_needed() -> None:
    assert [IdleTunnels(8080, timeout).interval for timeout in (1, 8, 900)] == [0.5, 1.0, 60.0]
