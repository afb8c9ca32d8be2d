"""Weight files as people have them: where in them the encoder's weights are, and what a file is that holds none."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ferbench.bench.training.networks.vit_weights import fit_positions, of_decoder

# Where codes keep a state dict among other things; the first that fits is taken.
KEYS = (
    "state_dict", "model", "model_state_dict", "net", "network", "student", "encoder", "backbone", "module", "weights",
    "ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "teacher",
)  # fmt: skip
SECOND = ("encoder_k", "ema", "teacher", "momentum", "target")  # words of a copy of the network, beside the network
PARALLEL = "module."  # what DataParallel puts before every name
HEADS = ("fc.", "head.", "classifier.")
# What checkpoints hold beside tensors and is harmless: a command line, and NumPy's numbers (a best accuracy).
PLAIN: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    Namespace, np.dtype, np.float64(0).__reduce__()[0],  # type: ignore[list-item]
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),  # type: ignore[list-item]
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "float16", "int64", "int32", "bool")),
]  # fmt: skip
_STARTS = (
    (b"<!doctype", "a web page, not weights: download the file itself"),
    (b"<html", "a web page, not weights: download the file itself"),
    (b"version https://git-lfs", "a Git LFS pointer, not weights: run `git lfs pull` where it lies"),
    (b"\x93numpy", "a NumPy array"),
    (b"\x89hdf", "an HDF5 file (Keras)"),
    (b"\x1f\x8b", "an archive (gzip): unpack it first"),
    (b"7z\xbc\xaf", "an archive (7z): unpack it first"),
    (b"rar!", "an archive (rar): unpack it first"),
)


@dataclass(frozen=True)
class Fit:
    """The encoder's weights from a file.

    left_out: entries that are not the encoder's; remark: what was done to them; problem: why they do not fit, or ""
    """

    weights: Mapping[str, Tensor]
    left_out: tuple[str, ...]
    remark: str
    problem: str


def find_weights(stored: object, encoder: nn.Module) -> Fit | None:
    """What of a loaded file fits `encoder`, else what comes nearest; None where the file holds no state dict.

    A state dict is the file's whole content, or lies under one of the usual names. A prefix that the wanted entries
    share is stripped where the rest then fits in name and shape.
    """
    fits = {
        (key, prefix): fit
        for key, state in _state_dicts(stored).items()
        for prefix in _prefixes(state, encoder)
        if (fit := _fitted(state, prefix, encoder)) is not None
    }
    good = {place: fit for place, fit in fits.items() if not fit.problem}
    if not good:
        return next(iter(fits.values()), None)
    place = min(good, key=lambda place: any(word in f"{place[0]}.{place[1]}" for word in SECOND))
    fit, others = good[place], [_named(*other) for other in good if other != place]
    remark = f"; taken from {_named(*place)}" if place[1] not in ("", PARALLEL) or others else ""
    remark += f" ({', '.join(others[:3])} would fit too)" if others else ""
    return Fit(fit.weights, fit.left_out, fit.remark + remark, "")


def what_it_is(path: Path) -> str:
    """What a file is by its first bytes, where that is no file of torch; "" where it may be one."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "an empty file"
    if start[8:10] == b'{"' and 0 < int.from_bytes(start[:8], "little") < 2**32:
        return "a safetensors file: load it with safetensors and save the state dict with torch.save"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((what for mark, what in _STARTS if text.startswith(mark)), "")


def _state_dicts(stored: object) -> dict[str, Mapping[str, Tensor]]:
    """State dicts in a file by the key they lie under ("": the file itself), the likeliest first."""
    if _is_state(stored):
        return {"": stored}  # type: ignore[dict-item]
    if not isinstance(stored, dict):
        return {}
    keys = [key for key in KEYS if key in stored] + [key for key in stored if key not in KEYS]
    return {str(key): stored[key] for key in keys if _is_state(stored[key])}


def _is_state(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) and isinstance(entry, Tensor) for key, entry in value.items())
    )


def _prefixes(state: Mapping[str, Tensor], encoder: nn.Module) -> list[str]:
    """Prefixes that stand before the encoder's first entry somewhere, "" (after DataParallel's) first."""
    anchor = next(iter(encoder.state_dict()))
    found = [key.removesuffix(anchor) for key in state if key.endswith(f".{anchor}")]
    plain = PARALLEL if all(key.startswith(PARALLEL) for key in state) else ""
    return list(dict.fromkeys((plain, *found)))


def _fitted(state: Mapping[str, Tensor], prefix: str, encoder: nn.Module) -> Fit:
    """The entries below `prefix` against the encoder's."""
    named = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    dropped = {key for key in named if key.startswith(HEADS) or of_decoder(key)}
    outside = [key for key in state if not key.startswith(prefix)]
    weights, remark = fit_positions({key: value for key, value in named.items() if key not in dropped}, encoder)
    expected = encoder.state_dict()
    counters = {key for key in expected if key.endswith("num_batches_tracked")}  # absent in files of torch < 0.4.1
    missing = sorted(expected.keys() - weights.keys() - counters)
    foreign = sorted(weights.keys() - expected.keys())
    shapes = sorted(key for key in expected.keys() & weights.keys() if expected[key].shape != weights[key].shape)
    problem = "; ".join(
        f"{len(keys)} {what} (first {keys[0]})"
        for what, keys in (("keys missing", missing), ("keys unknown", foreign), ("shapes wrong", shapes))
        if keys
    )
    return Fit(weights, (*sorted(dropped), *outside), remark, problem)


def _named(key: str, prefix: str) -> str:
    return " ".join(filter(None, (f"'{key}'" if key else "", f"entries '{prefix}...'" if prefix else ""))) or "the file"
