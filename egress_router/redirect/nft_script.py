"""Table → the script for ``nft -f``, and what ``nft list table`` says → table. See nft(8)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from egress_router.net.nft.values import NftChain, NftSet, NftTable, SetChange
from egress_router.redirect.nft_names import in_order, of_a_name

#: (set name, key) or ("chain NAME", rule) → (packets, bytes)
Counted = Mapping[tuple[str, str], tuple[int, int]]

#: nft commands: those before elements are changed, and those after.
ChainChanges = tuple[Sequence[str], Sequence[str]]

_COUNTER = " counter"
_BARE = re.compile(r"\bcounter\b")
_VALUES = re.compile(r"(?:^|\s)counter packets (\d+) bytes (\d+)")


def table_text(table: NftTable, counted: Counted = MappingProxyType({})) -> str:
    """Return the table as ``nft -s list table`` prints it, with elements in our order, one line for each set; with the
    values of ``counted``, as ``nft list table`` does.
    """
    blocks = ["\n".join(_set_lines(item, counted)) for item in table.sets]
    blocks += ["\n".join(_chain_lines(chain, counted)) for chain in table.chains]
    return f"table {table.name} {{\n" + "\n\n".join(blocks) + "\n}\n"


def replace_script(table: NftTable, counted: Counted = MappingProxyType({})) -> str:
    """Return the script that puts ``table`` in the place of whatever has its name, in one transaction.

    ``add`` before ``delete`` makes it work whether or not the table exists. Counters start at ``counted``.
    """
    return f"add table {table.name}\ndelete table {table.name}\n{table_text(table, counted)}"


def rule_counters(listing: str) -> dict[tuple[str, str], tuple[int, int]]:
    """Return what the rules in the output of ``nft list table`` have counted, as replace_script takes it."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    place = ""
    for raw in listing.splitlines():
        words = raw.split()
        if len(words) == 3 and words[0] == "chain":
            place = f"chain {words[1]}"
        values = _VALUES.search(raw)
        if place and values is not None:
            found[(place, _VALUES.sub(_COUNTER, raw).strip())] = (int(values[1]), int(values[2]))
    return found


def element_changes(old: NftTable, new: NftTable) -> tuple[SetChange, ...] | None:
    """Return what turns ``old`` into ``new`` by elements (and the chains of names) alone, so that all else keeps its
    counters and connections; None when more than that differs, nothing when no element does.
    """
    fixed = [[chain for chain in table.chains if not of_a_name(chain.name)] for table in (old, new)]
    if fixed[0] != fixed[1] or [_frame(s) for s in old.sets] != [_frame(s) for s in new.sets]:
        return None
    changes = []
    for before, after in zip(old.sets, new.sets, strict=True):
        if before.elements != after.elements:
            gone = dict(before.elements.items() - after.elements.items())
            come = dict(after.elements.items() - before.elements.items())
            changes.append(SetChange(after, gone, come))
    return tuple(changes)


def chain_changes(old: NftTable, new: NftTable) -> ChainChanges:
    """Return what changes the chains of names: what makes and fills them, and what removes them."""
    was = {chain.name: chain for chain in old.chains if of_a_name(chain.name)}
    wanted = {chain.name: chain for chain in new.chains if of_a_name(chain.name)}
    first = [f"add chain {new.name} {name}" for name in wanted if name not in was]
    first += [line for name, chain in wanted.items() if was.get(name) != chain for line in fill_chain(new.name, chain)]
    gone = [name for name in was if name not in wanted]
    return first, [f"{verb} chain {new.name} {name}" for verb in ("flush", "delete") for name in gone]


def fill_chain(table: str, chain: NftChain) -> list[str]:
    """Return the commands that give a chain its rules, whatever it has now."""
    return [f"flush chain {table} {chain.name}", *(f"add rule {table} {chain.name} {rule}" for rule in chain.rules)]


