"""Training methods by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ferbench.methods import baselines
from ferbench.methods.base import (
    Ask,
    Facts,
    Labelled,
    Learner,
    Method,
    MethodError,
    Model,
    Passes,
    PlugIn,
    Prediction,
    Progress,
    PseudoLabels,
    Scored,
    StepResult,
    Unlabelled,
    View,
    Views,
)
from ferbench.methods.general.fixmatch import FixMatch
from ferbench.methods.general.vanilla import Vanilla
from ferbench.methods.papers.adacm import AdaCM
from ferbench.methods.papers.leaf import LEAF
from ferbench.methods.papers.pll_fer import PLLFER
from ferbench.methods.papers.remop import ReMoP
from ferbench.methods.papers.ssfer import SSFER
from ferbench.methods.partial_label.crpll import CRPLL
from ferbench.methods.partial_label.lw import LW
from ferbench.methods.partial_label.pico import PiCO
from ferbench.methods.partial_label.pll import PLL
from ferbench.methods.partial_label.rc import RC

__all__ = [
    "Ask", "Facts", "LEARNERS", "Labelled", "Learner", "METHODS", "Method", "MethodError", "Model", "PLUG_INS",
    "Passes", "PlugIn", "Prediction", "Progress", "PseudoLabels", "Scored", "StepResult", "Unlabelled", "Variant",
    "View", "Views", "build", "option_values",
]  # fmt: skip

Variant = Literal["paper", "released", "usb"]

LEARNERS: dict[str, type[Learner]] = {
    "vanilla": Vanilla, "fixmatch": FixMatch, "adacm": AdaCM, **baselines.LEARNERS,
}  # fmt: skip
PLUG_INS: dict[str, type[PlugIn]] = {"remop": ReMoP, "leaf": LEAF, **baselines.PLUG_INS}
PARTIAL: dict[str, type[Method]] = {
    "pll": PLL, "pll_fer": PLLFER, "rc": RC, "lw": LW, "pico": PiCO, "crpll": CRPLL,
}  # fmt: skip
METHODS: dict[str, type[Method]] = {**LEARNERS, **PLUG_INS, **PARTIAL, **baselines.ALONE, "ssfer": SSFER}


def option_values(name: str, variant: Variant, options: Mapping[str, object]) -> dict[str, object]:
    """All hyper-parameters of a method, defaults filled in: the paper's, the variant's over them, then `options`.

    A plug-in takes `learner` (default fixmatch, or what its variant names) and that learner's options as well as its
    own; its released values may set the learner's, where the learner has them. Raises MethodError.
    """
    if name not in METHODS:
        raise MethodError(f"unknown method '{name}'; {_hint(name, METHODS)}")
    values: dict[str, object] = {}
    owners = [METHODS[name]]
    if name in PLUG_INS:
        learner = str(options.get("learner", _changes(METHODS[name], variant).get("learner", "fixmatch")))
        if learner not in LEARNERS:
            raise MethodError(f"unknown learner '{learner}' for {name}; {_hint(learner, LEARNERS)}")
        values["learner"] = learner
        owners.insert(0, LEARNERS[learner])
    for owner in owners:
        values |= {field.name: field.default for field in fields(owner.Options)}
    for owner in owners:
        values |= {key: value for key, value in _changes(owner, variant).items() if key in values}
    for key, value in options.items():
        if key not in values:
            raise MethodError(f"unknown option '{key}' for {name}; {_hint(key, values)}")
        _check(name, key, value, [hint for owner in owners if (hint := _hints(owner.Options).get(key))])
        values[key] = value
    for owner in owners:
        try:
            _options(owner, values)
        except ValueError as error:
            raise MethodError(f"{name}: {error}") from error
    return values


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


def _check(name: str, key: str, value: object, hints: list[Any]) -> None:
    """Raise MethodError for a value that the option's annotation in `Options` does not allow."""
    for hint in hints:
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
        plain = {kind for kind in kinds if isinstance(kind, type)} | ({int} if float in kinds else set())
        if value not in choices and type(value) not in plain:
            wanted = [repr(choice) for choice in choices] + [_WORDS[kind] for kind in kinds if kind in _WORDS]
            raise MethodError(f"option '{key}' of {name} cannot be {value!r}; it takes {', '.join(wanted)}")


_WORDS: dict[Any, str] = {
    float: "a number", int: "a whole number", bool: "true or false", str: "a word", NoneType: "null",
}  # fmt: skip


def _hint(name: str, valid: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, valid, n=1)
    return (f"did you mean '{close[0]}'? " if close else "") + "valid: " + ", ".join(sorted(valid))
