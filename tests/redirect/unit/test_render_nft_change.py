"""A change of elements is applied as such; any other change replaces the table."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from egress_router.net.nft.script import change_script, element_changes, replace_script, table_text
from egress_router.net.nft.values import NftChain, NftSet, NftTable

WORDS = st.sampled_from(["80", "81-90", "tcp . 443", "203.0.113.1", "203.0.113.1 . 443"])


@st.composite
def element_maps(draw: st.DrawFn, *, values: bool) -> dict[str, str | None]:
    return {key: draw(WORDS) if values else None for key in draw(st.lists(WORDS, unique=True))}


def table(first: dict[str, str | None], second: dict[str, str | None]) -> NftTable:
    sets = (NftSet("map", "a", ("type x : y", "counter"), first), NftSet("set", "b", ("type x",), second))
    return NftTable("inet t", sets, (NftChain("c", "type nat hook x;", ("rule",)),))


def run(script: str, old: NftTable) -> dict[str, dict[str, str | None]]:
    """Obey ``add element`` and ``delete element``; an element to delete must be there, one to add must not."""
    sets = {item.name: dict(item.elements) for item in old.sets}
    for line in script.splitlines():
        head, _, body = line.partition(" { ")
        verb, word, family, name, of = head.split()
        assert (word, f"{family} {name}") == ("element", old.name)
        for element in body.removesuffix(" }").split(", "):
            key, colon, value = element.partition(" : ")
            if verb == "delete":
                assert not colon
                del sets[of][key]
            else:
                assert verb == "add"
                assert key not in sets[of]
                sets[of][key] = value or None
    return sets


TABLES = st.builds(table, element_maps(values=True), element_maps(values=False))


@given(TABLES, TABLES)
def test_elements_alone(old: NftTable, new: NftTable) -> None:
    changes = element_changes(old, new)
    assert changes is not None
    assert run(change_script(changes, old.name), old) == {item.name: item.elements for item in new.sets}
    assert (changes == ()) == (old == new)


def test_other_changes_need_a_new_table() -> None:
    old = table({}, {})
    chain = NftChain("c", "type nat hook x;", ("another rule",))
    assert element_changes(old, replace(old, chains=(chain,))) is None
    assert element_changes(old, replace(old, sets=old.sets[:1])) is None
    assert element_changes(old, replace(old, sets=(replace(old.sets[0], header=("type z : y",)), old.sets[1]))) is None


def test_replacing_is_one_transaction_that_begins_with_nothing() -> None:
    new = table({"80": "x"}, {})
    assert replace_script(new) == f"add table inet t\ndelete table inet t\n{table_text(new)}"
