"""The nftables backend: one table of our own, by nft(8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from egress_router.errors import StateMismatch, ToolFailed
from egress_router.kernel.nft_elements import Elements
from egress_router.kernel.tool import run_tool, start_tool
from egress_router.model.nftables import NftTable
from egress_router.model.translation import Counters, Translation
from egress_router.render.nft_script import change_script, parse_table, replace_script, rule_counters, table_text
from egress_router.render.nft_table import TABLE, nft_table

_Counted = dict[tuple[str, str], tuple[int, int]]


class Nftables:
    """Implements ``NatBackend`` with the table ``inet egress_router``."""

    name = "nftables"

    def apply(self, desired: Translation) -> bool:
        """See NatBackend. Where only elements differ only elements change; else the table is replaced as a whole."""
        return _put(nft_table(desired), read_table())

    def mend(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        table, actual = nft_table(desired), read_table()
        if table == actual:
            return []
        _put(table, actual)
        return _difference(table, actual)

    def drift(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        return _difference(nft_table(desired), read_table())

    def counters(self, desired: Translation) -> dict[int, Counters]:
        """See NatBackend."""
        listing = _listing("-t")
        if listing is None:
            return {}
        values = _chain_counters(listing)
        for name, elements in _elements(parse_table(listing)).items():
            values |= {(name, key): counted for key, (_, counted) in elements.items() if counted is not None}
        return _by_line(desired, values)

    def remove(self) -> None:
        """See NatBackend."""
        run_tool(["nft", "-f", "-"], f"add table {TABLE}\ndelete table {TABLE}\n")


def _put(table: NftTable, actual: NftTable | None) -> bool:
    """Make ``actual`` be ``table``; return whether anything had to change. Raises ToolFailed, StateMismatch."""
    script = replace_script(table) if actual is None else change_script(actual, table)
    if script == "":
        return False
    if script is None and actual is not None:
        script = replace_script(table, _counted(actual))
    run_tool(["nft", "-f", "-"], script or replace_script(table))
    difference = _difference(table, read_table(table))
    if difference:
        raise StateMismatch(
            "the nftables table that was read back is not the one that was loaded:\n" + "\n".join(difference)
        )
    return True


def _listing(*options: str) -> str | None:
    """Return our table as nft lists it, None when there is none. Raises ToolFailed."""
    return _unless_absent(start_tool(["nft", *options, "list", "table", *TABLE.split()]))


def _unless_absent(finish: Callable[[], str]) -> str | None:
    try:
        return finish()
    except ToolFailed as error:
        if "No such file or directory" in error.stderr:
            return None
        raise


def read_table(like: NftTable | None = None) -> NftTable | None:
    """Return our table as it is in the kernel, None when there is none. Raises PlatformError.

    Chains and the sets' types are read with nft, elements by netlink: nft takes half a second for ten thousand. With a
    table that it should be ``like``, both are done at the same time.
    """
    finish = start_tool(["nft", "-s", "-t", "list", "table", *TABLE.split()])
    elements = _elements(like) if like is not None else None
    listing = _unless_absent(finish)
    if listing is None:
        return None
    table = parse_table(listing)
    if elements is None or like is None or [s.header for s in like.sets] != [s.header for s in table.sets]:
        elements = _elements(table)
    sets = tuple(
        replace(item, elements={key: value for key, (value, _) in elements[item.name].items()}) for item in table.sets
    )
    return replace(table, sets=sets)


def _elements(table: NftTable) -> dict[str, dict[str, tuple[str | None, tuple[int, int] | None]]]:
    reader = Elements(table.name.split()[1])
    try:
        return {
            item.name: reader.read(item.name, item.header[0], interval="flags interval" in item.header)
            for item in table.sets
        }
    finally:
        reader.close()


def _counted(table: NftTable) -> _Counted:
    """Return what every element and rule of ``table`` has counted, for the table that takes its place."""
    found = rule_counters(_listing("-t") or "")
    for name, elements in _elements(table).items():
        found |= {(name, key): counted for key, (_, counted) in elements.items() if counted is not None}
    return found


def _difference(table: NftTable, actual: NftTable | None) -> list[str]:
    if actual == table:
        return []
    # Imported here: pods that start well never need it.
    import difflib

    wanted = table_text(_sorted(table)).splitlines()
    found = [] if actual is None else table_text(_sorted(actual)).splitlines()
    return list(difflib.unified_diff(_split(wanted), _split(found), "desired", "actual", lineterm="", n=1))


def _sorted(table: NftTable) -> NftTable:
    sets = tuple(replace(item, elements=dict(sorted(item.elements.items()))) for item in table.sets)
    return replace(table, sets=sets)


def _split(lines: list[str]) -> list[str]:
    """Give each element its own line, so that a diff shows the one that differs."""
    found: list[str] = []
    for line in lines:
        if "elements = {" in line:
            found += [f"\t\telement {part.strip()}" for part in line.strip()[len("elements = {") : -1].split(",")]
        else:
            found.append(line)
    return found


def _by_line(desired: Translation, values: _Counted) -> dict[int, Counters]:
    """Add up counters by configuration line.

    Connections are what the maps of the nat chains counted (a connection's first packet), packets and bytes what the
    ``lines`` sets of the forward chains counted.
    """
    found: dict[int, Counters] = {}
    for rule in desired.rules.redirects:
        digit = rule.family.value
        if rule.same_ports and len(rule.ports) > 1:
            connections = values.get((f"redirect{digit}_{rule.protocol}", str(rule.ports)), (0, 0))[0]
        else:
            ports = range(rule.ports.first, rule.ports.last + 1)
            name = f"redirect{digit}"
            connections = sum(values.get((name, f"{rule.protocol} . {port}"), (0, 0))[0] for port in ports)
        packets, size = values.get((f"lines{digit}_{rule.protocol}", str(rule.ports)), (0, 0))
        found[rule.line] = Counters(connections, packets, size)
    for fallback in desired.rules.fallbacks:
        digit = fallback.family.value
        connections = values.get((f"chain redirect{digit}", ""), (0, 0))[0]
        found[fallback.line] = Counters(connections, *values.get((f"chain count{digit}", ""), (0, 0)))
    return found


def _chain_counters(listing: str) -> _Counted:
    """Return {("chain NAME", ""): (packets, bytes)} of the last counting rule of each chain: the fallback's."""
    found: _Counted = {}
    place = ""
    for raw in listing.splitlines():
        words = raw.split()
        if len(words) == 3 and words[0] == "chain":
            place = f"chain {words[1]}"
        elif (
            place
            and "counter" in words
            and words[words.index("counter") + 1 : words.index("counter") + 2] == ["packets"]
        ):
            at = words.index("counter")
            found[(place, "")] = (int(words[at + 2]), int(words[at + 4]))
    return found
