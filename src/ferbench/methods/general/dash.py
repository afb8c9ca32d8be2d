"""Dash: an unlabelled image is kept while the loss of its own weak prediction is below a falling threshold.

Paper: Xu et al., "Dash: Semi-Supervised Learning with Dynamic Thresholding", ICML 2021, Algorithm 1; no code was
released, TorchSSL and USB hold reimplementations.

After a supervised warm-up rho is the mean labelled loss. The threshold is rho_k = max(C gamma^-k rho, rho_min). The
target is the weak probabilities sharpened by T while rho_k > rho_min, their argmax from then on; an image is kept
where the cross-entropy of its weak logits and that target is at most rho_k. The strong view is taught the target.

1. Warm-up (`warm_up`): whole epochs here (2048 of 2^20 steps in the reimplementations), since rho is taken between
   epochs.
2. rho is the mean loss of the labelled images without augmentation; USB takes it on its evaluation set, the test set,
   and no variant here does.
3. k counts fractions of training (`decay_every`, 10 of 1024 epochs in USB): the threshold reaches its floor at the same
   share of any run.
4. `usb`: one pass over all views. The threshold of 0.95 in USB's configurations has no effect there.

State: rho, 0 before the warm-up has ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ferbench.methods.base import Ask, Model, Passes, Progress, PseudoLabels
from ferbench.methods.blocks.limits import above_zero, not_negative
from ferbench.methods.blocks.targets import hardened, probabilities
from ferbench.methods.consistency import Consistency, ConsistencyOptions, cross_entropy


@dataclass(frozen=True)
class DashOptions(ConsistencyOptions):
    """factor: C; warm_up: epochs; decay_every: the fraction of training between two falls of the threshold."""

    factor: float = 1.0001
    gamma: float = 1.27
    rho_min: float = 0.05
    temperature: float = 0.5
    warm_up: int = 1
    decay_every: float = 10 / 1024

    def __post_init__(self) -> None:
        above_zero(self, "factor", "gamma", "temperature", "warm_up", "decay_every")
        not_negative(self, "rho_min", "unlabelled_weight")


class Dash(Consistency):
    Options = DashOptions
    usb: ClassVar[Mapping[str, object]] = {"joint": "all"}
    paper = "Xu et al., ICML 2021"
    options: DashOptions
    rho: Tensor

    def __init__(self, model: Model, options: DashOptions) -> None:
        super().__init__(model, options)
        self.register_buffer("rho", torch.zeros(()))

    def end_epoch(self, progress: Progress, ask: Ask) -> None:
        if progress.epoch + 1 == self.options.warm_up:
            known = ask("labelled")
            assert known.labels is not None
            self.rho.copy_(F.nll_loss(known.scores.float().clamp(min=1e-12).log(), known.labels))

    def thresholds(self) -> Tensor:
        """rho_k, a loss; 0 in the warm-up, where nothing is kept."""
        falls = torch.floor(self.progress.fraction / self.options.decay_every)
        limit = self.options.factor * self.options.gamma**-falls * self.rho
        return torch.where(self.rho > 0, limit.clamp(min=self.options.rho_min), 0.0)

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
        return {**terms, "unsupervised": self.unsupervised(passes, self.target(passes), pseudo.keep)}
