"""What steps log, summed over an epoch on the device until somebody looks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ferbench.kernels import pseudo_counts
from ferbench.methods import StepResult

COUNTED = ("kept", "known", "kept known", "correct", "kept correct")


class Sums:
    """One vector of sums, whose names the first step gives; a step adds to it in place.

    loss, loss/NAME and figure/NAME sum what steps returned. With pseudo-labels COUNTED are numbers of unlabelled
    images: confident ones, those whose class is known (for the log alone), both, and of each the rightly labelled.
    Of a plug-in there are also the confident ones that it labels otherwise than its learner ("kept changed").
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.values: Tensor | None = None  # [names] float32 on the device

    @torch.no_grad()
    def add(self, loss: Tensor, result: StepResult, truth: Tensor | None) -> None:
        """Add one step, without waiting for the device; truth: [U] the unlabelled images' classes, -1 where unknown."""
        terms = {"loss": loss}
        terms |= {f"loss/{name}": value for name, value in result.losses.items()}
        terms |= {f"figure/{name}": value for name, value in (result.figures or {}).items()}
        row, names = torch.stack([value.float() for value in terms.values()]), tuple(terms)
        if result.pseudo is not None and truth is not None:
            pseudo = result.pseudo
            row = torch.cat([row, pseudo_counts(pseudo.label, pseudo.keep, truth, pseudo.changed)])
            names += COUNTED if pseudo.changed is None else (*COUNTED, "kept changed")
        if self.values is None:
            self.names, self.values = names, torch.full_like(row, -0.0)
        self.values.add_(row)

    def clear(self) -> None:
        """Begin an epoch. The sums start at -0, to which adding a number gives that number, a -0 as well."""
        if self.values is not None:
            self.values.fill_(-0.0)

    def look(self) -> dict[str, float]:
        """The sums by name: waits for the device."""
        return dict(zip(self.names, self.values.tolist(), strict=True)) if self.values is not None else {}

    def to_dict(self) -> dict[str, Tensor]:
        """Each sum by name, for a checkpoint."""
        return dict(zip(self.names, self.values.clone(), strict=True)) if self.values is not None else {}

    def load(self, saved: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on from `to_dict`'s; what older checkpoints hold beside it is left out."""
        kept = {name: value for name, value in saved.items() if name not in ("steps", "unlabelled")}
        if kept:
            self.names, self.values = tuple(kept), torch.stack(list(kept.values())).to(device)
