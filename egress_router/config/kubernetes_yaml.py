"""YAML and JSON text as Kubernetes reads it → plain data: the one reader of manifests and of cluster objects.

kubectl and the API machinery read YAML 1.1 by the rules of sigs.k8s.io/yaml (its goyaml.v2): ``y`` and ``off`` are
truth values, ``08``, ``1e3`` and ``0o17`` numbers, while ``22:22``, dates, ``=`` and ``2001:10:20:30:40:50:51:52``
are texts. A key that stands twice is an error here; kubectl takes the last one. Aliases are resolved, and what they
make of a text is limited, as are its depth and its number of nodes: a text of a few lines must not fill the memory.
"""

from __future__ import annotations

import base64
import binascii
import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import yaml

#: Values in all documents of a text, what aliases add counted in: a file of 4 MB with 30,000 pods has some 400,000.
MAX_NODES = 500_000
#: encoding/json of Go stops at 10,000, YAML readers at fewer; objects of Kubernetes have about 20.
MAX_DEPTH = 200
#: No number of Kubernetes has more; Python takes seconds for one of a million digits.
MAX_NUMBER = 64
#: A decimal number of so many digits fits 64 bits.
_SHORT_NUMBER = 18

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_NO_NUMBERS = frozenset(f"{sign}.{word}" for sign in ("", "+", "-") for word in ("inf", "Inf", "INF")) | {
    ".nan",
    ".NaN",
    ".NAN",
}
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
#: strconv.ParseInt(text, 0, 64): the prefix gives the base, 0 alone is octal.
_INTEGER = re.compile(
    r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[oO]?([0-7]+)|0[bB]([01]+)|(0|[1-9][0-9]*))",
    re.ASCII,
)
_BASES = (16, 8, 2, 10)


