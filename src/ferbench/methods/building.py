"""From a method's name and the options that a user sets to the method around a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, get_type_hints

from ferbench.methods.base import Method, Model
from ferbench.methods.register import LEARNERS, METHODS, PLUG_INS, MethodError, Variant
from ferbench.validation import convert, unknown


def option_values(name: str, variant: Variant, options: Mapping[str, object]) -> dict[str, object]:
    """All hyper-parameters of a method, defaults filled in: the paper's, the variant's over them, then `options`.

    A plug-in takes `learner` (default fixmatch, or what its variant names) and that learner's options as well as its
    own; its released values may set the learner's, where the learner has them. Raises MethodError.
    """
    values: dict[str, object] = {}
    owners = [METHODS.find(name)]
    if name in PLUG_INS:
        learner = str(options.get("learner", _changes(METHODS[name], variant).get("learner", "fixmatch")))
        if learner not in LEARNERS:
            raise MethodError(unknown("learner", learner, LEARNERS, name))
        values["learner"] = learner
        owners.insert(0, LEARNERS[learner])
    for owner in owners:
        values |= {field.name: field.default for field in fields(owner.Options)}
    for owner in owners:
        values |= {key: value for key, value in _changes(owner, variant).items() if key in values}
    for key, value in options.items():
        if key not in values:
            raise MethodError(unknown("option", key, values, name))
        for owner in owners:
            if key in _hints(owner.Options):  # checked, and kept as it was written: 1 stays 1 in the run's spec
                convert(value, _hints(owner.Options)[key], f"{name}.{key}", MethodError)
        values[key] = value
    for owner in owners:
        try:
            _options(owner, values)
        except ValueError as error:
            raise MethodError(f"{name}: {error}") from error
    return values


def completed(name: str, values: Mapping[str, object]) -> dict[str, object]:
    """The options `values` of an earlier run with those that came later, at what the run did without them.

    A field of a method's options says so in its metadata: `formerly` is the value, or makes it of the other options.
    """
    owners = [METHODS[name], *([LEARNERS[str(values["learner"])]] if values.get("learner") in LEARNERS else [])]
    declared = [field for owner in owners for field in fields(owner.Options)]
    later = {field.name: field.metadata["formerly"] for field in declared if "formerly" in field.metadata}
    return {key: value(values) if callable(value) else value for key, value in later.items()} | dict(values)


def _changes(owner: type[Method], variant: Variant) -> Mapping[str, object]:
    """The options that a variant sets otherwise than the paper."""
    return {"paper": {}, "released": owner.released, "usb": owner.usb}[variant]


def build(name: str, model: Model, values: Mapping[str, object]) -> Method:
    """A method around `model`, from the complete `values` that `option_values` returns."""
    if name not in PLUG_INS:
        return METHODS[name](model, _options(METHODS[name], values))
    plug_in, learner = PLUG_INS[name], LEARNERS[str(values["learner"])]
    options = _options(plug_in, values)
    plug_in.prepare(model, options)
    return plug_in(learner(model, _options(learner, values)), model, options)


def needs_boxes(name: str, values: Mapping[str, object]) -> bool:
    """Whether the method looks at face boxes under the complete `values`."""
    return METHODS[name].needs_boxes(_options(METHODS[name], values))


def _options(owner: type[Method], values: Mapping[str, object]) -> object:
    return owner.Options(**{field.name: values[field.name] for field in fields(owner.Options)})


@cache
def _hints(options: type) -> dict[str, Any]:
    return get_type_hints(options)
