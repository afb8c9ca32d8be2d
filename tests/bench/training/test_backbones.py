"""Encoders: shapes and sizes as published; weight files load whole or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from ferbench.bench.training.networks.backbones import (
    BACKBONES,
    Classifier,
    WeightsError,
    load_weights,
    make_classifier,
)

SIZES = {
    "resnet18": 64,
    "resnet50": 64,
    "wrn_28_2": 32,
    "vit_base": 32,
    "vit_tiny": 32,
    "resnet_small": 48,
    "resnet_narrow": 48,
    **dict.fromkeys(("mobilenetv2", "mobilenetv3", "vgg11", "vgg13", "vit_small", "vit_large", "vit_tiny_16"), 32),
}


def count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_feature_width_and_prediction(name: str) -> None:
    torch.manual_seed(0)
    model = make_classifier(name, 7, size=SIZES[name], dropout=0.0).eval()
    with torch.no_grad():
        prediction = model(torch.randn(2, 3, SIZES[name], SIZES[name]))
    assert prediction.encoded.shape == prediction.features.shape == (2, BACKBONES[name].feature_width)
    torch.testing.assert_close(prediction.logits, prediction.features @ model.head.weight.T + model.head.bias)
    assert (model.feature_width, model.num_classes) == (BACKBONES[name].feature_width, 7)


@pytest.mark.parametrize(
    ("name", "classes", "millions"),
    [
        ("wrn_28_2", 10, 1.4676),  # TorchSSL and MixMatch report 1.47 M for ten classes
        ("resnet18", 1000, 11.689512),  # torchvision
        ("resnet50", 1000, 25.557032),  # torchvision
        ("resnet18", 7, 11.180103),
    ],
)
def test_parameter_counts(name: str, classes: int, millions: float) -> None:
    assert count(make_classifier(name, classes, size=32, dropout=0.0)) / 1e6 == pytest.approx(millions, abs=5e-5)


def test_small_resnet_is_as_small_as_it_says() -> None:
    assert count(make_classifier("resnet_small", 7, size=48, dropout=0.0)) / 1e6 == pytest.approx(0.31, abs=0.005)


def test_wide_resnet_has_28_convolutions_in_depth_and_three_resolutions() -> None:
    encoder = make_classifier("wrn_28_2", 10, size=32, dropout=0.0).encoder
    convolutions = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert len([m for m in convolutions if m.kernel_size == (3, 3)]) == 25  # the stem and 3 x 4 x 2; 28 with shortcuts
    assert len([m for m in convolutions if m.kernel_size == (1, 1)]) == 3
    shapes: list[int] = []
    encoder.stages.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[-1]))
    encoder(torch.randn(1, 3, 32, 32))
    assert shapes == [8]


def test_dropout_is_between_the_two_features() -> None:
    model = make_classifier("resnet_small", 3, size=16, dropout=0.5).train()
    prediction = model(torch.randn(4, 3, 16, 16))
    dropped = prediction.features == 0
    assert 0.2 < dropped.float().mean() < 0.8
    torch.testing.assert_close(prediction.features[~dropped], 2 * prediction.encoded[~dropped])


def test_unknown_backbone_is_guessed() -> None:
    with pytest.raises(WeightsError, match="unknown backbone 'resnet19'; did you mean 'resnet18'\\?; also timm:NAME"):
        make_classifier("resnet19", 7, size=48, dropout=0.0)


def torchvision_state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    state = torchvision.models.resnet18(num_classes=5).state_dict()
    return {key: torch.rand_like(value) if value.is_floating_point() else value for key, value in state.items()}


def without(*names: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {key: value for key, value in state.items() if not key.endswith(names)}


@pytest.mark.parametrize(
    "stored",
    [
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}, "iter": 3},
        lambda state: state,
        without("num_batches_tracked"),
        without("fc.weight", "fc.bias"),
    ],
    ids=["MS-Celeb format", "plain", "before torch 0.4.1", "no classifier"],
)
def test_torchvision_weights_load_and_give_its_features(tmp_path: Path, stored: Callable[..., Any]) -> None:
    state = torchvision_state()
    torch.save(stored(state), tmp_path / "weights.pth")
    model = make_classifier("resnet18", 7, size=64, dropout=0.0).eval()
    head = model.head.weight.clone()
    report = load_weights(model, tmp_path / "weights.pth")
    kept = {key: value for key, value in stored(state).get("state_dict", stored(state)).items()}
    encoder = [key for key in kept if ".fc." not in f".{key}"]
    dropped = "fc.bias, fc.weight" if any("fc.weight" in key for key in kept) else "nothing"
    assert report == f"loaded {len(encoder)} tensors from weights.pth; left out {dropped}"
    assert torch.equal(model.head.weight, head)

    reference = torchvision.models.resnet18(num_classes=5)
    reference.load_state_dict(state)
    reference.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images).encoded, reference.eval()(images), rtol=1e-4, atol=1e-4)


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in state.items()}


OTHERS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "SCN, DAN, RUL": (
        lambda state: {"iter": 40, "model_state_dict": state, "optimizer_state_dict": {}},
        "nothing more",
    ),
    "a number of NumPy's": (lambda state: {"state_dict": state, "best_acc": np.float64(88.1)}, "nothing more"),
    "MoCo": (
        lambda state: {
            "state_dict": prefixed("module.encoder_k.", prefixed("", state)) | prefixed("module.encoder_q.", state),
        },
        "taken from 'state_dict' entries 'module.encoder_q....' ('state_dict' entries 'module.encoder_k....' would fit",
    ),
    "torch.compile": (lambda state: prefixed("_orig_mod.", state), "taken from entries '_orig_mod....'"),
    "Lightning": (
        lambda state: {"state_dict": prefixed("backbone.", state), "hyper_parameters": {"lr": 0.1}},
        "taken from 'state_dict' entries 'backbone....'",
    ),
    "averaged beside trained": (
        lambda state: {"ema": state, "net": state, "epoch": 3},
        "taken from 'net' ('ema' would fit too)",
    ),
    "a name of its own": (lambda state: {"my weights": state, "epoch": 3}, "nothing more"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_files_of_other_codes_load_and_say_from_where(tmp_path: Path, kind: str) -> None:
    make, remark = OTHERS[kind]
    state = torchvision_state()
    torch.save(make(state), tmp_path / "weights.pth")
    model = make_classifier("resnet18", 7, size=64, dropout=0.0)
    report = load_weights(model, tmp_path / "weights.pth")
    assert report.startswith(f"loaded {len(model.encoder.state_dict())} tensors from weights.pth; left out ")
    assert "taken from" not in report if remark == "nothing more" else remark in report
    assert all(torch.equal(value, state[key]) for key, value in model.encoder.state_dict().items())


def test_the_network_is_taken_before_its_slow_copy(tmp_path: Path) -> None:
    fast, slow = torchvision_state(), {key: value * 0 for key, value in torchvision_state().items()}
    torch.save({"state_dict": prefixed("encoder_k.", slow) | prefixed("encoder_q.", fast)}, tmp_path / "weights.pth")
    model = make_classifier("resnet18", 7, size=64, dropout=0.0)
    load_weights(model, tmp_path / "weights.pth")
    assert torch.equal(model.encoder.state_dict()["conv1.weight"], fast["conv1.weight"])


def write_truncated(path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:10_000])


def write_pickle(path: Path, state: dict[str, Tensor]) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Path("x")}, protocol=2))


WRONG: dict[str, tuple[Callable[[Path, dict[str, Tensor]], object], str]] = {
    "missing key": (
        lambda path, state: torch.save(without("layer1.0.conv1.weight")(state), path),
        "does not fit the backbone: 1 keys missing (first layer1.0.conv1.weight)",
    ),
    "wrong shape": (
        lambda path, state: torch.save({**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}, path),
        "does not fit the backbone: 1 shapes wrong (first conv1.weight)",
    ),
    "another network": (
        lambda path, state: torch.save({"a.weight": torch.zeros(2), "b.weight": torch.zeros(2)}, path),
        "keys missing (first bn1.bias); 2 keys unknown (first a.weight)",
    ),
    "truncated": (write_truncated, "cannot be read as plain weights"),
    "pickled object": (write_pickle, "cannot be read as plain weights"),
    "whole module": (
        lambda path, state: torch.save(nn.Linear(2, 2), path),
        "cannot be read as plain weights (UnpicklingError); save a state dict",
    ),
    "empty": (lambda path, state: path.write_bytes(b""), "cannot be read as plain weights: it is an empty file"),
    "a web page": (
        lambda path, state: path.write_text("\n<!DOCTYPE html><html><title>Virus scan warning</title></html>"),
        "it is a web page, not weights: download the file itself",
    ),
    "a Git LFS pointer": (
        lambda path, state: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "it is a Git LFS pointer, not weights: run `git lfs pull`",
    ),
    "a NumPy array": (lambda path, state: np.save(path.open("wb"), np.zeros(3)), "it is a NumPy array"),
    "another format": (
        lambda path, state: path.write_bytes((60).to_bytes(8, "little") + b'{"conv1.weight":{"dtype":"F32"}}'),
        "it is a safetensors file",
    ),
    "an archive": (lambda path, state: path.write_bytes(b"\x1f\x8b\x08\x00abc"), "it is an archive (gzip): unpack it"),
    "not found": (lambda path, state: None, "no such weight file"),
    "a folder": (lambda path, state: path.mkdir(), "is no regular file"),
    "a list": (lambda path, state: torch.save([1, 2], path), "holds no state dict"),
    "numbers": (lambda path, state: torch.save({"conv1.weight": 3}, path), "holds no state dict (keys: conv1.weight)"),
    "a prefix over too little": (
        lambda path, state: torch.save({f"net.{key}": state[key] for key in list(state)[:9]}, path),
        "does not fit the backbone",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_one_line_and_changes_nothing(tmp_path: Path, kind: str) -> None:
    make, expected = WRONG[kind]
    make(tmp_path / "weights.pth", torchvision_state())
    model: Classifier = make_classifier("resnet18", 7, size=64, dropout=0.0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_weights(model, tmp_path / "weights.pth")
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "weights.pth")) and expected in text and "\n" not in text
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("normalise", [False, True])
def test_normalised_features_come_after_dropout_and_before_the_head(normalise: bool) -> None:
    torch.manual_seed(0)
    model = make_classifier("resnet_small", 3, size=16, dropout=0.5, normalise=normalise).train()
    prediction = model(torch.randn(4, 3, 16, 16))
    dropped = prediction.features == 0
    expected = torch.where(dropped, 0.0, 2 * prediction.encoded)
    if normalise:
        expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(prediction.features, expected)
    torch.testing.assert_close(prediction.logits, prediction.features @ model.head.weight.T + model.head.bias)


def test_a_map_of_another_width_than_the_feature_gives_no_tokens() -> None:
    model = make_classifier("resnet_small", 5, size=48, dropout=0.0)
    model.feature_width = 64
    with pytest.raises(WeightsError, match="last map is 128 wide and its feature 64"):
        model.tokens(torch.randn(1, 3, 48, 48))


@pytest.mark.parametrize(
    ("name", "size", "tokens"),
    [("resnet_small", 48, 9), ("wrn_28_2", 16, 16), ("resnet18", 64, 4), ("vit_tiny", 48, 36)],
)
def test_tokens_are_the_cells_or_patches_in_rows(name: str, size: int, tokens: int) -> None:
    """A ConvNet's tokens average to its feature; a transformer's are its patches, the class token left out."""
    torch.manual_seed(0)
    model = make_classifier(name, 5, size=size, dropout=0.5).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        given, encoded = model.tokens(images), model(images).encoded
    assert given.shape == (2, tokens, model.feature_width)
    if name.startswith("vit"):
        whole = model.encoder.forward_features(images)
        assert torch.equal(given, whole[:, 1:]) and torch.equal(encoded, whole[:, 0])
    else:
        torch.testing.assert_close(given.mean(dim=1), encoded, rtol=1e-4, atol=1e-5)
        assert model.encoder.num_features == model.feature_width
        rows = model.encoder.forward_features(images)
        assert torch.equal(given[1, 1], rows[1, :, 0, 1])