def change_script(changes: Iterable[SetChange], table: str, chains: ChainChanges = ((), ())) -> str:
    """Return the script that makes ``changes`` in ``table``, one transaction. Elements name chains that exist, so
    chains are made before and removed after.
    """
    removals, additions = [], []
    for change in changes:
        name = f"{table} {change.item.name}"
        if change.removed:
            removals.append(f"delete element {name} {{ {', '.join(change.removed)} }}")
        if change.added:
            elements = ", ".join(_element(key, value) for key, value in change.added.items())
            additions.append(f"add element {name} {{ {elements} }}")
    return "".join(f"{line}\n" for line in (*chains[0], *removals, *additions, *chains[1]))


def without_elements(table: NftTable) -> NftTable:
    """Return the table with empty sets."""
    return replace(table, sets=tuple(replace(item, elements={}) for item in table.sets))


def _frame(item: NftSet) -> tuple[str, str, tuple[str, ...]]:
    return (item.kind, item.name, item.header)


def _element(key: str, value: str | None) -> str:
    return key if value is None else f"{key} : {value}"


def _counter(counted: Counted, place: str, what: str) -> str:
    values = counted.get((place, what))
    return _COUNTER if values is None else f" counter packets {values[0]} bytes {values[1]}"


def _set_lines(item: NftSet, counted: Counted) -> Iterator[str]:
    yield f"\t{item.kind} {item.name} {{"
    for line in item.header:
        yield f"\t\t{line}"
    if item.elements:
        keys = {key: key for key in item.elements}
        if counted and "counter" in item.header:
            keys = {key: key + _counter(counted, item.name, key) for key in item.elements}
        yield f"\t\telements = {{ {', '.join(_element(keys[k], v) for k, v in item.elements.items())} }}"
    yield "\t}"


def _chain_lines(chain: NftChain, counted: Counted) -> Iterator[str]:
    yield f"\tchain {chain.name} {{"
    if chain.hook is not None:
        yield f"\t\t{chain.hook}"
    for rule in chain.rules:
        kept = f"\t\t{rule}"
        if (f"chain {chain.name}", rule) in counted:
            kept = _BARE.sub(_counter(counted, f"chain {chain.name}", rule).strip(), kept)
        yield kept
    yield "\t}"


def parse_table(listing: str) -> NftTable:
    """Read what ``nft -s list table`` prints. Elements of counting sets lose their ``counter``."""
    lines = listing.splitlines()
    name = lines[0].removeprefix("table ").removesuffix(" {")
    sets: list[NftSet] = []
    chains: list[NftChain] = []
    index = 1
    while index < len(lines):
        words = lines[index].split()
        if len(words) == 3 and words[0] in ("set", "map"):
            end = lines.index("\t}", index)
            sets.append(_parse_set(words[0], words[1], lines[index + 1 : end]))
            index = end
        elif len(words) == 3 and words[0] == "chain":
            end = lines.index("\t}", index)
            chains.append(_parse_chain(words[1], lines[index + 1 : end]))
            index = end
        index += 1
    return NftTable(name, tuple(sets), in_order(chains))


def _parse_set(kind: str, name: str, body: list[str]) -> NftSet:
    header: list[str] = []
    elements: dict[str, str | None] = {}
    for number, line in enumerate(body):
        if line.startswith("\t\telements = {"):
            text = " ".join(part.strip() for part in body[number:])
            text = text.removeprefix("elements = {").removesuffix("}").replace(_COUNTER, "")
            for element in text.split(","):
                key, _, value = element.partition(" : ")
                elements[key.strip()] = value.strip() or None
            break
        header.append(line.strip())
    return NftSet(kind, name, tuple(header), elements)


def _parse_chain(name: str, body: list[str]) -> NftChain:
    rules = [line.strip() for line in body]
    hook = rules.pop(0) if rules and rules[0].startswith("type ") else None
    return NftChain(name, hook, tuple(rules))
