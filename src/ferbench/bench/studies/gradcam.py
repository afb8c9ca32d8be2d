"""Grad-CAM: where an image's evidence for the predicted class lies (Selvaraju et al., ICCV 2017).

The map is relu(sum_d w_d A_d), with A the last layer's features over the image and w_d the mean over all places of the
gradient of the class's logit by A_d, stretched to the image and to the range 0 to 1. The layer is a ConvNet's last
feature map, or what enters the last block of a transformer: in its output no patch reaches the class token any more.
A few lines of our own: the libraries want the model and the layer, where here any method's `predict` is explained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ferbench.bench.training.networks.backbones import Classifier
from ferbench.bench.training.recording.records import RunError
from ferbench.methods import Prediction


@dataclass
class Pass:
    """What the hooks kept of one pass: features over the image, and the classifier's logits where it was called."""

    features: Tensor  # [B, D, h, w], or [B, T, D] of a transformer
    grid: tuple[int, int]  # h, w
    prefix: int = 0  # tokens before the patches
    logits: Tensor | None = None  # [B, K]

    def spread(self, values: Tensor) -> Tensor:
        """[B, D, h, w] of `features`, or of what has their shape."""
        if values.ndim == 4:
            return values
        return values[:, self.prefix :].transpose(1, 2).reshape(len(values), -1, *self.grid)


class Seen:
    """All passes within `watched`, in their order."""

    def __init__(self) -> None:
        self.passes: list[Pass] = []
        self._open: Pass | None = None

    def map(self, module: nn.Module, _: Any, output: Any) -> None:
        """Hook of a ConvNet's modules: the last output that still has places counts."""
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            self._keep(Pass(output, (output.shape[2], output.shape[3])))

    def tokens(self, encoder: VisionTransformer) -> Callable[..., None]:
        """Hook of the layer that enters a transformer's last block."""

        def keep(module: nn.Module, _: Any, output: Tensor) -> None:
            self._keep(Pass(output, encoder.patch_embed.grid_size, encoder.num_prefix_tokens))

        return keep

    def prediction(self, module: nn.Module, _: Any, output: Prediction) -> None:
        """Hook of a classifier: its pass ends here."""
        if self._open:
            self._open.logits, self._open = output.logits, None

    def _keep(self, entry: Pass) -> None:
        if self._open:
            self.passes.pop()
        self.passes.append(entry)
        self._open = entry


@contextmanager
def watched(method: nn.Module) -> Iterator[Seen]:
    """Context manager: a pass of `method` inside it records what `focus` needs."""
    seen = Seen()
    hooks = []
    transformers = [module for module in method.modules() if isinstance(module, VisionTransformer)]
    for encoder in transformers:
        last = cast(Any, encoder.blocks)[-1]
        hooks.append(last.norm1.register_forward_hook(seen.tokens(encoder)))
    for module in method.modules():
        if isinstance(module, Classifier):
            hooks.append(module.register_forward_hook(seen.prediction))
        elif not transformers:
            hooks.append(module.register_forward_hook(seen.map))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def focus(seen: Seen, scores: Tensor, size: int) -> Tensor:
    """Maps [B, size, size] in [0, 1] for the pass that gave `scores` [B, K], which need not be logits.

    Where no classifier was called the logarithm of the score is explained. Raises RunError where nothing was seen.
    """
    predicted = scores.detach().argmax(dim=1, keepdim=True)
    for entry in seen.passes:
        if entry.features.requires_grad and gradient(scores, predicted, entry.features) is not None:
            explained = scores.clamp_min(1e-12).log() if entry.logits is None else entry.logits
            slope = gradient(explained, predicted, entry.features)
            assert slope is not None
            return stretched(class_activation(entry.spread(entry.features.detach()), entry.spread(slope)), size)
    raise RunError("Grad-CAM needs a method whose prediction passes through a backbone with a feature map")


def gradient(scores: Tensor, chosen: Tensor, by: Tensor) -> Tensor | None:
    """Gradient of the sum of the chosen scores [B, 1] with respect to `by`; None where they do not depend on it."""
    return torch.autograd.grad(scores.gather(1, chosen).sum(), by, retain_graph=True, allow_unused=True)[0]


def stretched(maps: Tensor, size: int) -> Tensor:
    """Maps [B, h, w] at the image's size, each brought to the range 0 to 1."""
    large = F.interpolate(maps[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
    low, high = large.amin(dim=(1, 2), keepdim=True), large.amax(dim=(1, 2), keepdim=True)
    return (large - low) / (high - low).clamp_min(1e-7)


def class_activation(features: Tensor, gradient: Tensor) -> Tensor:
    """[B, h, w]: relu of the features [B, D, h, w] weighted by their gradients' means."""
    weights = gradient.float().mean(dim=(2, 3), keepdim=True)
    return (weights * features.float()).sum(dim=1).relu()
