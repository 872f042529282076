"""Change one list in a text of Kubernetes objects and leave every other byte of it alone.

Comments, quotes, dates, indentation and the order of keys stay, since only the characters of the field are written
anew: the parser says where each value starts and ends. What comes out is read again and compared with what was
wanted before it is returned.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from egress_router.config.kubernetes_yaml import YamlError, is_text, parse_documents

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: What starts or ends something in YAML where it stands at the front of a plain scalar, or anywhere in a flow list.
_NOT_IN_FRONT = frozenset("!&*-?:,[]{}#|>@`\"'%= ")


@dataclass(slots=True)
class _Node:
    """A value in the text, from ``start`` to ``end``; ``last`` is where its last scalar ends, without what follows."""

    kind: str
    start: int
    end: int
    last: int
    column: int
    flow: bool = False
    value: str = ""
    quoted: str = ""
    items: list[_Node] = field(default_factory=list)

    def pairs(self) -> Iterator[tuple[_Node, _Node]]:
        return zip(self.items[::2], self.items[1::2], strict=True)

    def get(self, key: str) -> _Node | None:
        return next((value for name, value in self.pairs() if name.value == key), None)


def objects_in(value: Any, kind: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a document with their kinds: itself, or the items of a List, NetNamespaceList …, whose own
    kind may be left out there.
    """
    if not isinstance(value, dict):
        return
    written = value.get("kind")
    own = written if isinstance(written, str) and written else kind
    items = value.get("items")
    if own.endswith("List") and isinstance(items, list):
        for item in items:
            yield from objects_in(item, own.removesuffix("List"))
    else:
        yield own, value


def named(value: dict[str, Any], name: str) -> bool:
    """Return whether an object has that name."""
    metadata = value.get("metadata")
    return isinstance(metadata, dict) and metadata.get("name") == name


def set_list(text: str, kind: str, name: str, key: str, values: Sequence[str]) -> str:
    """Return ``text`` with the list ``key`` of one object replaced, or added.

    The object must stand in the text exactly once. Raises YamlError when the text cannot be read, or is written in a
    way that the list cannot be changed alone (an anchor that others use, for example).
    """
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    body = text.removeprefix("\ufeff")
    wanted = [copy.deepcopy(document.value) for document in parse_documents(body)]
    targets = [item for value in wanted for its, item in objects_in(value) if its == kind and named(item, name)]
    if len(targets) != 1:
        raise YamlError(None, f"has {kind} {name} {len(targets)} times")
    targets[0][key] = list(values)
    found = [node for root in _nodes(body) for its, node in _objects(root) if its == kind and _named(node, name)]
    if len(found) != 1:
        raise YamlError(None, f"has {kind} {name} in a form that cannot be changed here; edit it by hand")
    changed = _changed(body, found[0], key, values)
    try:
        same = [document.value for document in parse_documents(changed)] == wanted
    except YamlError:
        same = False
    if not same:
        message = f"{key} of {kind} {name} cannot be changed without changing something else; edit it by hand"
        raise YamlError(None, message)
    return mark + changed


def _nodes(text: str) -> Iterator[_Node]:
    loader = _LOADER(text)
    try:
        stack: list[_Node] = []
        while loader.check_event():
            event = loader.get_event()
            start, end = event.start_mark, event.end_mark
            done: _Node | None = None
            if isinstance(event, yaml.ScalarEvent):
                done = _Node("scalar", start.index, end.index, end.index, start.column, value=event.value)
                done.quoted = event.style if event.style in ("'", '"') else ""
            elif isinstance(event, yaml.AliasEvent):
                done = _Node("alias", start.index, end.index, end.index, start.column)
            elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                kind = "map" if isinstance(event, yaml.MappingStartEvent) else "list"
                stack.append(_Node(kind, start.index, end.index, end.index, start.column, bool(event.flow_style)))
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                done = stack.pop()
                done.end = end.index
                done.last = end.index if done.flow else (done.items[-1].last if done.items else done.start)
            if done is not None:
                if stack:
                    stack[-1].items.append(done)
                else:
                    yield done
    except yaml.YAMLError as error:
        raise YamlError(None, f"cannot be changed here: {error}") from None
    finally:
        loader.dispose()


