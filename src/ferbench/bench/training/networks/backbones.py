"""Encoders with a linear head, and the weight files they start from."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ferbench.bench.files import FileError, check_seal, open_regular
from ferbench.bench.training.networks.weight_files import PLAIN, find_weights, what_it_is
from ferbench.bench.training.recording.finite import not_finite
from ferbench.errors import UserError
from ferbench.methods import Prediction
from ferbench.register import Register
from ferbench.validation import unknown


class WeightsError(UserError):
    """A weight file is missing or does not fit; the message is one line."""


class Classifier(nn.Module):
    """Encoder, dropout, linear layer with bias: the head of the released codes (dropout 0.5 there).

    normalise: features at length 1 after the dropout, as Ada-CM's and LEAF's code has them.
    """

    def __init__(
        self, encoder: nn.Module, feature_width: int, num_classes: int, dropout: float, normalise: bool = False
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout: nn.Module = nn.Dropout(dropout)
        self.head: nn.Module = nn.Linear(feature_width, num_classes)
        self.normalise = normalise
        self.feature_width = feature_width
        self.num_classes = num_classes

    def forward(self, images: Tensor) -> Prediction:
        """images [B, 3, S, S], normalised. The logits belong to the feature after dropout and normalisation."""
        encoded = self.encoder(images)
        features = self.dropout(encoded)
        if self.normalise:
            features = F.normalize(features, dim=1)
        return Prediction(encoded, features, self.head(features))

    def tokens(self, images: Tensor) -> Tensor:
        """The encoder's tokens [B, T, D] of images [B, 3, S, S], row by row: a transformer's patches without its class
        token, the cells of a ConvNet's last feature map."""
        last: Tensor = cast(Any, self.encoder).forward_features(images)
        if last.ndim == 4:
            tokens = last.flatten(2).transpose(1, 2)
        else:
            tokens = last[:, cast(Any, self.encoder).num_prefix_tokens :]
        if tokens.shape[2] != self.feature_width:
            raise WeightsError(
                f"the backbone's last map is {tokens.shape[2]} wide and its feature {self.feature_width}: "
                "a method that reads tokens needs another backbone, such as resnet18 or a vit"
            )
        return tokens


class Residual(nn.Module):
    """Two 3x3 convolutions with batch normalisation around a shortcut (He et al., CVPR 2016, basic block)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


class SmallResNet(nn.Module):
    """0.31 M parameters for 48-pixel faces on a CPU: a stride-2 stem and four stages of one block, widths 16 to 128."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        self.num_features = widths[-1]
        inputs = (widths[0], *widths)
        self.stages = nn.Sequential(
            *(Residual(inputs[i], width, 1 if i == 0 else 2) for i, width in enumerate(widths))
        )  # fmt: skip

    def forward_features(self, images: Tensor) -> Tensor:
        """The last feature map [B, D, S / 16, S / 16]."""
        x: Tensor = self.stages(F.relu(self.bn(self.stem(images)), inplace=True))
        return x

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_features(images).mean(dim=(2, 3))


