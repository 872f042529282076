"""Other programs' marks on a node that take bits of ours: told at the start, and refused where one of both would lead
the other's packets. See ip-rule(8), nft(8), iptables-extensions(8) for MARK and CONNMARK.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from egress_router.egressip.node.legacy_tables import LegacyTable, legacy_tables
from egress_router.egressip.node.marks import Marks
from egress_router.egressip.node.nft_rules import TABLE
from egress_router.egressip.node.routes import RULE_PRIORITY
from egress_router.egressip.node.state import NODE_PROTOCOL
from egress_router.errors import ConfigurationError, Problem, ToolFailed
from egress_router.net.process import run_tool
from egress_router.net.rtnetlink.kernel import RouteNetlink
from egress_router.net.rtnetlink.values import Link, PolicyRule

_ALL_BITS = 0xFFFFFFFF
_HEX = r"(0x[0-9a-f]+)"
#: What nft(8) lists, for its own rules and for those of iptables(8): a comparison, a mark that is set, bits that are
#: set, bits that are kept and bits that are set, a mark that is copied from the packet to the connection or back.
_COMPARED = re.compile(rf"\b(?:meta|ct) mark (?:(?:and|&) {_HEX} )?(?:(?:==|!=) )?{_HEX}(?! or\b)")
_SET = re.compile(rf"\bmark set (?!.*\bmark\b){_HEX}")
_BITS = re.compile(rf"\bmark set (?:meta |ct )?mark (?:or|\|) {_HEX}")
_MIXED = re.compile(rf"\bmark set (?:meta |ct )?mark (?:and|&) {_HEX} (?:(?:or|\||xor|\^) {_HEX})")
_COPIED = re.compile(rf"\b(?:meta mark set ct mark|ct mark set (?:meta )?mark)(?: (?:and|&) {_HEX})?(?! [|^]| x?or)")
_PLACE = re.compile(r"^(table|\tchain) (.*) \{$")
#: The interface that Cilium makes on each node, and the bits of its marks that are never 0 where identities are.
_CILIUM, _CILIUM_MAGIC = "cilium_host", 0x0F00
#: So many are told one by one.
_TOLD = 10


@dataclass(frozen=True, slots=True)
class ForeignMark:
    """Where a mark is used, and how: ``value`` under ``mask``. ``given``: packets or connections get it there."""

    where: str
    value: int
    mask: int
    given: bool


@dataclass(frozen=True, slots=True)
class Overlaps:
    """What overlaps our marks: ``certain`` leads packets astray, ``possible`` has bits in common with ours."""

    certain: tuple[str, ...] = ()
    possible: tuple[str, ...] = ()


def marks_in(listing: str) -> Iterator[ForeignMark]:
    """Yield the marks in what ``nft list ruleset`` prints, our own tables left out."""
    table = chain = ""
    for line in listing.splitlines():
        place = _PLACE.match(line)
        if place:
            table, chain = (place[2], "") if place[1] == "table" else (table, place[2])
        elif "mark" in line and table.partition(" ")[2] != TABLE:
            yield from _marks_of_rule(f"nft table {table}, chain {chain}: {line.strip()}", line)


def marks_in_legacy(table: LegacyTable) -> Iterator[ForeignMark]:
    """Yield the marks in a table of iptables-legacy."""
    for chain, words in table.rules:
        where = f"{table.place}, chain {chain}: {' '.join(words)}"
        for word, text in pairwise(words):
            value, mask = _value_and_mask(text)
            if word in ("--set-xmark", "--set-mark", "--tproxy-mark"):
                yield ForeignMark(where, value, mask, given=True)
            elif word == "--mark":
                yield ForeignMark(where, value, mask, given=False)
        if not {"--save-mark", "--restore-mark"}.isdisjoint(words):
            copied = _ALL_BITS
            for word, text in pairwise(words):
                if word in ("--nfmask", "--ctmask", "--mask"):
                    copied &= _value_and_mask(text)[0]
            yield ForeignMark(where, copied, copied, given=False)


def _value_and_mask(text: str) -> tuple[int, int]:
    value, slash, mask = text.partition("/")
    try:
        return int(value, 0), int(mask, 0) if slash else _ALL_BITS
    except ValueError:
        return 0, 0


def _marks_of_rule(where: str, rule: str) -> Iterator[ForeignMark]:
    for found in _MIXED.finditer(rule):
        yield ForeignMark(where, int(found[2], 16), _ALL_BITS ^ int(found[1], 16), given=True)
    for found in _BITS.finditer(rule):
        yield ForeignMark(where, int(found[1], 16), int(found[1], 16), given=True)
    for found in _SET.finditer(rule):
        yield ForeignMark(where, int(found[1], 16), _ALL_BITS, given=True)
    for found in _COPIED.finditer(rule):
        mask = int(found[1], 16) if found[1] else _ALL_BITS
        yield ForeignMark(where, mask, mask, given=False)
    for found in _COMPARED.finditer(rule):
        yield ForeignMark(where, int(found[2], 16), int(found[1], 16) if found[1] else _ALL_BITS, given=False)


def overlaps(
    marks: Marks, rules: Iterable[PolicyRule], firewall: Iterable[ForeignMark], links: Iterable[Link]
) -> Overlaps:
    """Return what of others overlaps ``marks``. Pure."""
    certain: list[str] = []
    possible: list[str] = []
    for rule in rules:
        mask = _ALL_BITS if rule.mask is None else rule.mask
        if rule.mark is None or rule.protocol == NODE_PROTOCOL or not mask & marks.mask:
            continue
        if _is_one_of_ours(marks, rule.mark, mask):
            certain.append(f"{rule}: its packets have a mark of ours and would be sent to another node")
        elif rule.priority <= RULE_PRIORITY and not rule.inverted and _takes_all_of_ours(marks, rule.mark, mask):
            certain.append(f"{rule}: it comes before our rules ({RULE_PRIORITY}) and takes every packet that we mark")
        elif rule.mark & marks.mask:
            possible.append(f"{rule}: bits {mask & marks.mask:#010x}")
    for mark in firewall:
        if mark.given and _is_one_of_ours(marks, mark.value, mark.mask):
            certain.append(f"{mark.where}: it gives packets a mark of ours, which leads to another node")
        elif mark.value & mark.mask & marks.mask:
            possible.append(f"{mark.where}: bits {mark.value & mark.mask & marks.mask:#010x}")
    if not marks.value_mask & _CILIUM_MAGIC and any(link.name == _CILIUM for link in links):
        possible.append(
            f"interface {_CILIUM}: Cilium puts the identities of pods into bits 16 to 31; EGRESS_MARK="
            f"{marks.value:#x}/{marks.value_mask | _CILIUM_MAGIC:#x} tells ours apart"
        )
    return Overlaps(tuple(dict.fromkeys(certain)), tuple(dict.fromkeys(possible)))


def rules_before(marks: Marks, rules: Iterable[PolicyRule]) -> list[str]:
    """Return the policy rules of others that take the packets which we mark before our rules see them, a line each with
    what to do. Pure.

    ``ip rule add`` without a priority puts a rule before all others but the first (fib_default_rule_pref), and
    ``not fwmark`` is for every mark but its own: wg-quick(8) adds such a one, first when the agent runs already.
    """
    return [
        f"{rule}: it comes before our rules ({RULE_PRIORITY}) and takes the packets that we mark, so pods with egress "
        "IPs on other nodes send nothing. Give it a higher priority number (wg-quick: Table = off, and PostUp with "
        "`ip rule add ... priority 32765`), or add it before the agent starts for the first time"
        for rule in rules
        if rule.inverted
        and rule.mark is not None
        and rule.protocol != NODE_PROTOCOL
        and rule.priority <= RULE_PRIORITY
        and not _takes_all_of_ours(marks, rule.mark, _ALL_BITS if rule.mask is None else rule.mask)
    ]


def _is_one_of_ours(marks: Marks, value: int, mask: int) -> bool:
    return mask & marks.mask == marks.mask and marks.is_ours(value)


def _takes_all_of_ours(marks: Marks, value: int, mask: int) -> bool:
    """Return whether a comparison holds for each of our marks, with other bits 0."""
    return not mask & marks.slot_mask and value & mask == marks.value & mask


def check_marks(marks: Marks, kernel: RouteNetlink) -> list[str]:
    """Look for other programs' marks in the bits of ours, and return what there is, a line each. Raises
    ConfigurationError where packets would certainly be led astray, ours or theirs.
    """
    try:
        listing = run_tool(["nft", "-s", "-t", "list", "ruleset"])
    except ToolFailed as error:
        # An old nft cannot list what a new kernel has; the marks of policy rules count most.
        listing = ""
        unread = [f"other programs' nftables rules cannot be read: {error.stderr.strip() or error.status}"]
    else:
        unread = []
    legacy, unread_legacy = legacy_tables()
    firewall = [*marks_in(listing), *(mark for table in legacy for mark in marks_in_legacy(table))]
    found = overlaps(marks, kernel.rules(), firewall, kernel.links())
    if found.certain:
        expected = "choose a value that nobody has, such as EGRESS_MARK=0x30000000/0xf0000000; see docs/egress-ips.md"
        value = f"{marks.value:#x}/{marks.value_mask:#x}"
        raise ConfigurationError(
            [Problem("EGRESS_MARK", None, value, f"is in use: {text}", expected) for text in found.certain]
        )
    lines = [f"another program uses bits of our marks: {text}" for text in found.possible[:_TOLD]]
    if len(found.possible) > _TOLD:
        lines.append(f"{len(found.possible) - _TOLD} more rules use bits of our marks")
    return [*unread, *unread_legacy, *lines]
