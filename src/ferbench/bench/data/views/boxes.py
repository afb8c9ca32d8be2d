"""Face boxes in the pixels of a view: what cropping, mirroring and resizing an image does to them.

Boxes are (x1, y1, x2, y2) in pixels, as in torchvision's BoundingBoxes of format XYXY: a point x of an image W wide
becomes W - x in its mirror image, (x - left) * S / w in a window of width w from `left` stretched to S.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferbench.bench.data.faceset import FaceSet

Indices = NDArray[np.int64]
FALLBACK = (25 / 224, 25 / 224, 220 / 224, 220 / 224)  # SSFER's released code where it detects no face, or several


def known_boxes(faces: FaceSet, indices: Indices) -> str:
    """A line for the log: how many of these images have a box that says where the face is."""
    if faces.boxes is None:
        return f"{faces.name} has no face boxes: the constant one stands for all, so every pair's IoU is 1"
    unknown, whole = np.isnan(faces.boxes[indices]).any(axis=1).mean(), _whole(faces, indices).mean()
    return (
        f"face boxes: {100 * unknown:.1f} % of the labelled images take the constant one, "
        f"of {100 * whole:.1f} % the box is the whole image"
    )


def without_boxes(faces: FaceSet, indices: Indices) -> str | None:
    """What is wrong where not one of these images has a box that says where the face is; None where some have."""
    if faces.boxes is not None:
        unknown = np.isnan(faces.boxes[indices]).any(axis=1)
        if not (unknown | _whole(faces, indices)).all():
            return None
    source = str(faces.options.get("faces", "none"))
    if source != "none" and faces.boxes is not None and np.isnan(faces.boxes[indices]).all():
        where, others = f"faces={source} found a face in no labelled image", {"haar", "mtcnn", "csv"} - {source}
        mend = f"give the reader faces={' or '.join(sorted(others))}"
    else:
        where = "no labelled image has a face box other than the whole image"
        mend = "give the reader the options crop=none and faces=haar (pip install 'ferbench[detect]'), mtcnn or csv"
    return f"{faces.name}: {where}, so that FaceMix with kappa=iou is Mixup: {mend}, or the method mix=mixup"


def _whole(faces: FaceSet, indices: Indices) -> NDArray[np.bool_]:
    """[n] whether a box reaches the image's edge, to half a pixel, on all four sides; False where it is not known."""
    assert faces.boxes is not None
    height, width = faces.images.shape[1:3]
    x1, y1, x2, y2 = faces.boxes[indices].T
    whole: NDArray[np.bool_] = (np.maximum(x1, y1) <= 0.5) & (x2 >= width - 0.5) & (y2 >= height - 0.5)
    return whole


def in_window(boxes: Tensor, window: Tensor, mirrored: Tensor, size: int) -> Tensor:
    """boxes [B, 4] in a window [B, 4] (top, left, height, width) made size x size and mirrored [B] bool, clamped."""
    top, left, tall, wide = window.to(boxes.dtype).unbind(1)
    corner = torch.stack([left, top, left, top], dim=1)
    scale = size / torch.stack([wide, tall, wide, tall], dim=1)
    return _mirror((boxes - corner) * scale, mirrored, size).clamp(0, size)


def in_padded_crop(
    boxes: Tensor, shape: tuple[int, int], corner: Tensor, mirrored: Tensor, size: int, padding: int
) -> Tensor:
    """boxes [B, 4] of images of `shape` (height, width) resized to size x size, padded with `padding` pixels on every
    side, cut at corner [B, 2] (top, left) to size x size and mirrored [B] bool; clamped."""
    height, width = shape
    scaled = boxes * boxes.new_tensor([size / width, size / height, size / width, size / height])
    top, left = (padding - corner.to(boxes.dtype)).unbind(1)
    return _mirror(scaled + torch.stack([left, top, left, top], dim=1), mirrored, size).clamp(0, size)


def _mirror(boxes: Tensor, mirrored: Tensor, size: int) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.where(mirrored.unsqueeze(1), torch.stack([size - x2, y1, size - x1, y2], dim=1), boxes)


def with_fallback(boxes: Tensor, size: int) -> Tensor:
    """boxes [B, 4] with the constant central box in place of those that are not known (NaN)."""
    return torch.where(boxes.isnan().any(dim=1, keepdim=True), boxes.new_tensor(FALLBACK) * size, boxes)
