"""From the plain values of a TOML file to the dataclasses of `schema`, refusing keys and values they do not allow."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ferbench.protocols.schema import ProtocolError

T = TypeVar("T")

_SCALARS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def nearest(name: str, valid: Collection[str], kind: str = "choices") -> str:
    """The tail of an error message: the closest valid name, or all of them."""
    close = get_close_matches(name, list(valid), n=1)
    return f"did you mean '{close[0]}'?" if close else f"valid {kind}: {', '.join(valid) or 'none'}"


def build(cls: type[T], table: object, where: str) -> T:
    """An instance of the dataclass `cls` from a TOML table.

    where: file and key path, the head of every error. Raises ProtocolError for an unknown or missing key, a value of
    another type and a number out of its limits.
    """
    if not isinstance(table, dict):
        raise ProtocolError(f"{where}: expected a table, got {table!r}")
    hints, keys = _shape(cls)  # type: ignore[arg-type]  # mypy does not see that classes hash
    for key in table:
        if key not in keys:
            raise ProtocolError(f"{where}: unknown key '{key}'; {nearest(key, keys, 'keys')}")
    values: dict[str, Any] = {}
    for key, spec in keys.items():
        if key in table:
            values[key] = convert(table[key], hints[key], f"{where}.{key}")
            check_limits(values[key], spec.metadata, f"{where}.{key}")
        elif spec.default is MISSING and spec.default_factory is MISSING:
            raise ProtocolError(f"{where}: missing key '{key}'")
    return cls(**values)


def convert(value: object, hint: Any, where: str) -> Any:
    """`value` as the annotated type `hint`: lists become tuples, tables become dataclasses, whole numbers floats."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _convert_union(value, [arg for arg in args if arg is not NoneType], where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ProtocolError(f"{where}: expected a list, got {value!r}")
        return tuple(convert(item, args[0], f"{where}[{_label(item, i)}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise ProtocolError(f"{where}: expected a table, got {value!r}")
        return {key: convert(item, args[1], f"{where}.{key}") for key, item in value.items()}
    if is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where)
    return _convert_scalar(value, hint, where)


def check_limits(value: Any, limits: Mapping[str, Any], where: str) -> None:
    """Raise ProtocolError where `value` breaks the limits written beside its field."""
    checks = {
        "least": lambda limit: value >= limit,
        "above": lambda limit: value > limit,
        "most": lambda limit: value <= limit,
        "below": lambda limit: value < limit,
    }
    for name, limit in limits.items():
        if name in checks and not checks[name](limit):
            wording = {"least": "at least", "above": "above", "most": "at most", "below": "below"}[name]
            raise ProtocolError(f"{where}: must be {wording} {limit}, got {value!r}")
    if "choices" in limits and value not in limits["choices"]:
        known = [choice for choice in limits["choices"] if choice]
        raise ProtocolError(f"{where}: '{value}' is not known; {nearest(str(value), known)}")
    if "pattern" in limits and not re.fullmatch(limits["pattern"], value):
        raise ProtocolError(f"{where}: '{value}' may hold only a-z, 0-9, dot, dash and underscore")


@cache
def _shape(cls: type) -> tuple[dict[str, Any], dict[str, Field[Any]]]:
    keys = {spec.name: spec for spec in fields(cls) if spec.metadata.get("key", True)}
    return get_type_hints(cls), keys


def _label(item: object, index: int) -> str:
    return str(item["id"]) if isinstance(item, dict) and "id" in item else str(index)


def _convert_union(value: object, hints: list[Any], where: str) -> Any:
    if len(hints) == 1:
        return convert(value, hints[0], where)
    if type(value) in hints:
        return value
    raise ProtocolError(f"{where}: expected one of {', '.join(_SCALARS[hint] for hint in hints)}, got {value!r}")


def _convert_scalar(value: object, hint: type, where: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ProtocolError(f"{where}: expected {_SCALARS[hint]}, got {value!r}")
    return value
