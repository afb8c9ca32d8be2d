"""Values that users write (protocol files, options, recipes) held against dataclasses and declared options.

Every message has one form: where (file and key), what is wrong, and what would be right. The caller says which
exception it raises, since a protocol, a data set and a method each have one of their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ferbench.errors import UserError

T = TypeVar("T")
Value = str | int | float | bool

_MOST_WHOLE = 2**53
_MOST_NUMBER = 1e30

_SCALARS: dict[Any, str] = {
    str: "a word", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null",
}  # fmt: skip
_LIMITS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "least": ("at least", lambda value, limit: value >= limit),
    "above": ("above", lambda value, limit: value > limit),
    "most": ("at most", lambda value, limit: value <= limit),
    "below": ("below", lambda value, limit: value < limit),
}


def nearest(name: str, valid: Collection[str]) -> str:
    """The tail of a message about an unknown name: the closest valid name, or all of them."""
    close = get_close_matches(name, list(valid), n=1)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(valid) or 'none'}"


def unknown(kind: str, name: str, valid: Collection[str], where: str = "") -> str:
    """The message about a name that is none of `valid`; `where` comes first if there is one."""
    return f"{where + ': ' if where else ''}unknown {kind} '{name}'; {nearest(name, valid)}"


def build(cls: type[T], table: object, where: str, error: type[UserError]) -> T:
    """An instance of the dataclass `cls` from a table of plain values.

    where: file and key path, the head of every message
    Raises `error` for an unknown or missing key, a value of another type, and a number that is not finite or out of its
    limits.
    """
    if not isinstance(table, dict):
        raise error(f"{where}: expected a table, got {table!r}")
    hints, keys = _shape(cls)  # type: ignore[arg-type]  # mypy does not see that classes hash
    for key in table:
        if key not in keys:
            raise error(unknown("key", key, keys, where))
    values: dict[str, Any] = {}
    for key, spec in keys.items():
        if key in table:
            values[key] = convert(table[key], hints[key], f"{where}.{key}", error)
            check_limits(values[key], spec.metadata, f"{where}.{key}", error)
        elif spec.default is MISSING and spec.default_factory is MISSING:
            raise error(f"{where}: missing key '{key}'")
    return cls(**values)


def convert(value: object, hint: Any, where: str, error: type[UserError]) -> Any:
    """`value` as the annotated type `hint`: lists become tuples, tables become dataclasses, whole numbers floats."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        others = [arg for arg in args if arg is not NoneType]
        if value is None and len(others) < len(args):
            return None
        return convert(value, others[0], where, error) if len(others) == 1 else _union(value, args, where, error)
    if origin is Literal:
        return _convert_choice(value, args, where, error)
    if origin is tuple:
        if not isinstance(value, list):
            raise error(f"{where}: expected a list, got {value!r}")
        return tuple(convert(item, args[0], f"{where}[{_label(item, i)}]", error) for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise error(f"{where}: expected a table, got {value!r}")
        return {key: convert(item, args[1], f"{where}.{key}", error) for key, item in value.items()}
    if is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where, error)
    return _convert_scalar(value, hint, where, error)


def check_limits(value: Any, limits: Mapping[str, Any], where: str, error: type[UserError]) -> None:
    """Raise `error` where `value` breaks the limits written beside its field."""
    for name, limit in limits.items():
        if name in _LIMITS and not _LIMITS[name][1](value, limit):
            raise error(f"{where}: must be {_LIMITS[name][0]} {limit}, got {value!r}")
    if "choices" in limits and value not in limits["choices"]:
        known = [choice for choice in limits["choices"] if choice]
        raise error(f"{where}: '{value}' is not known; {nearest(str(value), known)}")
    if "pattern" in limits and not re.fullmatch(limits["pattern"], value):
        raise error(f"{where}: '{value}' may hold only a-z, 0-9, dot, dash and underscore")


