"""Read-only records: JSON objects whose fields are attributes."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, Union

R = TypeVar("R", bound="Record")


class Record:
    """A part of a result. Its fields are attributes; ``to_dict()`` has the same as plain Python.

    Subclasses declare fields and their types. A field that the library adds is there without a declaration. A declared number that
    is ``null`` in JSON is NaN; what is declared optional is ``None``.
    """

    _data: Mapping[str, Any]
    _fields: dict[str, Any]

    def __init__(self, data: Mapping[str, Any]) -> None:
        hints = _hints(type(self))  # type: ignore[arg-type]
        fields = {name: _convert(hints.get(name), value) for name, value in data.items()}
        for name, hint in hints.items():
            if name not in fields and _is_optional(hint):
                fields[name] = None
        object.__setattr__(self, "_data", data)
        object.__setattr__(self, "_fields", fields)

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON has it: plain dictionaries, lists, numbers and texts."""
        return typing.cast("dict[str, Any]", _copy(self._data))

    def get(self, name: str, default: Any = None) -> Any:
        """The field of this name, or ``default``."""
        value = self._fields.get(name)
        return default if value is None else value

    def __getattr__(self, name: str) -> Any:
        try:
            return object.__getattribute__(self, "_fields")[name]
        except (KeyError, AttributeError):
            raise AttributeError(self._absent(name)) from None

    def _absent(self, name: str) -> str:
        return f"{type(self).__name__} has no {name!r}; it has {', '.join(self._fields)}"

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is read-only")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is read-only")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._fields})

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __contains__(self, name: object) -> bool:
        return self._fields.get(name) is not None  # type: ignore[call-overload]

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._data == other._data

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._data,)

    def __repr__(self) -> str:
        fields = (f"{name}={_short(value)}" for name, value in self._fields.items() if value is not None)
        return f"{type(self).__name__}({', '.join(fields)})"


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copy(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


@functools.cache
def _hints(record: type[Record]) -> dict[str, Any]:
    return {name: hint for name, hint in typing.get_type_hints(record).items() if not name.startswith("_")}


def _is_optional(hint: Any) -> bool:
    union = typing.get_origin(hint) in (Union, types.UnionType)
    return union and type(None) in typing.get_args(hint)


def _convert(hint: Any, value: Any) -> Any:
    if value is None:
        return float("nan") if hint is float else None
    for kind in typing.get_args(hint) if _is_optional(hint) else (hint,):
        if typing.get_origin(kind) is list and isinstance(value, list):
            (item,) = typing.get_args(kind)
            return [_convert(item, one) for one in value]
        if isinstance(kind, type) and issubclass(kind, Record) and isinstance(value, Mapping):
            return kind(value)
    if isinstance(value, Mapping):
        return Record(value)
    return value