def _objects(node: _Node, kind: str = "") -> Iterator[tuple[str, _Node]]:
    if node.kind != "map":
        return
    written, items = node.get("kind"), node.get("items")
    own = written.value if written is not None and written.value else kind
    if own.endswith("List") and items is not None and items.kind == "list":
        for item in items.items:
            yield from _objects(item, own.removesuffix("List"))
    else:
        yield own, node


def _named(node: _Node, name: str) -> bool:
    metadata = node.get("metadata")
    written = metadata.get("name") if metadata is not None and metadata.kind == "map" else None
    return written is not None and written.kind == "scalar" and written.value == name


def _changed(text: str, target: _Node, key: str, values: Sequence[str]) -> str:
    for name, value in target.pairs():
        if name.value == key:
            if value.kind == "list" and not value.flow and value.items and values:
                return _block_list(text, value, values)
            if value.kind == "list" and not value.flow:
                return _emptied(text, name, value)
            quote = value.items[0].quoted if value.kind == "list" and value.items else target.items[0].quoted
            space = "" if value.start > name.end and text[value.start - 1].isspace() else " "
            return text[: value.start] + space + _flow(values, quote) + text[value.last :]
    quote = target.items[0].quoted
    entry = f"{_scalar(key, quote)}: {_flow(values, quote)}"
    newline = "\r\n" if "\r\n" in text else "\n"
    if target.flow:
        at, first = target.items[-1].last, target.items[0]
        # JSON with a line for each field gets one more.
        apart = newline + " " * first.column if "\n" in text[target.start : first.start] else " "
        return f"{text[:at]},{apart}{entry}{text[at:]}"
    at = target.items[-1].last
    if text[at - 1 : at] not in ("\n", "\r"):
        found = text.find("\n", at)
        if found < 0:
            return text + newline + " " * target.column + entry + newline
        at = found + 1
    return text[:at] + " " * target.column + entry + newline + text[at:]


def _emptied(text: str, name: _Node, value: _Node) -> str:
    """Write an empty list in the place of one with dashes; a comment behind the key stays."""
    at = text.index(":", name.end) + 1
    line_end = text.find("\n", at, value.start)
    if line_end < 0:
        return text[:at] + " []" + text[value.last :]
    rest = text[at:line_end].rstrip("\r")
    end = _end_of_line(text, value.last)
    return text[:at] + " []" + rest + text[at + len(rest) : line_end + 1] + text[end:]


def _end_of_line(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1


def _block_list(text: str, value: _Node, values: Sequence[str]) -> str:
    """Replace the items of a list with dashes: those that stay keep their lines, and the comments above and behind."""
    newline = "\r\n" if "\r\n" in text else "\n"
    indent = " " * value.column
    chunks: dict[str, str] = {}
    # The first dash may follow something else on its line, such as the dash of an outer list.
    start = value.start
    for item in value.items:
        end = _end_of_line(text, item.last)
        chunk = text[start:end] if start != value.start else indent + text[start:end]
        if not chunk.endswith("\n"):
            chunk += newline
        if item.kind == "scalar":
            chunks.setdefault(item.value, chunk)
        start = end
    quote = value.items[0].quoted
    lines = [chunks.get(one) or f"{indent}- {_scalar(one, quote)}{newline}" for one in values]
    return text[: value.start] + "".join(lines)[len(indent) :] + text[start:]


def _flow(values: Sequence[str], quote: str) -> str:
    return "[" + ", ".join(_scalar(one, quote) for one in values) + "]"


def _scalar(text: str, quote: str) -> str:
    """Return a text as a scalar, in the quotes that its neighbours have, and in some where YAML needs them."""
    if quote == "'" and "'" not in text and text.isprintable():
        return f"'{text}'"
    plain = not quote and is_text(text) and text[0] not in _NOT_IN_FRONT and text.isprintable()
    if plain and not any(mark in text for mark in (": ", " #", ",", "[", "]", "{", "}")) and text[-1] not in ": ":
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '\\"':
        return "\\" + character
    code = ord(character)
    if character.isprintable() or 0xD800 <= code < 0xE000:
        return character
    # JSON has no escape of eight digits, YAML none of surrogate pairs; what is beyond both is written as it is.
    return f"\\u{code:04x}" if code < 0x10000 else character
