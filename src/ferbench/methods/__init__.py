"""Which method trains the network: a file per method, in rooms by field.

`papers` holds the five papers' methods, `general` the semi-supervised ones, `imbalanced`, `faces` and `partial_label`
those of their fields, `blocks` what several share. Start with `base.py`, the contract between a method and the loop,
then read `general/fixmatch.py`. `register.py` has a line per method.

The names below are imported when they are first used, so that a list of methods does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ferbench.methods.register import LEARNERS, METHODS, PLUG_INS, MethodError, Variant, register

if TYPE_CHECKING:
    from ferbench.methods.base import (
        Ask,
        Facts,
        Labelled,
        Learner,
        Method,
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
    from ferbench.methods.building import build, completed, needs_boxes, option_values

__all__ = [
    "Ask",
    "Facts",
    "LEARNERS",
    "Labelled",
    "Learner",
    "METHODS",
    "Method",
    "MethodError",
    "Model",
    "PLUG_INS",
    "Passes",
    "PlugIn",
    "Prediction",
    "Progress",
    "PseudoLabels",
    "Scored",
    "StepResult",
    "Unlabelled",
    "Variant",
    "View",
    "Views",
    "build",
    "completed",
    "needs_boxes",
    "option_values",
    "register",
]

_BUILDING = ("build", "completed", "needs_boxes", "option_values")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'building' if name in _BUILDING else 'base'}"), name)
