"""What ``nft list table`` prints → a table as values, what its rules have counted, and what differs."""

from __future__ import annotations

from egress_router.config.patterns import pattern
from egress_router.net.nft.script import COUNTER, table_text
from egress_router.net.nft.values import NftChain, NftFlowtable, NftSet, NftTable
from egress_router.records import replace

_VALUES = r"(?:^|\s)counter packets (\d+) bytes (\d+)"
_COMMENT = 'comment "'


def parse_table(listing: str) -> NftTable:
    """Read what ``nft -s list table`` prints. Elements of counting sets lose their ``counter``."""
    lines = listing.splitlines()
    name = lines[0].removeprefix("table ").partition(" {")[0]
    sets: list[NftSet] = []
    chains: list[NftChain] = []
    counters: list[str] = []
    flowtables: list[NftFlowtable] = []
    index = 1
    while index < len(lines):
        words = lines[index].split()
        if len(words) == 3 and words[2] == "{" and words[0] in ("set", "map", "chain", "counter", "flowtable"):
            end = lines.index("\t}", index)
            body = lines[index + 1 : end]
            if words[0] == "chain":
                chains.append(_parse_chain(words[1], body))
            elif words[0] == "counter":
                counters.append(words[1])
            elif words[0] == "flowtable":
                flowtables.append(_parse_flowtable(words[1], body))
            else:
                sets.append(_parse_set(words[0], words[1], body))
            index = end
        index += 1
    return NftTable(name, tuple(sets), tuple(chains), tuple(counters), tuple(flowtables))


def _parse_flowtable(name: str, body: list[str]) -> NftFlowtable:
    """Read a flow table. Its hook is always the ingress, and versions of nft write its priority in several ways."""
    devices: list[str] = []
    options = []
    for line in (raw.strip() for raw in body):
        if line.startswith("devices = {"):
            devices = line.removeprefix("devices = {").removesuffix("}").replace('"', "").replace(",", " ").split()
        elif not line.startswith("hook "):
            options.append(line)
    return NftFlowtable(name, tuple(sorted(devices)), tuple(options))


def _parse_set(kind: str, name: str, body: list[str]) -> NftSet:
    header: list[str] = []
    comment = ""
    elements: dict[str, str | None] = {}
    for number, line in enumerate(body):
        if line.startswith("\t\telements = {"):
            text = " ".join(part.strip() for part in body[number:])
            text = text.removeprefix("elements = {").removesuffix("}").replace(COUNTER, "")
            for element in text.split(","):
                key, _, value = element.partition(" : ")
                elements[key.strip()] = value.strip() or None
            break
        if line.strip().startswith(_COMMENT):
            comment = _quoted(line)
        else:
            header.append(line.strip())
    return NftSet(kind, name, tuple(header), elements, comment)


def _parse_chain(name: str, body: list[str]) -> NftChain:
    rules = [line.strip() for line in body]
    comment = _quoted(rules.pop(0)) if rules and rules[0].startswith(_COMMENT) else ""
    hook = rules.pop(0) if rules and rules[0].startswith("type ") else None
    return NftChain(name, hook, tuple(rules), comment)


def _quoted(line: str) -> str:
    return line.strip().removeprefix(_COMMENT).removesuffix('"')


def rule_counters(listing: str) -> dict[tuple[str, str], tuple[int, int]]:
    """Return what the rules and the named counters in the output of ``nft list table`` have counted, as replace_script
    takes it.
    """
    found: dict[tuple[str, str], tuple[int, int]] = {}
    place = ""
    for raw in listing.splitlines():
        words = raw.split()
        if len(words) == 3 and words[2] == "{" and words[0] in ("chain", "counter", "set", "map", "flowtable"):
            place = f"{words[0]} {words[1]}"
        elif place.startswith("counter ") and len(words) == 4 and words[0] == "packets":
            found[(place, "")] = (int(words[1]), int(words[3]))
        elif place.startswith("chain "):
            values = pattern(_VALUES).search(raw)
            if values is not None:
                found[(place, pattern(_VALUES).sub(COUNTER, raw).strip())] = (int(values[1]), int(values[2]))
    return found


def difference(table: NftTable, actual: NftTable | None) -> list[str]:
    """Return a unified diff, desired against actual; empty when they are the same."""
    if actual is not None:
        actual = actual.in_order_of(table)
        timed = {item.name for item in table.sets if item.timed}
        emptied = (replace(item, elements={}) if item.name in timed else item for item in actual.sets)
        actual = replace(actual, sets=tuple(emptied))
    if actual == table:
        return []
    # Imported here: pods that start well never need it.
    import difflib

    wanted = table_text(_plain(table)).splitlines()
    found = [] if actual is None else table_text(_plain(actual)).splitlines()
    return list(difflib.unified_diff(_split(wanted), _split(found), "desired", "actual", lineterm="", n=1))


def _plain(table: NftTable) -> NftTable:
    """Return the table with elements in their order and without comments, which are not compared."""
    sets = (replace(item, elements=dict(sorted(item.elements.items())), comment="") for item in table.sets)
    return replace(table, sets=tuple(sets), chains=tuple(replace(chain, comment="") for chain in table.chains))


def _split(lines: list[str]) -> list[str]:
    """Give each element its own line, so that a diff shows the one that differs."""
    found: list[str] = []
    for line in lines:
        if "elements = {" in line:
            found += [f"\t\telement {part.strip()}" for part in line.strip()[len("elements = {") : -1].split(",")]
        else:
            found.append(line)
    return found
