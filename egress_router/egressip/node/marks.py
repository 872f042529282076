"""The marks of packets and connections: which are ours, and which path each stands for. Pure. See ip-rule(8)."""

from __future__ import annotations

from dataclasses import dataclass

from egress_router.errors import UsageError

#: The slot of pods whose egress IP stands on this node itself.
OWN_SLOT = 0xFFF
#: Slots of other gateways: 1 to this at most.
LAST_SLOT = 0xFFE

_ALL_BITS = 0xFFFFFFFF
#: Fewer bits for slots would not do for a gateway and this node itself.
_FEWEST_BITS = 2


@dataclass(frozen=True, slots=True)
class Marks:
    """A mark is ours when it has ``value`` under ``value_mask``; the bits of ``slot_mask`` say which path it stands
    for. No other bit is looked at or changed.

    The value keeps our policy rules from marks that others have set in the bits below it: Felix marks what it accepts
    with bit 16, say, and a VXLAN device looks up the way of its own packets with the mark of what is inside.
    """

    value: int = 0x20000000
    value_mask: int = 0xF0000000
    slot_mask: int = 0x0FFF0000

    @property
    def mask(self) -> int:
        """The bits that a mark of ours takes."""
        return self.value_mask | self.slot_mask

    @property
    def keep(self) -> int:
        """The bits of others."""
        return _ALL_BITS ^ self.mask

    @property
    def last_slot(self) -> int:
        """The highest slot of another gateway; all bits set are this node itself."""
        return min(LAST_SLOT, (1 << self.slot_mask.bit_count()) - 2)

    def mark_of(self, slot: int) -> int:
        """Return the mark of a slot."""
        mark, number = self.value, slot
        for bit in _bits(self.slot_mask):
            if slot == OWN_SLOT or number & 1:
                mark |= bit
            number >>= 1
        return mark

    def is_ours(self, mark: int) -> bool:
        """Return whether a mark has our value and a slot."""
        return mark & self.value_mask == self.value and mark & self.slot_mask != 0

    def slot_of(self, mark: int) -> int:
        """Return the slot of a mark, 0 when it is not ours."""
        if not self.is_ours(mark):
            return 0
        if mark & self.slot_mask == self.slot_mask:
            return OWN_SLOT
        return sum(1 << number for number, bit in enumerate(_bits(self.slot_mask)) if mark & bit)


DEFAULT_MARKS = Marks()


def _bits(mask: int) -> list[int]:
    """Return the bits of a mask, the lowest first."""
    return [1 << number for number in range(32) if mask >> number & 1]


def parse_marks(value: str, slots: str) -> Marks:
    """Return the marks of ``VALUE/MASK``, as fwmark of ip-rule(8), and of the mask of the slots. Raises UsageError."""
    text, slash, mask = value.partition("/")
    found = _number("--mark", text), _number("--mark", mask) if slash else 0, _number("--mark-slots", slots)
    marks = Marks(*found)
    if not marks.value or marks.value & ~marks.value_mask:
        raise UsageError(
            f"--mark: {value} must be VALUE/MASK, with a value that is not 0 and has no bit outside the mask, such as "
            "0x20000000/0xf0000000; without a value the marks of others would count as ours"
        )
    if marks.value_mask & marks.slot_mask:
        raise UsageError(f"--mark-slots: {slots} has bits of the mask of --mark, {mask}; they must be different ones")
    if marks.slot_mask.bit_count() < _FEWEST_BITS:
        raise UsageError(f"--mark-slots: {slots} has too few bits; a path per holder needs {_FEWEST_BITS} or more")
    return marks


def _number(option: str, text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if not 0 <= number <= _ALL_BITS:
        raise UsageError(f"{option}: {text!r} is no number of 32 bits, such as 0x0fff0000")
    return number
