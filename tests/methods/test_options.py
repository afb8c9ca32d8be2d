"""Options by name: the papers' values, the released code's over them, the user's over both; and the error lines."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
import torch

from ferbench.methods import LEARNERS, METHODS, MethodError, build, option_values

REMOP_PAPER = {  # Sec. 5.2, Eqs. 3-9
    "learner": "fixmatch",
    "threshold": 0.95,
    "unlabelled_weight": 1.0,
    "beta": 0.5,
    "lambda_center": 1e-4,
    "lambda_reg": 0.1,
    "mix": "paper",
    "gate": "linear",
    "etf": "paper",
    "center_scale": 1.0,
    "center_feature": "encoded",
    "center_grad_scale": 1.0,
    "center_lr": None,
    "average_centers": True,
    "mixture_at_test": True,
    "reduction": "mean",
    "joint": False,
}

REMOP_RELEASED = {  # what the released code does otherwise: name and value
    "p_s is a dot product; logits are mixed": ("mix", "released"),
    "the gate is the mixture's": ("gate", "mixture"),
    "0.2 x mean over all unlabelled images": ("unlabelled_weight", 0.2),
    "supervised mean": ("reduction", "mean"),
    "centre loss without the half": ("center_scale", 2.0),
    "Frobenius norm in place of Eq. 8": ("etf", "released"),
    "centre gradients divided by lambda_1": ("center_grad_scale", 1e4),
    "averaged features, current centres": ("average_centers", False),
    "features after dropout": ("center_feature", "features"),
    "three separate passes": ("joint", False),
}


def test_remop_defaults_are_the_papers() -> None:
    assert option_values("remop", "paper", {}) == REMOP_PAPER


@pytest.mark.parametrize(("option", "value"), REMOP_RELEASED.values(), ids=REMOP_RELEASED.keys())
def test_remop_released(option: str, value: object) -> None:
    assert option_values("remop", "released", {})[option] == value


def test_remop_released_changes_nothing_else() -> None:
    assert option_values("remop", "released", {}) == REMOP_PAPER | dict(REMOP_RELEASED.values())


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_fixmatch_alone_keeps_unlabelled_weight_1(variant: Any) -> None:
    """The 0.2 is the plug-in's: the released code holds no FixMatch baseline."""
    expected = {"threshold": 0.95, "unlabelled_weight": 1.0, "reduction": "mean", "joint": False}
    assert option_values("fixmatch", variant, {}) == expected


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_vanilla_under_remop_has_no_unlabelled_options(variant: Any) -> None:
    values = option_values("remop", variant, {"learner": "vanilla"})
    assert values["learner"] == "vanilla"
    assert not {"threshold", "unlabelled_weight", "joint"} & values.keys()
    assert option_values("vanilla", variant, {}) == {"reduction": "mean"}


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_user_options_come_last(variant: Any) -> None:
    options = {"unlabelled_weight": 0.7, "mix": "paper", "lambda_reg": 0.0, "threshold": 0.8, "reduction": "sum"}
    values = option_values("remop", variant, options)
    assert {name: values[name] for name in options} == options


def test_options_reach_learner_and_plug_in(network: Any) -> None:
    options = {"threshold": 0.8, "beta": 0.9, "reduction": "sum"}
    method: Any = build("remop", network(), option_values("remop", "paper", options))
    assert (method.options.beta, method.options.reduction) == (0.9, "sum")
    assert (method.learner.options.threshold, method.learner.options.reduction) == (0.8, "sum")
    assert isinstance(method.learner, LEARNERS["fixmatch"])
    assert method.views == method.learner.views


def test_centers_start_from_a_standard_normal(network: Any) -> None:
    torch.manual_seed(0)
    method = build("remop", network(feature_width=512, num_classes=7), option_values("remop", "paper", {}))
    centers = method.get_parameter("centers")
    assert tuple(centers.shape) == (7, 512)
    assert centers.mean().item() == pytest.approx(0, abs=0.05)
    assert centers.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("lr", [1e-4, 0.3])
@pytest.mark.parametrize("center_lr", [None, 0.02])
def test_centers_have_a_group_of_their_own(lr: float, center_lr: float | None, network: Any) -> None:
    method = build("remop", network(), option_values("remop", "paper", {"center_lr": center_lr}))
    *inner, last = method.parameter_groups(lr)
    assert all(group["lr"] == lr for group in inner)
    assert last["params"] == [method.get_parameter("centers")]
    assert (last["lr"], last["weight_decay"]) == (lr if center_lr is None else center_lr, 0.0)


ERRORS: dict[str, tuple[str, dict[str, object], str]] = {
    "method": ("fixmach", {}, "unknown method 'fixmach'; did you mean 'fixmatch'?"),
    "nothing near": ("zzz", {}, "unknown method 'zzz'; valid: "),
    "option": ("fixmatch", {"treshold": 1}, "fixmatch: unknown option 'treshold'; did you mean 'threshold'?"),
    "not a plug-in": ("fixmatch", {"learner": "vanilla"}, "fixmatch: unknown option 'learner'; valid: "),
    "learner": ("remop", {"learner": "vanila"}, "remop: unknown learner 'vanila'; did you mean 'vanilla'?"),
    "plug-in on plug-in": ("remop", {"learner": "remop"}, "remop: unknown learner 'remop'; valid: "),
    "not this learner's": ("remop", {"learner": "vanilla", "joint": True}, "remop: unknown option 'joint'; "),
}


@pytest.mark.parametrize(("name", "options", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_error_lines(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(MethodError) as error:
        option_values(name, "paper", options)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert "valid: " in str(error.value) or "did you mean" in str(error.value)


@pytest.mark.parametrize("name", METHODS)
def test_options_are_frozen_and_documented(name: str) -> None:
    method = METHODS[name]
    options = method.Options()
    with pytest.raises(FrozenInstanceError):
        setattr(options, fields(method.Options)[0].name, None)
    assert method.Options.__doc__ and method.paper
    assert all(value is None or isinstance(value, (bool, int, float, str)) for value in vars(options).values())


@pytest.mark.parametrize("name", METHODS)
def test_released_values_are_options_somewhere(name: str) -> None:
    """A misspelt released value would be dropped without a word."""
    learners = LEARNERS if name in METHODS and name not in LEARNERS else {}
    known = {field.name for owner in (METHODS[name], *learners.values()) for field in fields(owner.Options)}
    known |= {"learner"} if learners else set()
    assert METHODS[name].released.keys() <= known
