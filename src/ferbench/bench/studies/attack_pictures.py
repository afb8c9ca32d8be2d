"""Where a model looks, and what attacks on those places look like (SSFER, Figures 8 and 9)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from ferbench.bench.data.views.augment import ViewRecipe
from ferbench.bench.pretraining.pictures import write_panels
from ferbench.bench.studies.attack import Attacked

BLEND = 0.5  # share of the map's colours in the overlay


def write_pictures(
    path: Path, batch: Attacked, epsilons: Sequence[float], threshold: float, recipe: ViewRecipe
) -> Path:
    """A PNG with a row per image: the image, the map over it, and the attacks on the focused region; returns `path`."""
    attacks = [batch.adversarial("focused", epsilon, threshold, recipe) for epsilon in epsilons if epsilon]
    panels = torch.stack([batch.images, overlay(batch, recipe), *attacks], dim=1)
    write_panels(path, panels, recipe)
    return path


def overlay(batch: Attacked, recipe: ViewRecipe) -> Tensor:
    """[B, 3, S, S], normalised like the images: half the image and half the map in matplotlib's colours "jet"."""
    device = batch.images.device
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (recipe.mean, recipe.std))
    colours = torch.from_numpy(matplotlib.colormaps["jet"](batch.maps.cpu().numpy())[..., :3])
    shown = colours.to(device, torch.float32).permute(0, 3, 1, 2)
    return (1 - BLEND) * batch.images + BLEND * (shown - mean) / std