class PreActivation(nn.Module):
    """The block of wide residual networks: normalise, activate, convolve, twice (Zagoruyko & Komodakis, BMVC 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs, momentum=0.001)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, momentum=0.001)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.bn1(x), 0.1)
        shortcut = x if self.shortcut is None else self.shortcut(y)
        result: Tensor = shortcut + self.conv2(F.leaky_relu(self.bn2(self.conv1(y)), 0.1))
        return result


class WideResNet(nn.Module):
    """WRN-depth-width as the semi-supervised literature uses it: leaky slope 0.1, batch-norm momentum 0.001."""

    def __init__(self, depth: int = 28, width: int = 2) -> None:
        super().__init__()
        blocks, widths = (depth - 4) // 6, (16, 16 * width, 32 * width, 64 * width)
        self.num_features = widths[-1]
        self.stem = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        layers: list[nn.Module] = []
        for stage in range(3):
            for block in range(blocks):
                inputs = widths[stage] if block == 0 else widths[stage + 1]
                layers.append(PreActivation(inputs, widths[stage + 1], 2 if stage > 0 and block == 0 else 1))
        self.stages = nn.Sequential(*layers)
        self.bn = nn.BatchNorm2d(widths[3], momentum=0.001)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")

    def forward_features(self, images: Tensor) -> Tensor:
        """The last feature map [B, D, S / 4, S / 4]."""
        return F.leaky_relu(self.bn(self.stages(self.stem(images))), 0.1)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_features(images).mean(dim=(2, 3))


def _timm(name: str, **fixed: Any) -> Callable[[int], nn.Module]:
    def make(size: int) -> nn.Module:
        sized: dict[str, Any] = {"img_size": size} if name.startswith("vit") else {}
        encoder: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **fixed, **sized)
        return encoder

    return make


@dataclass(frozen=True)
class Backbone:
    """An encoder by name: feature width, and how to make it for an input of `size` pixels."""

    feature_width: int
    make: Callable[[int], nn.Module]


TIMM = "timm:"  # before the name of any model of timm
BACKBONES: Register[Backbone] = Register(
    "backbone",
    {
        "resnet18": Backbone(512, _timm("resnet18")),
        "resnet50": Backbone(2048, _timm("resnet50")),
        "wrn_28_2": Backbone(128, lambda size: WideResNet(28, 2)),
        "mobilenetv2": Backbone(1280, _timm("mobilenetv2_100")),
        "mobilenetv3": Backbone(1280, _timm("mobilenetv3_large_100")),
        "vgg11": Backbone(4096, _timm("vgg11")),
        "vgg13": Backbone(4096, _timm("vgg13")),
        "vit_tiny_16": Backbone(192, _timm("vit_tiny_patch16_224")),
        "vit_small": Backbone(384, _timm("vit_small_patch16_224")),
        "vit_base": Backbone(768, _timm("vit_base_patch16_224")),
        "vit_large": Backbone(1024, _timm("vit_large_patch16_224")),
        "vit_tiny": Backbone(192, _timm("vit_tiny_patch16_224", depth=4, patch_size=8)),
        "resnet_small": Backbone(128, lambda size: SmallResNet()),
        "resnet_narrow": Backbone(64, lambda size: SmallResNet((8, 16, 32, 64))),
    },
    WeightsError,
)

_VIT_SIZES = ("tiny", "small", "base", "large")
_IMAGENET = {
    "resnet18": "resnet18.tv_in1k", "resnet50": "resnet50.tv_in1k", "vgg11": "vgg11.tv_in1k", "vgg13": "vgg13.tv_in1k",
    "mobilenetv2": "mobilenetv2_100.ra_in1k", "mobilenetv3": "mobilenetv3_large_100.ra_in1k",
}  # fmt: skip
WHERE_TO_GET = {
    "msceleb": "a ResNet-18 trained on MS-Celeb-1M (key 'state_dict', torchvision names); the Ada-CM, SCN and RUL "
    "repositories link copies",
    "ssfer_mae": "a ViT-B of SSFER's masked autoencoding of faces; the README of zhelishisongjie/SSFER links it, "
    "`ferbench pretrain mae --recipe ssfer --faces FOLDER` trains one",
    "maskfeat_tiny": "`ferbench pretrain maskfeat --backbone vit_tiny` writes one",
    "mae_tiny": "`ferbench pretrain mae --backbone vit_tiny` writes one",
    "maskfeat_fer": "`ferbench pretrain maskfeat --recipe pll` on RAF-DB, FERPlus and AffectNet writes one",
    "mae_fer": "`ferbench pretrain mae --recipe pll` on RAF-DB, FERPlus and AffectNet writes one",
    "simmim_fer": "`ferbench pretrain simmim --recipe pll` on RAF-DB, FERPlus and AffectNet writes one",
    "moco_fer": "`ferbench pretrain moco --recipe pll` on RAF-DB, FERPlus and AffectNet writes one",
    "mae_vit_base": "facebookresearch/mae's README links a ViT-B of ImageNet-1k",
    "imagenet1k_vit_base": "timm's vit_base_patch16_224.augreg_in1k",
    **{f"augreg_vit_{size}": f"timm's vit_{size}_patch16_224.augreg_in21k_ft_in1k" for size in _VIT_SIZES},
    **{f"imagenet_{name}": f"timm's {model}" for name, model in _IMAGENET.items()},
}


def find_backbone(name: str) -> Backbone:
    """The backbone of this name in the register. Raises WeightsError for an unknown one."""
    if name not in BACKBONES:
        raise WeightsError(f"{unknown('backbone', name, BACKBONES)}; also {TIMM}NAME of any of timm's")
    return BACKBONES[name]


def make_classifier(name: str, num_classes: int, *, size: int, dropout: float, normalise: bool = False) -> Classifier:
    """A randomly initialised classifier for input of `size` pixels; the caller seeds torch. Raises WeightsError."""
    if name.startswith(TIMM):
        return _any_of_timm(name.removeprefix(TIMM), num_classes, size, dropout, normalise)
    backbone = find_backbone(name)
    return Classifier(backbone.make(size), backbone.feature_width, num_classes, dropout, normalise)


def _any_of_timm(name: str, num_classes: int, size: int, dropout: float, normalise: bool) -> Classifier:
    """Any model of the installed timm without its classifier. Raises WeightsError for one it has not or cannot size."""
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=1)
        raise WeightsError(
            f"timm {timm.__version__} has no model '{name}'" + (f"; did you mean '{close[0]}'?" if close else "")
        )
    try:
        try:
            encoder = timm.create_model(name, pretrained=False, num_classes=0, img_size=size)
        except TypeError:  # a ConvNet takes every size
            encoder = timm.create_model(name, pretrained=False, num_classes=0)
        with torch.no_grad():  # some say another width than they give
            width = encoder.eval()(torch.zeros(1, 3, size, size)).shape[1]
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise WeightsError(
            f"{TIMM}{name} cannot be made for {size} pixels: {' '.join(str(error).split())[:200]}"
        ) from error
    return Classifier(encoder.train(), width, num_classes, dropout, normalise)


def load_weights(model: Classifier, path: Path) -> str:
    """Load the weights of a classifier's encoder, see `load_encoder`."""
    return load_encoder(model.encoder, path)


