"""The options of an objective, checked and complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import get_type_hints

from ferbench.bench.pretraining import OBJECTIVES
from ferbench.methods import MethodError
from ferbench.validation import convert, unknown


def objective_values(name: str, options: Mapping[str, object], *, released: bool = False) -> dict[str, object]:
    """Defaults, the released code's values over them where asked, then `options`. Raises MethodError."""
    if name not in OBJECTIVES:
        raise MethodError(unknown("objective", name, OBJECTIVES))
    kind = OBJECTIVES[name]
    hints = get_type_hints(kind.Options)
    values = {field.name: field.default for field in fields(kind.Options)}
    values |= kind.released if released else {}
    for key, value in options.items():
        if key not in values:
            raise MethodError(unknown("option", key, values, name))
        convert(value, hints[key], f"{name}.{key}", MethodError)
        values[key] = value
    try:
        kind.Options(**values)
    except ValueError as error:
        raise MethodError(f"{name}: {error}") from error
    return values
