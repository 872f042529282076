"""``dataclass``, ``field`` and ``replace`` of the standard library, for processes that must start quickly.

The standard library's write seven functions for each class as text and compile them when it is imported, whether or not
anybody makes an object of it, and import ``inspect``: a quarter of what ``init`` took. Here nothing is written but
``__init__``, when the first object is made. To mypy these are the standard library's. Classes made here are data
classes to ``dataclasses.asdict``, ``fields`` and ``replace``, too.

What nobody here uses is not there: inheritance between data classes, InitVar, ``kw_only``, ClassVar.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

_NONE = object()


class _Field:
    """A field that has more than a default."""

    __slots__ = ("compare", "default", "factory", "init", "repr")

    def __init__(self, default: Any, factory: Any, *, init: bool, repr: bool, compare: bool) -> None:  # noqa: A002
        self.default = default
        self.factory = factory
        self.init = init
        self.repr = repr
        self.compare = compare


def _field(
    *,
    default: Any = _NONE,
    default_factory: Any = _NONE,
    init: bool = True,
    repr: bool = True,  # noqa: A002
    compare: bool = True,
) -> Any:
    """Do as ``dataclasses.field``."""
    return _Field(default, default_factory, init=init, repr=repr, compare=compare)


def _dataclass(
    cls: Any = None, /, *, frozen: bool = False, slots: bool = False, order: bool = False, eq: bool = True
) -> Any:
    """Do as ``dataclasses.dataclass``."""

    def make(cls: Any) -> Any:
        return _made(cls, frozen=frozen, slots=slots, order=order, eq=eq)

    return make if cls is None else make(cls)


def _replace(item: Any, /, **changes: Any) -> Any:
    """Do as ``dataclasses.replace``."""
    for name in type(item).__init_names__:
        if name not in changes:
            changes[name] = getattr(item, name)
    return type(item)(**changes)


def _made(cls: Any, *, frozen: bool, slots: bool, order: bool, eq: bool) -> Any:
    space = dict(cls.__dict__)
    names = tuple(cls.__annotations__)
    fields = {name: _as_field(space[name]) if name in space else _REQUIRED for name in names}
    if slots:
        for name in (*names, "__dict__", "__weakref__"):
            space.pop(name, None)
        space["__slots__"] = names
        made = type(cls)(cls.__name__, cls.__bases__, space)
        made.__qualname__ = cls.__qualname__
    else:
        made = cls
        for name, one in fields.items():
            if one.default is not _NONE:
                setattr(made, name, one.default)
    taken = tuple(name for name, one in fields.items() if one.init)
    made.__init_names__ = taken
    type.__setattr__(made, "__match_args__", taken)
    made.__dataclass_fields__ = _StandardFields(fields, frozen=frozen)
    made.__init__ = _first_init(made, fields, frozen=frozen)
    if "__repr__" not in space:
        made.__repr__ = _repr(tuple(name for name, one in fields.items() if one.repr))
    compared = _values(tuple(name for name, one in fields.items() if one.compare))
    if eq and "__eq__" not in space:
        _compare(made, compared, hashed=frozen)
    if order:
        _order(made, compared)
    if frozen:
        made.__setattr__, made.__delattr__ = _refuse_setting, _refuse_deleting
        if slots:
            made.__getstate__, made.__setstate__ = _getstate, _setstate
    return made


def _as_field(value: Any) -> _Field:
    return value if isinstance(value, _Field) else _field(default=value)


_REQUIRED = _field()


def _values(names: tuple[str, ...]) -> Callable[[Any], Any]:
    """Return what takes the values out of an object, all at once."""
    if not names:
        return lambda _: ()
    if len(names) == 1:
        one = attrgetter(names[0])
        return lambda item: (one(item),)
    return attrgetter(*names)


def _first_init(made: Any, fields: dict[str, _Field], *, frozen: bool) -> Callable[..., None]:
    """Return an ``__init__`` that writes the true one and puts it in its place."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        made.__init__ = _init(made, fields, frozen=frozen)
        made.__init__(self, *args, **kwargs)

    return __init__


def _init(made: Any, fields: dict[str, _Field], *, frozen: bool) -> Callable[..., None]:
    known: dict[str, Any] = {"NONE": _NONE, "put": object.__setattr__}
    head, body = ["self"], []
    for name, one in fields.items():
        value, parameter = name, name
        if one.factory is not _NONE:
            known[f"make_{name}"] = one.factory
            parameter = f"{name}=NONE"
            value = f"make_{name}() if {name} is NONE else {name}" if one.init else f"make_{name}()"
        elif one.default is not _NONE:
            known[f"default_{name}"] = one.default
            parameter = f"{name}=default_{name}"
            value = name if one.init else f"default_{name}"
        elif not one.init:
            continue
        if one.init:
            head.append(parameter)
        body.append(f" put(self, {name!r}, {value})" if frozen else f" self.{name} = {value}")
    if hasattr(made, "__post_init__"):
        body.append(" self.__post_init__()")
    exec(f"def __init__({', '.join(head)}):\n" + "\n".join(body or [" pass"]), known)  # noqa: S102 - names of fields
    init: Callable[..., None] = known["__init__"]
    init.__qualname__ = f"{made.__qualname__}.__init__"
    return init


def _repr(names: tuple[str, ...]) -> Callable[[Any], str]:
    def __repr__(self: Any) -> str:  # noqa: N807
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__


def _compare(made: Any, values: Callable[[Any], Any], *, hashed: bool) -> None:
    def __eq__(self: Any, other: object) -> Any:  # noqa: N807
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(values(self))

    made.__eq__ = __eq__
    made.__hash__ = __hash__ if hashed else None


def _order(made: Any, values: Callable[[Any], Any]) -> None:
    def __lt__(self: Any, other: object) -> Any:  # noqa: N807
        return values(self) < values(other) if other.__class__ is self.__class__ else NotImplemented

    def __le__(self: Any, other: object) -> Any:  # noqa: N807
        return values(self) <= values(other) if other.__class__ is self.__class__ else NotImplemented

    # The other two are these, asked the other way round (data model, "Basic customization").
    made.__lt__, made.__le__ = __lt__, __le__


def _refuse_setting(_: Any, name: str, __: Any) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deleting(_: Any, name: str) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self.__slots__]


def _setstate(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__slots__, state, strict=True):
        object.__setattr__(self, name, value)


class _StandardFields:
    """What the standard library keeps of a data class, made when it asks."""

    def __init__(self, fields: dict[str, _Field], *, frozen: bool) -> None:
        self._fields = fields
        self._frozen = frozen

    def __get__(self, _: object, owner: Any) -> Any:
        import dataclasses

        space: dict[str, Any] = {"__annotations__": dict(owner.__annotations__)}
        for name, one in self._fields.items():
            default = dataclasses.MISSING if one.default is _NONE else one.default
            factory = dataclasses.MISSING if one.factory is _NONE else one.factory
            own: Any = dataclasses.field
            space[name] = own(
                default=default, default_factory=factory, init=one.init, repr=one.repr, compare=one.compare
            )
        made: Any = dataclasses.dataclass(type(owner.__name__, (), space))
        owner.__dataclass_fields__ = made.__dataclass_fields__
        return made.__dataclass_fields__


if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace
else:
    dataclass, field, replace = _dataclass, _field, _replace

__all__ = ["dataclass", "field", "replace"]
