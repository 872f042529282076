"""Which marks are ours, and which of others overlap them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.values import Family
from egress_router.egressip.node.foreign_marks import ForeignMark, Overlaps, marks_in, overlaps, rules_before
from egress_router.egressip.node.marks import DEFAULT_MARKS, OWN_SLOT, Marks, parse_marks
from egress_router.errors import UsageError
from egress_router.net.rtnetlink.values import Link, PolicyRule

#: What `nft -s -t list ruleset` (1.0.6) prints for rules of Tailscale, wg-quick, kube-router and some that nobody has.
LISTING = """\
table ip mangle {
	chain PREROUTING {
		type filter hook prerouting priority mangle; policy accept;
		ct state related,established counter meta mark set ct mark and 0xff0000
		meta l4proto udp counter meta mark set ct mark
	}

	chain POSTROUTING {
		meta l4proto udp meta mark 0x0000ca6c counter ct mark set mark
	}
}
table ip filter {
	chain FORWARD {
		meta mark & 0x00ff0000 == 0x00040000 counter accept
		meta mark & 0x00010000 != 0x00010000 counter reject
		counter meta mark set mark or 0x10000
		counter meta mark set 0x20010000
		meta mark set meta mark & 0xfff0ffff | 0x00030000
		ct mark set 0x00000539
	}
}
table inet egress_node {
	chain gateway_1 {
		meta mark set meta mark & 0x0000ffff | 0x20010000
	}
}
"""


@given(st.integers(1, 62), st.integers(0, 0xFFFFFFFF))
def test_a_mark_and_its_slot(slot: int, others: int) -> None:
    """Whatever bits others have, in masks of one piece and of several."""
    for marks in (DEFAULT_MARKS, Marks(0x20000000, 0xF0000F00, 0x0FC00000), Marks(0x8, 0xF, 0x10101110F0 & 0xFFFFFFF0)):
        if slot <= marks.last_slot:
            mark = marks.mark_of(slot) | others & marks.keep
            assert marks.slot_of(mark) == slot
            assert marks.is_ours(mark)
        own = marks.mark_of(OWN_SLOT) | others & marks.keep
        assert marks.slot_of(own) == OWN_SLOT
        assert not marks.slot_of(mark_without_value := own & ~marks.value), mark_without_value


def test_masks_of_options() -> None:
    assert parse_marks("0x20000000/0xf0000000", "0x0fff0000") == DEFAULT_MARKS
    assert parse_marks("0x1/0x1", "6").last_slot == 2
    for value, slots, text in (
        ("0x20000000", "0x0fff0000", "VALUE/MASK"),
        ("0/0xf0000000", "0x0fff0000", "others would count as ours"),
        ("0x30000000/0x10000000", "0x0fff0000", "outside the mask"),
        ("0x20000000/0xf0000000", "0xffff0000", "different ones"),
        ("0x20000000/0xf0000000", "0x00010000", "too few bits"),
        ("red/0xf0000000", "0x0fff0000", "no number of 32 bits"),
        ("0x20000000/0xf0000000", "0x100000000", "no number of 32 bits"),
    ):
        with pytest.raises(UsageError, match=text):
            parse_marks(value, slots)


def test_marks_are_read_from_nft() -> None:
    found = [(mark.value, mark.mask, mark.given) for mark in marks_in(LISTING)]
    assert found == [
        (0xFF0000, 0xFF0000, False),
        (0xFFFFFFFF, 0xFFFFFFFF, False),
        (0xFFFFFFFF, 0xFFFFFFFF, False),
        (0xCA6C, 0xFFFFFFFF, False),
        (0x40000, 0xFF0000, False),
        (0x10000, 0x10000, False),
        (0x10000, 0x10000, True),
        (0x20010000, 0xFFFFFFFF, True),
        (0x30000, 0xF0000, True),
        (0x539, 0xFFFFFFFF, True),
    ]


def rule(priority: int, mark: int, mask: int | None, protocol: int = 4) -> PolicyRule:
    return PolicyRule(Family.IPV4, priority, 77, mark=mark, mask=mask, protocol=protocol)


@pytest.mark.parametrize(
    ("found", "certain", "possible"),
    [
        (rule(5210, 0x80000, 0xFF0000), False, True),
        (rule(32764, 0xCA6C, None), False, False),
        (rule(9, 0x200, 0xF00), False, False),
        (rule(99, 0x20000000, 0xF0000000), False, True),
        (rule(80, 0x20000000, 0xF0000000), True, False),
        (rule(99, 0x20010000, 0xFFFF0000), True, False),
        (rule(99, 0x20010000, None), True, False),
        (rule(90, 0x20010000, 0xFFFF0000, protocol=147), False, False),
        (rule(99, 0x30010000, 0xFFFF0000), False, True),
    ],
)
def test_policy_rules_that_overlap(found: PolicyRule, certain: bool, possible: bool) -> None:
    seen = overlaps(DEFAULT_MARKS, [found], [], [])
    assert (bool(seen.certain), bool(seen.possible)) == (certain, possible), seen


def test_what_is_told_of_a_firewall() -> None:
    seen = overlaps(DEFAULT_MARKS, [], marks_in(LISTING), [])
    (certain,) = seen.certain
    assert certain.startswith("nft table ip filter, chain FORWARD: counter meta mark set 0x20010000: it gives packets")
    assert len(seen.possible) == 7
    assert "nft table ip filter, chain FORWARD: counter meta mark set mark or 0x10000: bits 0x00010000" in seen.possible
    quiet = [ForeignMark("kube-proxy", 0x4000, 0x4000, given=True), ForeignMark("istio", 0x539, 0xFFFFFFFF, given=True)]
    assert overlaps(DEFAULT_MARKS, [], quiet, []) == Overlaps()


def test_cilium_is_told_how_to_live_with() -> None:
    cilium = Link(7, "cilium_host", "veth", "", 1500, up=True, lower_up=True)
    (line,) = overlaps(DEFAULT_MARKS, [], [], [cilium]).possible
    assert "EGRESS_MARK=0x20000000/0xf0000f00" in line
    assert not overlaps(parse_marks("0x20000000/0xf0000f00", "0x0fff0000"), [], [], [cilium]).possible


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (PolicyRule(Family.IPV4, 89, 51820, mark=0xCA6C, inverted=True), True),
        (PolicyRule(Family.IPV6, 90, 51820, mark=0xCA6C, mask=0xFFFF, inverted=True), True),
        (PolicyRule(Family.IPV4, 32765, 51820, mark=0xCA6C, inverted=True), False),
        (PolicyRule(Family.IPV4, 89, 51820, mark=0xCA6C), False),
        (PolicyRule(Family.IPV4, 89, 51820, mark=0x20000000, mask=0xF0000000, inverted=True), False),
    ],
)
def test_policy_rules_that_come_before_ours(found: PolicyRule, told: bool) -> None:
    assert bool(rules_before(Marks(), [found])) is told
