"""The one reader of manifests and cluster objects: scalars, keys, limits, as Kubernetes has them."""

from __future__ import annotations

import json
import time
import tracemalloc
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.kubernetes_yaml import MAX_NODES, YamlError, parse_documents, parse_json, scalar

#: What `kubectl apply --dry-run=client -o json` makes of an unquoted value (sigs.k8s.io/yaml, goyaml.v2's resolve()).
SCALARS: dict[str, object] = {
    "y": True,
    "Y": True,
    "yes": True,
    "on": True,
    "TRUE": True,
    "n": False,
    "No": False,
    "OFF": False,
    "~": None,
    "null": None,
    "Null": None,
    "oN": "oN",
    "nUll": "nUll",
    "08": 8.0,
    "09": 9.0,
    "-08": -8.0,
    "00": 0,
    "017": 15,
    "0o17": 15,
    "0O17": 15,
    "0x1F": 31,
    "0XfF": 255,
    "0b101": 5,
    "-0b101": -5,
    "+5": 5,
    "1_000": 1000,
    "1__0": 10,
    "010_0": 64,
    "18446744073709551615": 18446744073709551615,
    "18446744073709551616": 18446744073709551616.0,
    "-9223372036854775808": -9223372036854775808,
    "1.": 1.0,
    "10.": 10.0,
    ".5": 0.5,
    "+.5": 0.5,
    "1e3": 1000.0,
    "12e03": 12000.0,
    "1.5E-3": 0.0015,
    "1e": "1e",
    "1e400": "1e400",
    "0x": "0x",
    "0xg": "0xg",
    "0b2": "0b2",
    "_1": "_1",
    "-": "-",
    "+": "+",
    ".": ".",
    "..": "..",
    ".e3": ".e3",
    "1.2.3": "1.2.3",
    "22:22": "22:22",
    "190:20:30": "190:20:30",
    "02:11:22:33:44:55": "02:11:22:33:44:55",
    "2001:10:20:30:40:50:51:52": "2001:10:20:30:40:50:51:52",
    "2001:db8::1": "2001:db8::1",
    "2018-10-01": "2018-10-01",
    "2001-99-99": "2001-99-99",
    "2018-10-01T10:00:00Z": "2018-10-01T10:00:00Z",
    "2018-10-01 10:00:00": "2018-10-01 10:00:00",
    "192.0.2.46": "192.0.2.46",
    "192.0.2.46/24": "192.0.2.46/24",
    "=": "=",
    "NaN": "NaN",
    "inf": "inf",
    "none": "none",
    "123abc": "123abc",
}


@pytest.mark.parametrize("text", SCALARS)
def test_plain_scalars(text: str) -> None:
    found = scalar(text)
    assert (type(found), found) == (type(SCALARS[text]), SCALARS[text])
    if text not in ("-",):
        (document,) = parse_documents(f"a: {text}\nb: '{text}'\nc: \"{text}\"\nd: !!str {text}\n")
        assert document.value == {"a": found, "b": text, "c": text, "d": text}


