"""A table as values → the text that nft(8) loads: as a whole, or only what changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from egress_router.config.patterns import pattern
from egress_router.net.nft.values import NftChain, NftFlowtable, NftSet, NftTable, SetChange

#: (set name, key), ("chain NAME", rule) or ("counter NAME", "") → (packets, bytes)
Counted = Mapping[tuple[str, str], tuple[int, int]]
#: nft commands: those before elements are changed, and those after.
ChainChanges = tuple[Sequence[str], Sequence[str]]

COUNTER = " counter"
_BARE = r"\bcounter\b(?! name)"
_NOTHING: Counted = MappingProxyType({})


def table_text(table: NftTable, counted: Counted = _NOTHING) -> str:
    """Return the table as ``nft -s list table`` prints it, with elements in our order, one line for each set; with the
    values of ``counted``, as ``nft list table`` does.
    """
    blocks = ["\n".join(_counter_lines(name, counted)) for name in table.counters]
    blocks += ["\n".join(_flowtable_lines(item)) for item in table.flowtables]
    blocks += ["\n".join(_set_lines(item, counted)) for item in table.sets]
    blocks += ["\n".join(_chain_lines(chain, counted)) for chain in table.chains]
    return f"table {table.name} {{\n" + "\n\n".join(blocks) + "\n}\n"


def replace_script(table: NftTable, counted: Counted = _NOTHING) -> str:
    """Return the script that puts ``table`` in the place of whatever has its name, in one transaction. Counters start
    at ``counted``.
    """
    return f"{remove_script(table.name)}{table_text(table, counted)}"


def remove_script(name: str) -> str:
    """Return the script that removes a table; ``add`` before ``delete`` makes it work whether or not there is one."""
    return f"add table {name}\ndelete table {name}\n"


def element_changes(old: NftTable, new: NftTable) -> tuple[SetChange, ...] | None:
    """Return what turns ``old`` into ``new`` by elements and dynamic chains alone, so that all else keeps its counters
    and connections; None when more than that differs, nothing when no element does.
    """
    lasting = {chain.name for chain in new.chains if not chain.dynamic}
    fixed = [[chain for chain in table.chains if chain.name in lasting] for table in (old, new)]
    hooked = any(chain.hook for chain in old.chains if chain.name not in lasting)
    frames = [[_frame(item) for item in table.sets] for table in (old, new)]
    kept = old.counters == new.counters and old.flowtables == new.flowtables
    if fixed[0] != fixed[1] or hooked or frames[0] != frames[1] or not kept:
        return None
    changes = []
    for before, after in zip(old.sets, new.sets, strict=True):
        # Sets of ten thousand elements are often the same object.
        if before.elements is after.elements or after.timed or before.elements == after.elements:
            continue
        differing = sorted({key for key, _ in before.elements.items() ^ after.elements.items()})
        gone, come = (
            {key: item.elements[key] for key in differing if key in item.elements} for item in (before, after)
        )
        changes.append(SetChange(after, gone, come))
    return tuple(changes)


def chain_changes(old: NftTable, new: NftTable) -> ChainChanges:
    """Return what changes the dynamic chains: what makes and fills them, and what removes them."""
    lasting = {chain.name for chain in new.chains if not chain.dynamic}
    was = {chain.name: chain for chain in old.chains if chain.name not in lasting}
    wanted = {chain.name: chain for chain in new.chains if chain.dynamic}
    first = [_add_chain(new.name, chain) for name, chain in wanted.items() if name not in was]
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


def _add_chain(table: str, chain: NftChain) -> str:
    comment = f' {{ comment "{chain.comment}"; }}' if chain.comment else ""
    return f"add chain {table} {chain.name}{comment}"


def _frame(item: NftSet) -> tuple[str, str, tuple[str, ...]]:
    return (item.kind, item.name, item.header)


def _element(key: str, value: str | None) -> str:
    return key if value is None else f"{key} : {value}"


def _counter(counted: Counted, place: str, what: str) -> str:
    values = counted.get((place, what))
    return COUNTER if values is None else f" counter packets {values[0]} bytes {values[1]}"


def _counter_lines(name: str, counted: Counted) -> Iterator[str]:
    packets, size = counted.get((f"counter {name}", ""), (0, 0))
    yield f"\tcounter {name} {{"
    if packets or size:
        yield f"\t\tpackets {packets} bytes {size}"
    yield "\t}"


def _flowtable_lines(item: NftFlowtable) -> Iterator[str]:
    yield f"\tflowtable {item.name} {{"
    yield "\t\thook ingress priority filter"
    # Quoted: a name may begin with a digit.
    names = ", ".join(f'"{name}"' for name in item.devices)
    yield f"\t\tdevices = {{ {names} }}"
    for line in item.options:
        yield f"\t\t{line}"
    yield "\t}"


def _set_lines(item: NftSet, counted: Counted) -> Iterator[str]:
    yield f"\t{item.kind} {item.name} {{"
    for line in item.header:
        yield f"\t\t{line}"
    if item.comment:
        yield f'\t\tcomment "{item.comment}"'
    if item.elements:
        keys = {key: key for key in item.elements}
        if counted and "counter" in item.header:
            keys = {key: key + _counter(counted, item.name, key) for key in item.elements}
        yield f"\t\telements = {{ {', '.join(_element(keys[k], v) for k, v in item.elements.items())} }}"
    yield "\t}"


def _chain_lines(chain: NftChain, counted: Counted) -> Iterator[str]:
    yield f"\tchain {chain.name} {{"
    if chain.comment:
        yield f'\t\tcomment "{chain.comment}"'
    if chain.hook is not None:
        yield f"\t\t{chain.hook}"
    for rule in chain.rules:
        kept = f"\t\t{rule}"
        if (f"chain {chain.name}", rule) in counted:
            kept = pattern(_BARE).sub(_counter(counted, f"chain {chain.name}", rule).strip(), kept)
        yield kept
    yield "\t}"
