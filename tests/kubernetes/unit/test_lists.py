"""A list that is read member by member, as the standard library reads the whole."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from egress_router.kubernetes.informer import list_members

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["items", "metadata", "kind", 'a"b', "é"]), json_values), st.sampled_from([None, 2])
)
def test_members_of_a_list_come_one_by_one(value: dict[str, Any], indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    found: dict[str, Any] = {}
    items: list[object] = []
    for name, member in list_members(text):
        if name == "items" and isinstance(value["items"], list):
            items.append(member)
        else:
            found[name] = member
    if isinstance(value.get("items"), list):
        found["items"] = items
    assert found == value


@example("{}0")
@example('{"a":1,}')
@example('{"items":[1,]}')
@example('{"items":[1 2]}')
@given(st.text(alphabet='{}[]",:itemsnull10 ', max_size=30))
def test_what_is_no_json_object_is_refused(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    try:
        members = list(list_members(text))
    except ValueError:
        members = None
    assert (members is not None) == isinstance(expected, dict)
