"""All randomness of a run is a function of (seed, purpose, step): nothing to save, the same after a restart."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, purpose: str, step: int = 0) -> int:
    """A 63-bit seed, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """A CPU generator for one purpose at one step."""
    return torch.Generator().manual_seed(derive(seed, purpose, step))
