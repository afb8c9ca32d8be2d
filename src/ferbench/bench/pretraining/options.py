"""The options of an objective, checked and complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ferbench.bench.pretraining import OBJECTIVES
from ferbench.methods import MethodError
from ferbench.protocols.checks import nearest


def objective_values(name: str, options: Mapping[str, object], *, released: bool = False) -> dict[str, object]:
    """Defaults, the released code's values over them where asked, then `options`. Raises MethodError."""
    if name not in OBJECTIVES:
        raise MethodError(f"unknown objective '{name}'; {nearest(name, OBJECTIVES, 'objectives')}")
    kind = OBJECTIVES[name]
    hints = get_type_hints(kind.Options)
    values = {field.name: field.default for field in fields(kind.Options)}
    values |= kind.released if released else {}
    for key, value in options.items():
        if key not in values:
            raise MethodError(f"unknown option '{key}' for {name}; {nearest(key, values, 'options')}")
        if not _allowed(value, hints[key]):
            raise MethodError(f"option '{key}' of {name} cannot be {value!r}; it takes {_said(hints[key])}")
        values[key] = value
    try:
        kind.Options(**values)
    except ValueError as error:
        raise MethodError(f"{name}: {error}") from error
    return values


def _allowed(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    return type(value) is hint or (hint is float and type(value) is int)


def _said(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(map(repr, get_args(hint)))
    return {float: "a number", int: "a whole number", bool: "true or false"}.get(hint, "a word")
