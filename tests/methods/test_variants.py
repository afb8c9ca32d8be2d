"""What the variants of the baselines set, and option values that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from ferbench.methods import METHODS, MethodError, option_values
from ferbench.methods.register import PAPERS, PARTIAL_LABEL

TOOLBOX = {  # microsoft/Semi-supervised-learning at 1ef4cbe, config/classic_cv and the defaults of its arguments
    "fixmatch": {"threshold": 0.95, "unlabelled_weight": 1, "joint": "all"},
    "flexmatch": {"threshold": 0.95, "warm_up": True, "unlabelled_weight": 1, "joint": "all"},
    "freematch": {"momentum": 0.999, "fairness_weight": 0.001, "joint": "all"},
    "softmatch": {"momentum": 0.999, "n_sigma": 2, "joint": "all"},
    "adamatch": {"threshold": 0.95, "momentum": 0.999, "window": 0, "ramp": 0, "interpolate": False, "joint": "all"},
    "dash": {"factor": 1.0001, "gamma": 1.27, "rho_min": 0.05, "temperature": 0.5, "joint": "all"},
    "defixmatch": {"threshold": 0.95, "unlabelled_weight": 0.5, "joint": "all"},
    "uda": {"threshold": 0.8, "temperature": 1, "tsa": "none", "tsa_of": "largest", "joint": "all"},
    "pseudo_label": {"threshold": 0.95, "unlabelled_weight": 1, "ramp_start": 0, "ramp": 0.4},
    "pi_model": {"unlabelled_weight": 10, "ramp": 0.4},
    "mean_teacher": {"unlabelled_weight": 0, "ramp": 0.4, "decay": 0.999},
    "vat": {"epsilon": 6, "epsilon_at": 0, "xi": 1e-6, "unlabelled_weight": 1, "entropy_weight": 0.06, "ramp": 0.4},
    "mixmatch": {"alpha": 0.5, "temperature": 0.5, "unlabelled_weight": 100, "ramp": 0.4, "interleave": False},
    "remixmatch": {
        "alpha": 0.75, "unlabelled_weight": 1.5, "anchor_weight": 0.5, "rotation_weight": 0.5, "ramp": 1 / 64,
        "window": 0, "labelled_view": "weak", "interleave": False,
    },
    "comatch": {
        "temperature": 0.2, "alpha": 0.9, "threshold": 0.95, "edge": 0.8, "queue": 2560, "window": 32, "width": 64,
        "projections": 3, "from_epoch": 1, "joint": "all",
    },
    "simmatch": {
        "temperature": 0.1, "alpha": 0.9, "threshold": 0.95, "similarity_weight": 1, "window": 32, "width": 128,
        "projections": 3, "teacher": "bank",
    },
    "abc": {"auxiliary_threshold": 0.95, "auxiliary_weight": 1, "target": "hard", "strong_views": 1, "joint": "all"},
}  # fmt: skip


@pytest.mark.parametrize("name", TOOLBOX)
def test_usb(name: str) -> None:
    values = option_values(name, "usb", {})
    assert {key: values[key] for key in TOOLBOX[name]} == TOOLBOX[name]


@pytest.mark.parametrize("name", [name for name in METHODS if name not in {*PAPERS, *PARTIAL_LABEL}])
@pytest.mark.parametrize("variant", ["paper", "released", "usb"])
def test_every_variant_passes_its_own_limits(name: str, variant: Any) -> None:
    assert option_values(name, variant, {})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("uda", {"temperature": 0.0}, "uda: option 'temperature' must be above 0, not 0.0"),
        ("flexmatch", {"threshold": 1.5}, "flexmatch: option 'threshold' must lie in [0, 1], not 1.5"),
        ("mixmatch", {"alpha": -1.0}, "mixmatch: option 'alpha' must be above 0, not -1.0"),
        ("comatch", {"queue": 0}, "comatch: option 'queue' must be above 0, not 0"),
        ("lion", {"momentum": 2.0}, "lion: option 'momentum' must lie in [0, 1], not 2.0"),
        ("inpl", {"quantile": -0.1}, "inpl: option 'quantile' must lie in [0, 1], not -0.1"),
        ("abc", {"strong_views": 3}, "abc.strong_views: 3 is not known; valid: 1, 2"),
        ("adamatch", {"window": -1}, "adamatch: option 'window' must be at least 0, not -1"),
    ],
)
def test_refused(name: str, options: Any, message: str) -> None:
    with pytest.raises(MethodError) as caught:
        option_values(name, "paper", options)
    assert str(caught.value) == message
