"""Our part of the iptables tables as text, in the form of iptables-save(8)."""

from __future__ import annotations

from collections.abc import Iterable

from egress_router.model.iptables import IptTable


def iptables_text(tables: Iterable[IptTable]) -> str:
    """Return the tables for ``iptables-restore --noflush``; ours stand first in the built-in chains."""
    lines: list[str] = []
    for table in tables:
        if not table.chains:
            continue
        lines.append(f"*{table.name}")
        lines += [f":{name} - [0:0]" for name in table.chains]
        for chain, rules in table.chains.items():
            lines += [f"-A {chain} {rule}" for rule in rules]
        counts: dict[str, int] = {}
        for chain, rule in table.hooks:
            counts[chain] = counts.get(chain, 0) + 1
            lines.append(f"-I {chain} {counts[chain]} {rule}")
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)
