"""Who is heard, and when repairs become a problem."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from egress_router.egressip.node.repair import MANY_REPAIRS, WITHIN_SECONDS, Heard, NetworkWatch, TamperingGuard
from egress_router.egressip.node.state import NODE_PROTOCOL, TUNNEL
from egress_router.net.rtnetlink.watch import Notice, Subject

OUTSIDE, TUNNEL_INDEX, OWN_PORT = 2, 7, 1234
GONE = Notice(Subject.ADDRESS, removed=True, index=OUTSIDE, address=ip_address("192.0.2.45"))


class Watch(NetworkWatch):
    """Hears what it is given."""

    def __init__(self, notices: list[Notice] | None) -> None:
        self._watch = self  # type: ignore[assignment]
        self._outside = OUTSIDE
        self.tunnel = TUNNEL_INDEX
        self._given = notices

    def notices(self) -> list[Notice] | None:
        return self._given


@pytest.mark.parametrize(
    ("notice", "heard"),
    [
        (Notice(Subject.RULE, removed=True, protocol=NODE_PROTOCOL), Heard(network=True)),
        (Notice(Subject.ROUTE, removed=True, protocol=NODE_PROTOCOL), Heard(network=True)),
        (Notice(Subject.ROUTE, removed=False, protocol=4), Heard()),
        (Notice(Subject.LINK, removed=True, index=TUNNEL_INDEX), Heard(network=True)),
        (Notice(Subject.LINK, removed=False, index=99, name=TUNNEL), Heard(network=True)),
        (Notice(Subject.LINK, removed=True, index=OUTSIDE, name="eth0"), Heard()),
        (Notice(Subject.NEIGHBOUR, removed=True, index=TUNNEL_INDEX), Heard(network=True)),
        (Notice(Subject.NEIGHBOUR, removed=True, index=OUTSIDE), Heard()),
        (Notice(Subject.PARAMETER, removed=False, index=TUNNEL_INDEX), Heard(network=True)),
        (Notice(Subject.PARAMETER, removed=False, index=99), Heard(parameters=True)),
        (Notice(Subject.ROUTE, removed=True, protocol=NODE_PROTOCOL, port=OWN_PORT), Heard()),
        (GONE, Heard(addresses=frozenset({"192.0.2.45"}))),
        (Notice(Subject.ADDRESS, removed=True, index=3, address=ip_address("192.0.2.45")), Heard()),
    ],
)
def test_what_is_heard(notice: Notice, heard: Heard) -> None:
    assert Watch([notice]).heard(OWN_PORT) == heard


def test_what_was_lost_may_have_been_anything() -> None:
    assert Watch(None).heard(OWN_PORT) == Heard(network=True, parameters=True)


def test_repairs_that_go_on_are_a_problem_and_end_to_be_one() -> None:
    guard = TamperingGuard()
    for at in range(MANY_REPAIRS - 1):
        guard.repaired(["- rule 90"], float(at))
        assert guard.problem(float(at)) == ""
    guard.repaired(["- rule 91"], float(MANY_REPAIRS))
    assert "rule 91" in guard.problem(float(MANY_REPAIRS))
    assert guard.problem(WITHIN_SECONDS) != ""
    assert guard.problem(WITHIN_SECONDS + 1) == "", "the first of them is long ago"


def test_seldom_repairs_are_none() -> None:
    guard = TamperingGuard()
    for at in range(20):
        now = at * (WITHIN_SECONDS / (MANY_REPAIRS - 1) + 1)
        guard.repaired(["- rule 90"], now)
        assert guard.problem(now) == ""
