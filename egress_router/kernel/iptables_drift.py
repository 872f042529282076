"""How a table of legacy iptables differs from what it should be, in the words of iptables(8)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from egress_router.model.iptables import PREFIX, IptRule, IptTable


def chain_lines(
    table: str, chain: str, rules: Sequence[IptRule], want: Sequence[Hashable], have: Sequence[Hashable]
) -> list[str]:
    """Return the differences of a chain. ``want`` is what stands for ``rules``, ``have`` what stands there."""
    if list(have) == list(want):
        return []
    there, known = set(have), set(want)
    missing = [rule for rule, data in zip(rules, want, strict=True) if data not in there]
    found = [f"- -t {table} -A {chain} {rule}" for rule in missing]
    count = sum(data not in known for data in have)
    if count:
        found.append(f"+ -t {table} {chain}: {count} rules that are not ours")
    if not missing and not count:
        found.append(f"- -t {table} {chain}: the order of its rules")
    return found


def hook_lines(table: IptTable) -> list[str]:
    """Return what to say of a table whose built-in chains do not jump to ours as they should."""
    return [f"- -t {table.name} -I {chain} {rule}" for chain, rule in table.hooks] or [
        f"+ -t {table.name}: a built-in chain jumps to {PREFIX}*"
    ]
