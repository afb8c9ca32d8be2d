"""Everything a pre-training run needs besides its objective and its data, with the limits of each number."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

from ferbench.bench.data.views.augment import ViewRecipe
from ferbench.bench.data.views.normalisation import MEAN_STD
from ferbench.protocols.schema import MOST_EPOCHS, MOST_IMAGES, MOST_PIXELS, MOST_STEPS, SCHEDULES


@dataclass(frozen=True)
class Settings:
    """Defaults: SSFER (Sec. 4.2) for stage (a), and He et al. (CVPR 2022) where it points there.

    Each paper's own settings are its protocol's `pretraining` recipes, `ferbench pretrain OBJECTIVE --recipe PROTOCOL`.
    """

    backbone: str = "vit_base"
    input_size: int = field(default=224, metadata={"least": 8, "most": MOST_PIXELS})  # pixels
    batch_size: int = field(default=256, metadata={"least": 1, "most": MOST_IMAGES})  # of all processes together
    epochs: int = field(default=600, metadata={"least": 1, "most": MOST_EPOCHS})
    steps_per_epoch: int = field(default=0, metadata={"least": 0, "most": MOST_STEPS})  # 0 = one pass over the images
    lr: float = field(default=3.4e-4, metadata={"above": 0.0})
    schedule: str = field(default="cosine", metadata={"choices": SCHEDULES})
    cosine_epochs: int = field(default=0, metadata={"least": 0, "most": MOST_EPOCHS})
    warmup_epochs: int = field(default=50, metadata={"least": 0, "most": MOST_EPOCHS})
    warmup_lr: float = field(default=0.0, metadata={"least": 0.0})
    min_lr: float = field(default=0.0, metadata={"least": 0.0})
    optimizer: str = field(default="adamw", metadata={"choices": ("adamw", "sgd")})
    momentum: float = field(default=0.9, metadata={"least": 0.0, "below": 1.0})  # sgd only
    weight_decay: float = field(default=0.05, metadata={"least": 0.0})
    decay_all: bool = False  # biases, normalisations and tokens as well (SSFER's released code)
    beta1: float = field(default=0.9, metadata={"least": 0.0, "below": 1.0})
    beta2: float = field(default=0.95, metadata={"least": 0.0, "below": 1.0})
    clip: float = field(default=0.0, metadata={"least": 0.0})  # gradient norm, 0 = no clipping
    augmentation: str = field(default="resized_crop", metadata={"choices": ("crop", "resized_crop")})
    crop_scale: float = field(default=0.2, metadata={"above": 0.0, "most": 1.0})  # least area of a resized crop
    mean_std: str = field(default="ssfer", metadata={"choices": tuple(MEAN_STD)})
    dtype: str = field(default="float32", metadata={"choices": ("float32", "bfloat16")})  # autocast type

    def resolved(self, images: int) -> Settings:
        """With the steps of an epoch counted, and a warm-up no longer than the run."""
        steps = self.steps_per_epoch or max(1, images // self.batch_size)
        return replace(self, steps_per_epoch=steps, warmup_epochs=min(self.warmup_epochs, self.epochs - 1))

    def views(self) -> ViewRecipe:
        """How images become inputs."""
        mean, std = MEAN_STD[self.mean_std]
        return ViewRecipe(
            size=self.input_size, mean=mean, std=std, geometry=cast(Any, self.augmentation), least_area=self.crop_scale,
        )  # fmt: skip
