"""Normalisation constants by name: mean and standard deviation per channel (R, G, B) of values in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping

Channels = tuple[float, float, float]

MEAN_STD: Mapping[str, tuple[Channels, Channels]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "ssfer": ((0.588, 0.459, 0.402), (0.228, 0.202, 0.190)),  # SSFER's released code, every stage
}
