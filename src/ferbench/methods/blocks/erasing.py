"""Random erasing: a rectangle of each image of a batch becomes 0, which is the mean colour of normalised images.

Source: Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, in torchvision's form (RandomErasing): the area is
uniform, the ratio of height to width log-uniform, the place uniform; of ten draws the first that is smaller than the
image counts, and without one the image stays whole. All draws are made at once on the images' device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DRAWS = 10
AREA = (0.02, 0.25)  # share of the image, as in the codes of SCN, RUL and EAC
RATIO = (0.3, 3.3)  # height to width, torchvision's default


def erase(images: Tensor, probability: float) -> Tensor:
    """images [B, 3, H, W], each with a rectangle at 0 with this probability, from torch's own random numbers."""
    if probability == 0:
        return images
    height, width = images.shape[-2:]
    chosen, size, tall, top, left = torch.rand(5, len(images), DRAWS, device=images.device)
    size = (AREA[0] + (AREA[1] - AREA[0]) * size) * (height * width)
    tall = (math.log(RATIO[0]) + math.log(RATIO[1] / RATIO[0]) * tall).exp()
    rows, columns = (size * tall).sqrt().round(), (size / tall).sqrt().round()
    fits = (rows < height) & (columns < width)
    first = fits.byte().argmax(dim=1, keepdim=True)
    rows, columns, top, left = (value.gather(1, first) for value in (rows, columns, top, left))
    top, left = (top * (height - rows + 1)).floor(), (left * (width - columns + 1)).floor()
    y, x = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    inside = ((y >= top) & (y < top + rows)).unsqueeze(2) & ((x >= left) & (x < left + columns)).unsqueeze(1)
    erased = fits.any(dim=1) & (chosen[:, 0] < probability)
    return images.masked_fill((inside & erased.view(-1, 1, 1)).unsqueeze(1), 0.0)