@dataclass(frozen=True)
class Option:
    """One declared option: its default (whose type is the option's type), its meaning, and the values allowed.

    choices: () for any value
    late: added after runs had been recorded: at its default it is not there at all, so that their identity stays
    """

    default: Value
    help: str
    choices: tuple[Value, ...] = ()
    late: bool = False


def resolve_options(
    where: str, declared: Mapping[str, Option], given: Mapping[str, Value], error: type[UserError]
) -> dict[str, Value]:
    """Every declared option with its value: the given one, checked and brought to its type, or the default.

    Late options are there only with another value than their default.
    """
    for key in given:
        if key not in declared:
            raise error(unknown("option", key, declared, where))
    values = {
        key: _option(option, given[key], f"{where}.{key}", error) if key in given else option.default
        for key, option in declared.items()
    }
    return {key: value for key, value in values.items() if not (declared[key].late and value == declared[key].default)}


def _option(option: Option, value: Value, where: str, error: type[UserError]) -> Value:
    """Options also come as text, from the environment or a table: text that reads as the option's type is taken."""
    kind = type(option.default)
    if isinstance(value, str) and kind is not str:
        value = _read(value, kind)
    converted: Value = _convert_scalar(value, kind, where, error)
    if option.choices and converted not in option.choices:
        raise error(f"{where}: {converted!r} is not known; {nearest(str(converted), [str(c) for c in option.choices])}")
    return converted


def _read(text: str, kind: type[Value]) -> Value:
    """`text` as `kind` where it can be read as one, else as it is."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


@cache
def _shape(cls: type) -> tuple[dict[str, Any], dict[str, Field[Any]]]:
    keys = {spec.name: spec for spec in fields(cls) if spec.metadata.get("key", True)}
    return get_type_hints(cls), keys


def _label(item: object, index: int) -> str:
    return str(item["id"]) if isinstance(item, dict) and "id" in item else str(index)


def _union(value: object, hints: tuple[Any, ...], where: str, error: type[UserError]) -> Any:
    """A value that is of one of the types as it stands, or one of the words of a Literal among them."""
    words = [word for hint in hints if get_origin(hint) is Literal for word in get_args(hint)]
    plain = [hint for hint in hints if get_origin(hint) is not Literal]
    if value in words or type(value) in plain:
        return _meant(value, where, error)
    if float in plain and type(value) is int:
        return float(_meant(value, where, error))
    wanted = [repr(word) for word in words] + [_SCALARS[hint] for hint in plain]
    raise error(f"{where}: expected {' or '.join(wanted)}, got {value!r}")


def _convert_choice(value: object, words: tuple[Any, ...], where: str, error: type[UserError]) -> Any:
    if value not in words or isinstance(value, bool) is not isinstance(words[0], bool):
        raise error(f"{where}: {value!r} is not known; {nearest(str(value), [str(word) for word in words])}")
    return value


def _convert_scalar(value: object, hint: type, where: str, error: type[UserError]) -> Any:
    if hint is float and type(value) is int:
        return float(_meant(value, where, error))
    if type(value) is not hint:
        raise error(f"{where}: expected {_SCALARS[hint]}, got {value!r}")
    return _meant(value, where, error)


def _meant(value: Any, where: str, error: type[UserError]) -> Any:
    """A number that can be meant: finite, and within what a double counts exactly or a float32 can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        raise error(f"{where}: must be finite, got {value!r}")
    if isinstance(value, int) and abs(value) > _MOST_WHOLE:
        raise error(f"{where}: must be at most {_MOST_WHOLE:,}, got {shortened(value)}")
    if isinstance(value, float) and abs(value) > _MOST_NUMBER:
        raise error(f"{where}: must be at most {_MOST_NUMBER:g}, got {value!r}")
    return value


def shortened(value: int) -> str:
    """A whole number for a message: not hundreds of digits, nor more than Python writes."""
    return str(value) if value.bit_length() < 64 else f"a number of {value.bit_length()} bits"