def load_encoder(encoder: nn.Module, path: Path) -> str:
    """Load encoder weights strictly; returns a line that says what was loaded. Raises WeightsError.

    Accepts a plain state dict or one under one of the usual keys (`state_dict`: the MS-Celeb-1M format; `model`: MAE's;
    `model_state_dict`, `ema`, ...), with a prefix before all entries of the encoder (`module.`, `encoder_q.`). A
    classifier and a masked autoencoder's decoder are left out, positions are resampled to the input size. Every other
    key must match in name and shape.
    """
    try:
        with open_regular(path) as file, torch.serialization.safe_globals(PLAIN):
            check_seal(file)
            stored = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such weight file") from error
    except FileError as error:
        raise WeightsError(f"{path}: cannot be read: {error}; make or fetch it again") from error
    except Exception as error:  # torch raises many kinds for a damaged or pickled file
        if path.is_file() and (what := what_it_is(path)):
            raise WeightsError(f"{path}: cannot be read as plain weights: it is {what}") from error
        reason = type(error).__name__
        raise WeightsError(f"{path}: cannot be read as plain weights ({reason}); save a state dict") from error
    fit = find_weights(stored, encoder)
    if fit is None:
        keys = f" (keys: {', '.join(map(str, stored))[:100]})" if isinstance(stored, dict) and stored else ""
        raise WeightsError(f"{path}: holds no state dict{keys}")
    if fit.problem:
        raise WeightsError(f"{path}: does not fit the backbone: {fit.problem}")
    if broken := not_finite(fit.weights):
        raise WeightsError(f"{path}: {broken[0]} and {len(broken) - 1} other tensors are not finite; fetch it again")
    encoder.load_state_dict(fit.weights, strict=False)
    more = f" and {len(fit.left_out) - 4} more" if len(fit.left_out) > 4 else ""
    left_out = ", ".join(fit.left_out[:4]) + more
    return f"loaded {len(fit.weights)} tensors from {path.name}; left out {left_out or 'nothing'}{fit.remark}"


def weights_digest(path: Path) -> str:
    """SHA-256 of a weight file, which is what a run knows it by. Raises WeightsError."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except FileError as error:
        raise WeightsError(str(error)) from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
