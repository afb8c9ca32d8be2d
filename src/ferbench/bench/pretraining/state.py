"""A pre-training run before its first step: what it is, and everything about it that will change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.data.randomness import derive
from ferbench.bench.pretraining import OBJECTIVES, Objective
from ferbench.bench.pretraining.options import objective_values
from ferbench.bench.pretraining.settings import Settings
from ferbench.bench.training.networks.backbones import BACKBONES, WeightsError, load_encoder, weights_digest
from ferbench.bench.training.recording import records


@dataclass(frozen=True)
class Pretraining:
    """One pre-training run, fully resolved; `spec` is its identity as plain types."""

    spec: records.Spec
    objective: str
    values: Mapping[str, object]  # every option of the objective
    settings: Settings
    seed: int
    faces: Sequence[FaceSet]  # their `train` images are the data
    start: Path | None = None  # weights of the encoder to go on from

    @property
    def name(self) -> str:
        """Readable, ending in a hash of the spec: mae-vit_tiny-ferplus-s1-1a2b3c4d."""
        words = [self.objective, self.settings.backbone, *(faces.name for faces in self.faces), f"s{self.seed}"]
        return "-".join([*words, records.spec_hash(self.spec)[:8]])


@dataclass
class State:
    """All that changes: saved whole."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)  # of this epoch, on the device
    history: list[dict[str, Any]] = field(default_factory=list)  # a line per finished epoch

    def to_dict(self, spec: str) -> dict[str, Any]:
        return {
            "spec": spec,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "sums": self.sums,
            "history": self.history,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        self.objective.load_state_dict(saved["objective"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.seconds, self.history = saved["step"], saved["seconds"], saved["history"]
        device = next(self.objective.parameters()).device
        self.sums = {name: value.to(device) for name, value in saved["sums"].items()}


def resolve(
    objective: str,
    options: Mapping[str, object],
    settings: Settings,
    data: Sequence[tuple[Mapping[str, Any], FaceSet]],
    seed: int,
    *,
    released: bool = False,
    start: Path | None = None,
) -> Pretraining:
    """A run from what a user asks for; data: each set's description (reader, options) and the set itself.

    start: a weight file of the backbone, known by its digest. Settings that stand for "one pass" are resolved by the
    number of images. Raises MethodError or WeightsError.
    """
    values = objective_values(objective, options, released=released)
    images = sum(len(faces.train) for _, faces in data)
    settings = settings.resolved(images)
    described = [{**described, **faces.identity()} for described, faces in data]
    spec = {
        "objective": objective, "options": values, "settings": asdict(settings), "data": described, "seed": seed,
    }  # fmt: skip
    if start:
        spec["start"] = {"sha256": weights_digest(start)}
    return Pretraining(spec, objective, values, settings, seed, [faces for _, faces in data], start)


def make_state(run: Pretraining, device: torch.device, note: Callable[[str], None] | None = None) -> State:
    """The initial state: weights drawn from the seed or read from a file, and no step done. Raises WeightsError for a
    backbone that is none or that the objective cannot take, and for a file that does not fit; `note` says what fits."""
    torch.manual_seed(derive(run.seed, "initialisation"))
    backbone, kind = BACKBONES.find(run.settings.backbone), OBJECTIVES[run.objective]
    try:
        encoder = backbone.make(run.settings.input_size)
        objective = kind(encoder, kind.Options(**run.values), run.settings.input_size).to(device)
    except (ValueError, AssertionError) as error:  # sizes that do not go together; timm asserts
        raise WeightsError(f"{run.objective} on {run.settings.backbone}: {error}") from error
    if run.start:
        loaded = load_encoder(objective.encoder, run.start)
        if note:
            note(loaded)
    objective.begin(run.settings.epochs * run.settings.steps_per_epoch)
    return State(objective, _optimizer(objective, run.settings))


def _optimizer(objective: Objective, settings: Settings) -> torch.optim.Optimizer:
    """AdamW or SGD; biases, normalisations and tokens are not decayed unless the settings say so."""
    trained = [(name, p) for name, p in objective.named_parameters() if p.requires_grad]
    flat = [p for name, p in trained if p.ndim <= 1 or name.endswith(("_token", "pos_embed"))]
    matrices = [p for _, p in trained if all(p is not other for other in flat)]
    decays = (settings.weight_decay, settings.weight_decay if settings.decay_all else 0.0)
    groups = [{"params": p, "weight_decay": d} for p, d in zip((matrices, flat), decays, strict=True) if p]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, fused=True)
