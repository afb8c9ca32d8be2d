"""A number is looked at before it is kept: scores and weights that are not finite end a run, they are no record of it.

The losses are looked at as well, but they are those before the last update: it can spoil the weights after them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ferbench.errors import UserError

MEND = "try a lower learning rate, gradient clipping or float32"


class TrainingError(UserError):
    """Training went wrong (a loss, a weight or a score is not finite); the message is one line."""


def check_weights(*models: nn.Module) -> None:
    """Raise TrainingError where a parameter or buffer is not finite; one look at the device for each model."""
    for model in models:
        if broken := not_finite(model.state_dict()):
            raise TrainingError(f"{_named(broken)} not finite; nothing of it was kept; {MEND}")


def check_scores(scores: Mapping[str, NDArray[np.float32]], model: nn.Module) -> None:
    """Raise TrainingError where scores [N, K] by inference rule are not finite: which rule, how many, by what."""
    for rule, values in scores.items():
        wrong = int((~np.isfinite(values).all(axis=1)).sum())
        if wrong:
            broken = not_finite(model.state_dict())
            because = f"{_named(broken)} not finite" if broken else "all weights are finite"
            raise TrainingError(
                f"the scores by rule '{rule}' of {wrong} of {len(values)} images are not finite ({because}); {MEND}"
            )


@torch.no_grad()
def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the floating tensors that hold an infinity or are no number."""
    floating = {name: value for name, value in state.items() if value.is_floating_point() and value.numel()}
    if not floating:
        return []
    fine = torch.stack([value.isfinite().all() for value in floating.values()]).tolist()
    return [name for name, whole in zip(floating, fine, strict=True) if not whole]


def _named(broken: list[str]) -> str:
    more = f" and {len(broken) - 1} more are" if len(broken) > 1 else " is"
    return f"{broken[0]}{more}"
