"""Options of a data set reader: declared once, checked in the same words wherever they were written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ferbench.bench.data.faceset import DataError

Value = str | int | float | bool


@dataclass(frozen=True)
class Option:
    """One option: its default (whose type is the option's type), its meaning, and the values allowed, () for any.

    late: added after runs had been recorded: at its default it is not there at all, so that their identity stays
    """

    default: Value
    help: str
    choices: tuple[Value, ...] = ()
    late: bool = False


def resolve_options(dataset: str, declared: Mapping[str, Option], given: Mapping[str, Value]) -> dict[str, Value]:
    """Every declared option with its value: the given one, checked and brought to its type, or the default.

    Late options are there only with another value than their default.
    """
    for key in given:
        if key not in declared:
            raise DataError(f"unknown option {key!r} for {dataset}; options: {', '.join(declared) or 'none'}")
    values = {
        key: _convert(dataset, key, option, given[key]) if key in given else option.default
        for key, option in declared.items()
    }
    return {key: value for key, value in values.items() if not (declared[key].late and value == declared[key].default)}


def _convert(dataset: str, key: str, option: Option, value: Value) -> Value:
    converted = _parse(value, type(option.default))
    if converted is None:
        wanted = {str: "a word", int: "a whole number", float: "a number", bool: "true or false"}[type(option.default)]
        raise DataError(f"option {key!r} for {dataset} must be {wanted}, not {value!r}")
    if option.choices and converted not in option.choices:
        choices = ", ".join(str(choice) for choice in option.choices)
        raise DataError(f"option {key!r} for {dataset} cannot be {value!r}; choices: {choices}")
    return converted


def _parse(value: Value, kind: type[Value]) -> Value | None:
    """`value` as `kind`, None where it cannot be read as one: text is parsed, but a bool is no number, 7.5 no int."""
    if kind is bool:
        return value if isinstance(value, bool) else {"true": True, "false": False}.get(str(value).lower())
    if kind is str:
        return value if isinstance(value, str) else None
    if isinstance(value, bool) or (kind is int and isinstance(value, float)):
        return None
    try:
        return kind(value)
    except ValueError:
        return None