class YamlError(Exception):
    """The text is not what Kubernetes can read. ``line`` is 1-based, None where no line is to blame."""

    def __init__(self, line: int | None, message: str) -> None:
        self.line = line
        self.message = message
        super().__init__(message if line is None else f"line {line}: {message}")


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a text: its value, and the 1-based line that it starts in (JSON: None)."""

    value: Any
    line: int | None


def scalar(text: str) -> Any:
    """Return what Kubernetes makes of a plain scalar: text, bool, int, float or None.

    Source: resolve() of goyaml.v2 in sigs.k8s.io/yaml. Raises YamlError for numbers that JSON does not have.
    """
    first = text[:1]
    if not first or first in "yYnNtTfFoO~":
        return _WORDS.get(text, text)
    if first == ".":
        if text in _NO_NUMBERS:
            raise YamlError(None, f'"{text}" is a number that JSON does not have; a text needs quotes')
        return _number(text) if _FLOAT.fullmatch(text) else text
    if first not in "+-0123456789":
        return text
    if text in _NO_NUMBERS:
        raise YamlError(None, f'"{text}" is a number that JSON does not have; a text needs quotes')
    plain = text.replace("_", "")
    return _number(plain) if _INTEGER.fullmatch(plain) or _FLOAT.fullmatch(plain) else text


def is_text(text: str) -> bool:
    """Return whether Kubernetes reads a plain scalar as text."""
    try:
        return isinstance(scalar(text), str)
    except YamlError:
        return False


def _number(text: str) -> int | float | str:
    if len(text) > MAX_NUMBER:
        raise YamlError(None, f"has a number of {len(text)} characters; a text needs quotes")
    match = _INTEGER.fullmatch(text)
    if match is not None:
        digits, base = next((found, base) for found, base in zip(match.groups()[1:], _BASES, strict=True) if found)
        value = int(digits, base) * (-1 if match[1] == "-" else 1)
        if -(2**63) <= value < 2**64:
            return value
        if base != 10:
            return value
    value_f = float(text)
    # strconv.ParseFloat refuses what is out of range: text, then.
    return text if value_f in (float("inf"), float("-inf")) else value_f


def parse_documents(text: str) -> list[Document]:
    """Return the documents of a YAML text, or of one or several JSON texts; empty documents are left out.

    Raises YamlError.
    """
    text = text.removeprefix("\ufeff")
    if text.lstrip()[:1] == "{":
        try:
            return [Document(value, None) for value in _json_values(text)]
        except YamlError as error:
            found = error
        try:
            return _yaml_documents(text)
        except YamlError as error:
            # A JSON file is told what is wrong with its JSON.
            raise (found if re.match(r'\s*\{\s*"', text) else error) from None
    return _yaml_documents(text)


def parse_json(text: str) -> Any:
    """Return the value of one JSON text. Raises YamlError."""
    values = list(_json_values(text.removeprefix("\ufeff")))
    if len(values) != 1:
        raise YamlError(None, "is empty" if not values else f"has {len(values)} JSON values, not one")
    return values[0]


def _json_values(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder(
        object_pairs_hook=_json_object, parse_int=_json_integer, parse_float=float, parse_constant=_json_constant
    )
    at = _after_space(text, 0)
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise YamlError(error.lineno, f"is not JSON: {error.msg}") from None
        except RecursionError:
            raise YamlError(None, f"is nested deeper than {MAX_DEPTH} levels") from None
        _check_depth(value)
        yield value
        at = _after_space(text, at)


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise YamlError(None, f'has the key "{_shown(twice)}" twice in one object')
    return found


def _json_integer(text: str) -> int | float | str:
    # A text may have a million of them: the short ones go the short way.
    return int(text) if len(text) <= _SHORT_NUMBER else _number(text)


def _json_constant(text: str) -> Any:
    raise YamlError(None, f"{text} is no JSON")


def _check_depth(value: Any) -> None:
    """Raise YamlError when containers are nested too deeply, or are too many."""
    level, depth, nodes = [value], 0, 0
    while level:
        depth += 1
        nodes += len(level)
        if depth > MAX_DEPTH:
            raise YamlError(None, f"is nested deeper than {MAX_DEPTH} levels")
        inner: list[Any] = []
        for item in level:
            if type(item) is dict:
                inner += item.values()
            elif type(item) is list:
                inner += item
        level = inner
    if nodes > MAX_NODES:
        raise YamlError(None, f"has more than {MAX_NODES} values")


def _shown(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep the garbage collector from looking through the half-made values again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _yaml_documents(text: str) -> list[Document]:
    # Python's text may have halves of surrogate pairs, which no UTF-8 has.
    loader = _LOADER(text.encode("utf-8", "replace").decode("utf-8"))
    try:
        with _without_collector():
            return _Builder(loader).documents()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(mark.line + 1 if mark else None, f"is not YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        raise YamlError(line, f"is not YAML: {error.reason}") from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise YamlError(None, f"is not YAML: {error}") from None
    finally:
        loader.dispose()


class _Merge:
    """The key ``<<``."""


_MERGE = _Merge()
_NO_KEY: Any = object()


class _Builder:
    """Makes values of the events of one text, without recursion: the depth is the text's to choose."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._nodes = 0

    def documents(self) -> list[Document]:
        found: list[Document] = []
        next_event = self._loader.get_event
        while True:
            event = next_event()
            kind = type(event)
            if kind is yaml.StreamEndEvent:
                return found
            if kind is yaml.DocumentStartEvent:
                line = event.end_mark.line + 1
                value, first = self._document()
                if value is not None:
                    found.append(Document(value, first or line))

    def _document(self) -> tuple[Any, int | None]:
        """Return the value of a document, and the line of its first node."""
        next_event = self._loader.get_event
        anchors: dict[str, tuple[Any, int]] = {}
        # Open containers: the container, the key that waits for its value, what was merged, anchor, nodes before it.
        stack: list[tuple[Any, Any, dict[str, Any], str | None, int]] = []
        container: Any = None
        key: Any = _NO_KEY
        merged: dict[str, Any] = {}
        anchor: str | None = None
        before = 0
        result: Any = None
        first: int | None = None
        while True:
            event = next_event()
            kind = type(event)
            if kind is yaml.ScalarEvent:
                self._nodes += 1
                value = self._scalar(event)
                if event.anchor:
                    anchors[event.anchor] = (value, 1)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                if len(stack) >= MAX_DEPTH:
                    raise self._error(event, f"is nested deeper than {MAX_DEPTH} levels")
                first = first or event.start_mark.line + 1
                if key is _NO_KEY and type(container) is dict:
                    raise self._error(event, "has a mapping or a list as a key")
                stack.append((container, key, merged, anchor, before))
                before = self._nodes
                self._nodes += 1
                container = {} if kind is yaml.MappingStartEvent else []
                key, merged, anchor = _NO_KEY, {}, event.anchor
                if anchor:
                    anchors[anchor] = (_NO_KEY, 0)
                continue
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                value = {**merged, **container} if merged else container
                if anchor:
                    anchors[anchor] = (value, self._nodes - before)
                container, key, merged, anchor, before = stack.pop()
            elif kind is yaml.AliasEvent:
                if event.anchor not in anchors:
                    raise self._error(event, f'names an anchor "{_shown(event.anchor)}" that is not there')
                value, count = anchors[event.anchor]
                if value is _NO_KEY:
                    raise self._error(event, f'holds itself: "*{_shown(event.anchor)}" stands inside of its anchor')
                self._nodes += count
            elif kind is yaml.DocumentEndEvent:
                return result, first
            else:  # pragma: no cover - nothing else comes inside of a document
                continue
            first = first or event.start_mark.line + 1
            if self._nodes > MAX_NODES:
                raise self._error(event, f"has more than {MAX_NODES} values, those of aliases counted in")
            if container is None:
                result = value
            elif type(container) is list:
                container.append(value)
            elif key is _NO_KEY:
                key = self._key(event, value)
                if key is not _MERGE and key in container:
                    raise self._error(event, f'has the key "{_shown(key)}" twice in one mapping')
            else:
                if key is _MERGE:
                    self._merge(event, value, merged)
                else:
                    container[key] = value
                key = _NO_KEY

    def _scalar(self, event: Any) -> Any:
        tag, text = event.tag, event.value
        try:
            if tag == "!":
                return text
            if event.implicit[0]:
                return scalar(text)
            if tag is None or event.implicit[1]:
                return text
            return self._tagged(tag, text)
        except YamlError as error:
            raise self._error(event, error.message) from None

    def _tagged(self, tag: str, text: str) -> Any:
        short = tag.removeprefix(_TAG)
        if short == tag or short in ("str", "timestamp"):
            return text
        if short == "binary":
            try:
                return base64.b64decode(text, validate=False).decode("utf-8", "replace")
            except binascii.Error:
                raise YamlError(None, "has !!binary data that is no base64") from None
        value: Any = scalar(text)
        kinds: dict[str, type | tuple[type, ...]] = {"bool": bool, "int": int, "float": (int, float)}
        wanted = kinds.get(short)
        if short == "null" and value is None:
            return None
        if wanted is None or not isinstance(value, wanted) or (short != "bool" and isinstance(value, bool)):
            raise YamlError(None, f'"{_shown(text)}" is no !!{short}')
        return float(value) if isinstance(value, int) and short == "float" else value

    def _key(self, event: Any, value: Any) -> Any:
        """Return a key as JSON has it, a text."""
        if type(value) is str:
            if value == "<<" and type(event) is yaml.ScalarEvent and event.implicit[0]:
                return _MERGE
            return value
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, (int, float)):
            return str(value)
        raise self._error(event, "has a key that is no text")

    def _merge(self, event: Any, value: Any, merged: dict[str, Any]) -> None:
        parts = value if isinstance(value, list) else [value]
        for part in parts:
            if not isinstance(part, dict):
                raise self._error(event, '"<<" takes a mapping, or a list of mappings')
            for name, item in part.items():
                merged.setdefault(name, item)

    def _error(self, event: Any, message: str) -> YamlError:
        return YamlError(event.start_mark.line + 1, message)
