"""Pictures of what was learnt: a row per image, a column per panel."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ferbench.bench.data.views.augment import ViewRecipe
from ferbench.bench.training.recording import records

GAP = 2  # pixels of white between panels
LEAST = 96  # pixels a panel's side is enlarged to


def write_panels(path: Path, panels: Tensor, recipe: ViewRecipe) -> None:
    """panels [B, n, 3, S, S], normalised as `recipe` says, as one PNG."""
    mean, std = (torch.tensor(values, device=panels.device).view(3, 1, 1) for values in (recipe.mean, recipe.std))
    pixels = ((panels.float() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    times = max(1, -(-LEAST // pixels.shape[-1]))
    pixels = pixels.repeat_interleave(times, dim=-1).repeat_interleave(times, dim=-2)
    framed = torch.nn.functional.pad(pixels, (0, GAP, 0, GAP), value=255)
    rows, columns, _, height, width = framed.shape
    grid = framed.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, 3).cpu().numpy()
    records.write(path, lambda file: Image.fromarray(grid).save(file, format="PNG"))
