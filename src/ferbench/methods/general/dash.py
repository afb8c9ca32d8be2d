"""Dash: an unlabelled image is kept while the loss of its own weak prediction is below a falling threshold.

Paper: Xu et al., "Dash: Semi-Supervised Learning with Dynamic Thresholding", ICML 2021, Algorithm 1; no code was
released, TorchSSL and USB hold reimplementations.

After a supervised warm-up rho is the mean labelled loss. The threshold is rho_k = max(C gamma^-k rho, rho_min). The
target is the weak probabilities sharpened by T while rho_k > rho_min, their argmax from then on; an image is kept
where the cross-entropy of its weak logits and that target is at most rho_k. The strong view is taught the target.

1. Warm-up (`warm_up`): 2048 of 2^20 steps in the reimplementations, here that share of any run, in whole steps. USB's
   warm-up comes before its steps and without its average, here it is the first of them.
2. rho is the mean loss of the labelled batches over the second half of the warm-up, each met before its own step. By
   then a run has seen its labels few times, so that rho is not that of labels learnt by heart. The paper takes the mean
   over the labelled set after the warm-up; USB takes it on its evaluation set, the test set, and no variant here does.
3. k counts fractions of training (`decay_every`, 10 of 1024 epochs in USB) from the end of the warm-up, so that the
   first threshold is C rho, and the floor is reached at the same share of any run.
4. `usb`: one pass over all views. The threshold of 0.95 in USB's configurations has no effect there. Its family that
   starts from weights (config/usb_cv) has a warm-up of 2,048 of 204,800 steps and falls every 10 of 200 epochs.

Each step logs rho and rho_k. State: the sum and the number of the losses that rho is the mean of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ferbench.methods.base import Facts, Labelled, Model, Passes, Progress, PseudoLabels, StepResult, Unlabelled
from ferbench.methods.blocks.limits import above_zero, not_negative
from ferbench.methods.blocks.reduce import batch_mean
from ferbench.methods.blocks.targets import hardened, probabilities
from ferbench.methods.consistency import Consistency, ConsistencyOptions, cross_entropy


@dataclass(frozen=True)
class DashOptions(ConsistencyOptions):
    """factor: C; warm_up, decay_every: fractions of training, the latter between two falls of the threshold."""

    factor: float = 1.0001
    gamma: float = 1.27
    rho_min: float = 0.05
    temperature: float = 0.5
    warm_up: float = 2048 / 2**20
    decay_every: float = 10 / 1024

    def __post_init__(self) -> None:
        above_zero(self, "factor", "gamma", "temperature", "warm_up", "decay_every")
        if self.warm_up >= 1:
            raise ValueError(f"option 'warm_up' is a fraction of training, below 1, not {self.warm_up}")
        not_negative(self, "rho_min", "unlabelled_weight")


class Dash(Consistency):
    Options = DashOptions
    usb: ClassVar[Mapping[str, object]] = {"joint": "all"}
    paper = "Xu et al., ICML 2021"
    options: DashOptions
    known: Tensor  # [2]: sum and number of the labelled losses
    steps: int = 1
    warm_steps: int = 1

    def __init__(self, model: Model, options: DashOptions) -> None:
        super().__init__(model, options)
        self.register_buffer("known", torch.zeros(2))

    def begin(self, facts: Facts) -> None:
        self.steps = facts.steps
        self.warm_steps = max(1, round(self.options.warm_up * facts.steps))

    @property
    def rho(self) -> Tensor:
        """0-d; 0 before the second half of the warm-up."""
        return self.known[0] / self.known[1].clamp(min=1)

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        result = super().step(labelled, unlabelled, progress)
        return result._replace(figures={"rho": self.rho, "rho_k": self.thresholds()})

    def thresholds(self) -> Tensor:
        """rho_k, a loss; 0 in the warm-up, where nothing is kept."""
        after = torch.round(self.progress.fraction * self.steps) - self.warm_steps
        falls = torch.floor(after / (self.options.decay_every * self.steps))
        limit = self.options.factor * self.options.gamma**-falls * self.rho
        return torch.where(after >= 0, limit.clamp(min=self.options.rho_min), 0.0)

    def target(self, passes: Passes) -> Tensor:
        """[U, K]: sharpened, one-hot once the threshold is at its floor."""
        logits = passes.weak[0].logits.detach().float()
        soft = (logits / self.options.temperature).softmax(dim=1)
        return torch.where(self.thresholds() > self.options.rho_min, soft, hardened(logits))

    def pseudo_labels(self, passes: Passes) -> PseudoLabels:
        loss = cross_entropy(passes.weak[0].logits.detach(), self.target(passes))
        confidence, label = probabilities(passes.weak[0]).max(dim=1)
        limit = self.thresholds()
        return PseudoLabels(label, (loss <= limit) & (limit > 0), confidence)

    def losses(self, passes: Passes, labels: Tensor, pseudo: PseudoLabels | None) -> dict[str, Tensor]:
        assert pseudo is not None
        terms = super().losses(passes, labels, pseudo)
        self._learn(cross_entropy(passes.labelled.logits, labels))
        return {**terms, "unsupervised": self.unsupervised(passes, self.target(passes), pseudo.keep)}

    def _learn(self, losses: Tensor) -> None:
        """The batch's labelled losses [B] join rho in the second half of the warm-up."""
        step = torch.round(self.progress.fraction * self.steps)
        counts = ((step >= self.warm_steps // 2) & (step < self.warm_steps)).float()
        self.known.add_(counts * torch.stack([batch_mean(losses), torch.ones_like(counts)]))
