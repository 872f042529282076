"""The nftables backend: one table of our own, by nft(8)."""

from __future__ import annotations

import difflib
from dataclasses import replace

from egress_router.errors import ToolFailed
from egress_router.kernel.tool import run_tool
from egress_router.model.nftables import NftTable
from egress_router.model.translation import Counters, Translation
from egress_router.render.nft_script import change_script, parse_table, replace_script, table_text
from egress_router.render.nft_table import TABLE, nft_table


class Nftables:
    """Implements ``NatBackend`` with the table ``inet egress_router``."""

    name = "nftables"

    def apply(self, desired: Translation) -> bool:
        """See NatBackend. Where only elements differ only elements change; else the table is replaced as a whole."""
        table = nft_table(desired)
        actual = read_table()
        script = replace_script(table) if actual is None else change_script(actual, table)
        if script == "":
            return False
        run_tool(["nft", "-f", "-"], replace_script(table) if script is None else script)
        return True

    def drift(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        table = nft_table(desired)
        actual = read_table()
        if actual == table:
            return []
        wanted = table_text(_sorted(table)).splitlines()
        found = [] if actual is None else table_text(_sorted(actual)).splitlines()
        return list(difflib.unified_diff(_split(wanted), _split(found), "desired", "actual", lineterm="", n=1))

    def counters(self, desired: Translation) -> dict[int, Counters]:
        """See NatBackend."""
        return read_counters(desired, run_tool(["nft", "list", "table", *TABLE.split()]))

    def remove(self) -> None:
        """See NatBackend."""
        run_tool(["nft", "-f", "-"], f"add table {TABLE}\ndelete table {TABLE}\n")


def read_table() -> NftTable | None:
    """Return our table as it is in the kernel, None when there is none. Raises ToolFailed."""
    try:
        return parse_table(run_tool(["nft", "-s", "list", "table", *TABLE.split()]))
    except ToolFailed as error:
        if "No such file or directory" in error.stderr:
            return None
        raise


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


def read_counters(desired: Translation, listing: str) -> dict[int, Counters]:
    """Add up the counters of ``nft list table`` by configuration line.

    Connections are what the maps of the nat chains counted (a connection's first packet), packets and bytes what the
    ``lines`` sets of the forward chains counted.
    """
    values = _element_counters(listing)
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
        connections = values.get((f"redirect{digit}", ""), (0, 0))[0]
        found[fallback.line] = Counters(connections, *values.get((f"count{digit}", ""), (0, 0)))
    return found


def _element_counters(listing: str) -> dict[tuple[str, str], tuple[int, int]]:
    """Return {(set or chain, element or ""): (packets, bytes)}; "" is the last counting rule of a chain, which is the
    fallback's in those of ours that are asked for.
    """
    found: dict[tuple[str, str], tuple[int, int]] = {}
    place, chain = "", False
    for raw in listing.splitlines():
        line = raw.strip()
        words = line.split()
        if len(words) == 3 and words[0] in ("set", "map", "chain"):
            place, chain = words[1], words[0] == "chain"
            continue
        for part in [line] if chain else line.removeprefix("elements = {").removesuffix("}").split(","):
            key, mark, rest = part.partition("counter packets ")
            if mark:
                packets, _, size = rest.split()[:3]
                found[(place, "" if chain else key.strip())] = (int(packets), int(size))
    return found
