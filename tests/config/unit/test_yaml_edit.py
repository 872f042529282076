"""A list is changed, and every other byte stays."""

from __future__ import annotations

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.kubernetes_yaml import YamlError, parse_documents
from egress_router.config.yaml_edit import set_list

TEXT = """\
# who leaves with what
apiVersion: network.openshift.io/v1
kind: NetNamespace   # of the SDN
metadata:
  name: toto
  creationTimestamp: 2018-10-01T10:00:00Z
  annotations: {window: 22:22, mac: 021122334455, a: "1e3", 'b':   "y",
     c: yes}
netname: toto
egressIPs:   # the preferred first
  # in the first hall
  - 192.0.2.45  # rack 1
  - "192.0.2.46"
  # nothing more
netid: 12
---
kind: HostSubnet
metadata: {name: n1}
description: |
  several
  lines
"""


def difference(old: str, new: str) -> list[str]:
    lines = difflib.ndiff(old.splitlines(keepends=True), new.splitlines(keepends=True))
    return [line.rstrip("\n") for line in lines if line[:1] in "+-"]


def test_only_the_field_changes() -> None:
    new = set_list(TEXT, "NetNamespace", "toto", "egressIPs", ["192.0.2.54", "192.0.2.45", "2001:db8::1"])
    assert difference(TEXT, new) == ["+   - 192.0.2.54", '-   - "192.0.2.46"', "+   - 2001:db8::1"]
    new = set_list(TEXT, "HostSubnet", "n1", "egressIPs", ["192.0.2.54"])
    assert difference(TEXT, new) == ["+ egressIPs: [192.0.2.54]"]
    new = set_list(TEXT, "NetNamespace", "toto", "egressIPs", [])
    assert "egressIPs: []   # the preferred first\n  # nothing more\nnetid: 12\n" in new
    assert [line for line in difference(TEXT, new) if line[0] == "+"] == ["+ egressIPs: []   # the preferred first"]


def test_comments_go_with_the_line_below() -> None:
    head = "kind: HostSubnet\nmetadata: {name: n1}\negressIPs:\n"
    text = head + "- a\n\n# about b\n- b # rack\n# about c\n- c\n# end\n"
    assert set_list(text, "HostSubnet", "n1", "egressIPs", ["b"]) == head + "\n# about b\n- b # rack\n# end\n"
    new = set_list(text, "HostSubnet", "n1", "egressIPs", ["c", "a"])
    assert new == head + "# about c\n- c\n- a\n# end\n"


def test_lists_of_one_kind_may_leave_it_out() -> None:
    text = "kind: NetNamespaceList\nitems:\n- metadata: {name: toto}\n  netid: 1\n- metadata: {name: b}\n"
    assert difference(text, set_list(text, "NetNamespace", "toto", "egressIPs", ["a"])) == ["+   egressIPs: [a]"]


def test_json_with_a_line_for_each_field_gets_one_more() -> None:
    text = '{\n    "kind": "HostSubnet",\n    "metadata": {\n        "name": "n1"\n    }\n}\n'
    new = set_list(text, "HostSubnet", "n1", "egressIPs", ["a"])
    assert new.endswith('    },\n    "egressIPs": ["a"]\n}\n')


def test_what_is_set_to_what_it_is_stays() -> None:
    assert set_list(TEXT, "NetNamespace", "toto", "egressIPs", ["192.0.2.45", "192.0.2.46"]) == TEXT


def test_line_ends_stay() -> None:
    text = TEXT.replace("\n", "\r\n")
    for kind, name in (("NetNamespace", "toto"), ("HostSubnet", "n1")):
        new = set_list(text, kind, name, "egressIPs", ["192.0.2.54", "192.0.2.45"])
        assert "\n" not in new.replace("\r\n", "")


FORMS = [
    "kind: NetNamespace\nmetadata: {name: toto}\negressIPs:\nnetid: 1\n",
    "kind: NetNamespace\nmetadata: {name: toto}\negressIPs: null\n",
    "kind: NetNamespace\nmetadata: {name: toto}\negressIPs: ~",
    "kind: NetNamespace\nmetadata: {name: toto}\negressIPs:\n- a",
    "kind: NetNamespace\nmetadata: {name: toto}\negressIPs:\n- a\n- b # x\nz: 1",
    "kind: NetNamespace\nmetadata: {name: toto}\negressIPs: [\n  a, # c\n  b\n]\n",
    "kind: NetNamespace\nmetadata: {name: toto}",
    "kind: NetNamespace\nmetadata:\n  name: toto\n  text: >-\n    folded\n    text\n\n\n# end\n",
    "\ufeffkind: NetNamespace\nmetadata: {name: toto, é: ü😀}\negressIPs: [é]\n",
    "x: &i [a]\nkind: NetNamespace\nmetadata: {name: toto}\negressIPs: *i",
    "items:\n- kind: NetNamespace\n  egressIPs: ['a']\n  metadata:\n    name: toto\nkind: List",
    "kind: List\nitems:\n- metadata: {name: toto}\n  kind: NetNamespace\n- kind: NetNamespace\n  metadata: {name: b}\n",
    '{\n\t"kind": "List", "items": [{"kind": "NetNamespace", "metadata": {"name": "toto"}, "netid": 1e3}]\n}\n',
    '{"kind": "NetNamespace", "metadata": {"name": "toto"}, "egressIPs": [\n  "a",\n  "b"\n], "netid": 1.0}',
    "{kind: NetNamespace, metadata: {name: toto}}",
]


@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize(
    "values", [["192.0.2.54", "2001:db8::54"], ["a"], [], ["y", "08", "1e3", "22:22", "#", "a: b"]]
)
def test_every_form(text: str, values: list[str]) -> None:
    new = set_list(text, "NetNamespace", "toto", "egressIPs", values)
    (document,) = parse_documents(new)
    items = document.value["items"] if document.value["kind"] == "List" else [document.value]
    (item,) = [one for one in items if one["metadata"]["name"] == "toto"]
    assert item["egressIPs"] == values
    assert new.startswith("\ufeff") == text.startswith("\ufeff")
    assert ('"kind"' in text) == ('"egressIPs": [' in new)


@given(st.lists(st.text(max_size=10), max_size=4), st.sampled_from(FORMS))
def test_any_texts(values: list[str], text: str) -> None:
    (document,) = parse_documents(set_list(text, "NetNamespace", "toto", "egressIPs", values))
    found = document.value["items"] if document.value["kind"] == "List" else [document.value]
    assert [one["egressIPs"] for one in found if one["metadata"]["name"] == "toto"] == [values]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("kind: NetNamespace\nmetadata: {name: toto}\negressIPs: &i [a]\nx: *i", "by hand"),
        ("a: &a {kind: NetNamespace, metadata: {name: toto}}\n---\nkind: List\nitems: []\n", "0 times"),
        ("kind: List\nitems:\n- &a {kind: NetNamespace, metadata: {name: toto}}\n- *a\n", "2 times"),
    ],
)
def test_what_cannot_be_changed_alone_is_refused(text: str, part: str) -> None:
    with pytest.raises(YamlError, match=part):
        set_list(text, "NetNamespace", "toto", "egressIPs", ["192.0.2.54"])