@pytest.mark.parametrize("text", [".inf", "-.Inf", "+.INF", ".nan", "9" * 65, "0x" + "f" * 70])
def test_numbers_that_json_does_not_have(text: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse_documents(f"x: 1\na: {text}\n")
    assert caught.value.line == 2


def test_keys_are_texts() -> None:
    (document,) = parse_documents("1: a\ny: b\n1.5: c\n'2': d\n")
    assert document.value == {"1": "a", "true": "b", "1.5": "c", "2": "d"}


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 'the key "a" twice'),
        ("a: 1\n'a': 3\n", 2, "twice"),
        ("1: a\n'1': b\n", 2, "twice"),
        ("x:\n  - {a: 1, a: 2}\n", 2, "twice"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', None, 'the key "c" twice'),
        ("? [a]\n: b\n", 1, "as a key"),
        ("~: b\n", 1, "no text"),
        ("a: &a [1, *a]\n", 1, "holds itself"),
        ("&a {kind: List, items: [*a]}", 1, "holds itself"),
        ("a: *b\n", 1, '"b" that is not there'),
        ("[" * 100_000, 1, "deeper"),
        ("[\n" * 1500, 201, "deeper"),
        ("- " * 1500, 1, "deeper"),
        ('{"a":' * 100_000, None, "deeper"),
        ("a: [", 2, "is not YAML"),
        ("a: \x00", 1, "control characters"),
        ("a: !!int 08", 1, "no !!int"),
        ("a: !!binary '=====a'", 1, "base64"),
        ("<<: [1]\n", 1, '"<<"'),
        ('{"a": ' + "9" * 5000 + "}", None, "5000"),
    ],
)
def test_errors_name_their_line(text: str, line: int | None, part: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse_documents(text)
    assert part in caught.value.message
    assert caught.value.line == line


def test_tabs_merges_anchors_and_documents() -> None:
    text = "a: b\t# comment\n---\n---\nbase: &base {x: 1, y1: 2}\nmore: {<<: *base, x: 3}\nlist: [*base, *base]\n...\n"
    first, second = parse_documents("\ufeff" + text)
    assert first.value == {"a": "b"}
    assert second.value["more"] == {"x": 3, "y1": 2}
    assert second.value["list"] == [{"x": 1, "y1": 2}] * 2
    assert (first.line, second.line) == (1, 4)


def test_tags() -> None:
    text = "a: ! y\nb: ! .inf\nc: !!float 0o17\nd: !!float 7\ne: !!str 08\nf: !!bool on\ng: !!null ~\nh: !!int '5'\n"
    (document,) = parse_documents(text)
    assert document.value == {"a": "y", "b": ".inf", "c": 15, "d": 7, "e": "08", "f": True, "g": None, "h": 5}


def test_json() -> None:
    assert parse_json('{"a": [1, 2.5, "22:22", null, true]}') == {"a": [1, 2.5, "22:22", None, True]}
    assert [document.value for document in parse_documents('{"a": 1}\n{"b": "y"}\n')] == [{"a": 1}, {"b": "y"}]
    assert parse_documents("{kind: Pod, b: y}")[0].value == {"kind": "Pod", "b": True}
    with pytest.raises(YamlError, match="no JSON"):
        parse_json('{"a": NaN}')
    with pytest.raises(YamlError) as caught:
        parse_documents('{\n  "a": 1,\n  "b" 2\n}\n')
    assert (caught.value.line, "JSON" in caught.value.message) == (3, True)


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


def test_what_aliases_make_is_counted() -> None:
    started = time.process_time()
    tracemalloc.start()
    for levels in (7, 12, 30):
        with pytest.raises(YamlError, match=f"more than {MAX_NODES} values"):
            parse_documents(bomb(levels))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert time.process_time() - started < 2
    assert parse_documents(bomb(4))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
def test_json_and_quoted_yaml_come_back(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    if value is not None:
        (document,) = parse_documents(yaml.safe_dump(value, default_style='"', allow_unicode=True))
        assert document.value == value


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(YamlError):
        parse_documents(text)


@pytest.mark.parametrize(
    "unit", ["- {name: a, value: b, list: [1, 2]}\n", "\n", "# comment\n", "---\na: 1\n", "a" * 40]
)
def test_cost_grows_as_the_text_does(unit: str) -> None:
    """Each doubling of a text makes it at most 2.3 times as long to read, in the mean of three doublings."""

    def seconds(count: int) -> float:
        text = unit * count
        best = float("inf")
        for _ in range(3):
            started = time.process_time()
            parse_documents(text)
            best = min(best, time.process_time() - started)
        return best

    small, large = seconds(5_000), seconds(40_000)
    assert large < 0.05 or (large / small) ** (1 / 3) < 2.3
