"""The options of an objective, checked and complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from ferbench.bench.masked import OBJECTIVES
from ferbench.methods import MethodError
from ferbench.protocols import ProtocolError
from ferbench.protocols.checks import build, nearest


def objective_values(name: str, options: Mapping[str, object], *, released: bool = False) -> dict[str, object]:
    """Defaults, the released code's values over them where asked, then `options`. Raises MethodError."""
    if name not in OBJECTIVES:
        raise MethodError(f"unknown objective '{name}'; {nearest(name, OBJECTIVES, 'objectives')}")
    kind = OBJECTIVES[name]
    values = {field.name: field.default for field in fields(kind.Options)}
    values |= kind.released if released else {}
    for key, value in options.items():
        if key not in values:
            raise MethodError(f"unknown option '{key}' for {name}; {nearest(key, values, 'options')}")
        values[key] = value
    return values
