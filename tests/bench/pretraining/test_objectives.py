"""MaskFeat, SimMIM and MoCo: gradient histograms by loops and against scikit-image, blank patches, queues, resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.pretraining import OBJECTIVES, MaskFeat, MoCo, SimMIM, vit
from ferbench.bench.pretraining.hog import hog
from ferbench.bench.pretraining.maskfeat import MaskFeatOptions, cells_to_patches
from ferbench.bench.pretraining.moco import MoCoOptions, info_nce
from ferbench.bench.pretraining.objective import mask_of, random_order
from ferbench.bench.pretraining.pretrain import pretrain
from ferbench.bench.pretraining.settings import Settings
from ferbench.bench.pretraining.simmim import SimMIMOptions
from ferbench.bench.pretraining.state import Pretraining, make_state, resolve
from ferbench.bench.training.networks.backbones import BACKBONES, WeightsError
from ferbench.bench.training.progress import Silent

SMALL = Settings(
    backbone="vit_tiny", input_size=16, batch_size=4, epochs=3, steps_per_epoch=2, warmup_epochs=1, lr=1e-3,
    mean_std="imagenet",
)  # fmt: skip
OPTIONS: dict[str, dict[str, object]] = {"maskfeat": {}, "simmim": {"square": 8}, "moco": {"queue": 6, "width": 8}}


def loops_hog(image: Any, cell: int, variant: str) -> list[list[float]]:
    """[cells, 27] of one image [3, S, S], pixel by pixel."""
    side = image.shape[1]
    cells = side // cell
    result = []
    for row in range(cells):
        for column in range(cells):
            entry: list[float] = []
            for colour in image.astype(np.float64):
                mirrored = np.pad(colour, 1, mode="reflect")
                histogram = [0.0] * 9
                for y in range(row * cell, (row + 1) * cell):
                    for x in range(column * cell, (column + 1) * cell):
                        if variant == "maskfeat":
                            window = mirrored[y : y + 3, x : x + 3]
                            right = sum(w * (window[k, 0] - window[k, 2]) for k, w in enumerate((1, 2, 1)))
                            down = sum(w * (window[0, k] - window[2, k]) for k, w in enumerate((1, 2, 1)))
                            angle = math.degrees(math.atan2(right, down)) % 180
                        else:
                            right = colour[y, x + 1] - colour[y, x - 1] if 0 < x < side - 1 else 0.0
                            down = colour[y + 1, x] - colour[y - 1, x] if 0 < y < side - 1 else 0.0
                            angle = math.degrees(math.atan2(down, right)) % 180
                        histogram[int(angle // 20) % 9] += math.hypot(right, down)
                if variant == "maskfeat":
                    length = max(math.sqrt(sum(h * h for h in histogram)), 1e-12)
                else:
                    histogram = [h / cell**2 for h in histogram]
                    length = math.sqrt(sum(h * h for h in histogram) + 1e-10)
                entry += [h / length for h in histogram]
            result.append(entry)
    return result


@pytest.mark.parametrize("variant", ["maskfeat", "skimage"])
@pytest.mark.parametrize("cell", [4, 8])
def test_hog_by_loops(variant: Any, cell: int) -> None:
    images = np.random.default_rng(cell).random((2, 3, 16, 16))
    ours = hog(torch.tensor(images), cell=cell, variant=variant)
    assert ours.shape == (2, (16 // cell) ** 2, 27) and ours.dtype == torch.float64
    np.testing.assert_allclose(ours.numpy(), [loops_hog(image, cell, variant) for image in images], atol=1e-9)


def test_hog_skimage_variant_equals_scikit_image() -> None:
    """Every cell, those at the border included, of 8-bit images that are smooth, with edges and flat parts."""
    feature = pytest.importorskip("skimage.feature")
    rng = np.random.default_rng(0)
    coarse = torch.tensor(rng.random((3, 3, 8, 8)))
    smooth = torch.nn.functional.interpolate(coarse, scale_factor=6, mode="bicubic")
    smooth[:, :, 10:20, 10:30] = 0.3
    images = (255 * smooth.clamp(0, 1)).round()
    ours = hog(images, variant="skimage").reshape(3, 36, 3, 9).numpy()
    for image, cells in zip(images.numpy(), ours, strict=True):
        for colour in range(3):
            theirs = feature.hog(
                image[colour], orientations=9, pixels_per_cell=(8, 8), cells_per_block=(1, 1), block_norm="L2",
                feature_vector=False,
            ).reshape(36, 9)  # fmt: skip
            np.testing.assert_allclose(cells[:, colour], theirs, atol=1e-6)


@pytest.mark.parametrize("variant", ["maskfeat", "skimage"])
def test_hog_of_a_ramp_is_one_direction(variant: Any) -> None:
    """Brighter to the right: all length in one of nine orientations; a flat image has none, and nothing is NaN."""
    ramp = torch.arange(16.0).expand(1, 3, 16, 16)
    histogram = hog(ramp, variant=variant).reshape(-1, 9)
    assert (histogram > 1e-6).sum(dim=1).tolist() == [1] * 12
    assert histogram.argmax(dim=1).unique().tolist() == ([4] if variant == "maskfeat" else [0])
    assert not hog(torch.ones(1, 3, 16, 16), variant=variant).any()


def test_hog_does_not_see_brightness_or_contrast() -> None:
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(hog(3 * images + 2), hog(images))


def test_cells_of_a_patch_by_loops() -> None:
    cells = torch.arange(36.0).reshape(1, 36, 1).expand(2, 36, 2)
    patches = cells_to_patches(cells, 2)
    for row in range(3):
        for column in range(3):
            wanted = [6 * (2 * row + y) + 2 * column + x for y in range(2) for x in range(2) for _ in range(2)]
            assert patches[1, 3 * row + column].tolist() == wanted


def tiny(kind: Callable[..., Any], options: Any, size: int = 32, backbone: str = "vit_tiny") -> Any:
    torch.manual_seed(0)
    return kind(BACKBONES[backbone].make(size), options, size).eval()


def masked_objectives() -> list[Any]:
    return [
        tiny(MaskFeat, MaskFeatOptions(cell=4)),
        tiny(SimMIM, SimMIMOptions(square=16)),
        tiny(SimMIM, SimMIMOptions(square=8), backbone="resnet_small"),  # half a cell of its map, of 16 pixels
    ]


def test_masked_pixels_are_not_seen_but_predicted() -> None:
    """What stands in a blank place changes no prediction, only the target; what is visible changes predictions."""
    for objective in masked_objectives():
        images = torch.randn(2, 3, 32, 32)
        noise = torch.rand(2, objective.patches)
        order = random_order(noise)
        blank = mask_of(order, objective.kept)
        side = 32 // round(objective.patches**0.5)
        pixels = vit.patchify(images, side)
        before = objective.reconstruct(images, order, objective.kept)
        assert before.shape == objective.targets(images).shape
        for where, changes in ((blank, False), (~blank, True)):
            other = vit.unpatchify(torch.where(where.unsqueeze(2), pixels + torch.randn_like(pixels), pixels), side)
            after = objective.reconstruct(other, order, objective.kept)
            assert torch.allclose(after, before, atol=1e-6) != changes, type(objective).__name__


def test_share_of_blank_patches() -> None:
    maskfeat, simmim = tiny(MaskFeat, MaskFeatOptions(), 48), tiny(SimMIM, SimMIMOptions(square=16), 48)
    assert (maskfeat.patches, maskfeat.kept) == (36, 21)  # 40 % of 36
    assert (simmim.patches, simmim.kept) == (9, 3)  # 60 % of 9 squares of 2 x 2 patches


def test_simmim_blanks_whole_squares() -> None:
    objective = tiny(SimMIM, SimMIMOptions(square=16))
    order = random_order(torch.rand(3, 4))
    patches, kept = objective._order_of_patches(order, objective.kept)
    by_patch, by_square = mask_of(patches, kept), mask_of(order, objective.kept)
    assert kept == 4 * objective.kept
    for image in range(3):
        for row in range(4):
            for column in range(4):
                assert by_patch[image, 4 * row + column] == by_square[image, 2 * (row // 2) + column // 2]


def test_losses_by_loops() -> None:
    """MaskFeat: mean squared error, SimMIM: mean absolute error, of the blank places alone."""
    for objective, error in zip(masked_objectives(), (lambda d: d * d, abs, abs), strict=True):
        images, noise = torch.randn(2, 3, 32, 32), torch.rand(2, objective.patches)
        losses = objective.step({"weak": images}, noise, torch.zeros(()))
        order = random_order(noise)
        blank = mask_of(order, objective.kept)
        with torch.no_grad():
            predicted, target = objective.reconstruct(images, order, objective.kept), objective.targets(images)
        terms = [
            error(p - t)
            for image in range(2)
            for place in range(objective.patches)
            if blank[image, place]
            for p, t in zip(predicted[image, place].tolist(), target[image, place].tolist(), strict=True)
        ]
        assert losses["reconstruction"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)


def test_targets_carry_no_gradient_and_all_parts_get_one() -> None:
    for objective in masked_objectives():
        images = torch.randn(2, 3, 32, 32)
        loss: Any = objective.step({"weak": images}, torch.rand(2, objective.patches), torch.zeros(()))
        loss["reconstruction"].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters() if p.requires_grad)
        assert not objective.targets(images.requires_grad_()).detach().requires_grad


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [("maskfeat", {"cell": 3}, "cells of 3 pixels do not divide"),
     ("simmim", {"square": 12}, "do not fit patches of 8"), ("moco", {"queue": 0}, "at least one row")],
)  # fmt: skip
def test_sizes_that_do_not_fit(make_faces: Any, name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        make_state(run_of(make_faces, name, **options), torch.device("cpu"))


def test_a_convnet_has_no_patches(make_faces: Any) -> None:
    run = run_of(make_faces, "maskfeat", settings=replace(SMALL, backbone="resnet_small"))
    with pytest.raises(WeightsError, match="needs a plain vision transformer"):
        make_state(run, torch.device("cpu"))


@pytest.mark.parametrize(
    ("size", "words"), [(40, "cells that divide 40 pixels, not one of"), (48, "squares of 32 pixels do not fit")]
)
def test_simmim_on_a_convnet_s_map_says_what_does_not_fit(make_faces: Any, size: int, words: str) -> None:
    settings = replace(SMALL, backbone="resnet_small", input_size=size)
    run = run_of(make_faces, "simmim", settings=settings, square=32)
    with pytest.raises(WeightsError, match=words):
        make_state(run, torch.device("cpu"))


def test_simmim_s_probe_of_a_convnet_leaves_its_statistics() -> None:
    encoder = BACKBONES["resnet_small"].make(48)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert SimMIM(encoder, SimMIMOptions(square=8), 48).encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_moco_eq1_by_loops() -> None:
    rng = np.random.default_rng(3)
    query, key, queue = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(3, 5, 4)))
    filled = [True, True, False, True, False]
    ours = info_nce(*(torch.tensor(x) for x in (query, key, queue)), torch.tensor(filled), 0.3)
    for b in range(5):
        own = math.exp(query[b] @ key[b] / 0.3)
        rest = sum(math.exp(query[b] @ row / 0.3) for row, there in zip(queue, filled, strict=True) if there)
        assert ours[b].item() == pytest.approx(-math.log(own / (own + rest)))
    empty = info_nce(*(torch.tensor(x) for x in (query, key, queue)), torch.zeros(5, dtype=torch.bool), 0.3)
    assert not empty.any()


def moco(**options: Any) -> MoCo:
    torch.manual_seed(0)
    return MoCo(BACKBONES["resnet_small"].make(16), MoCoOptions(**{"queue": 7, "width": 8, **options}), 16)


def views_of(count: int) -> dict[str, Tensor]:
    return {"strong": torch.randn(count, 3, 16, 16), "strong2": torch.randn(count, 3, 16, 16)}


def test_moco_queue_takes_this_steps_keys_after_the_loss() -> None:
    objective = moco()
    assert (
        objective.step(views_of(3), torch.empty(3, 0), torch.zeros(()))["contrast"].item() == 0
    )  # nothing to tell from
    assert objective.filled.tolist() == [True] * 3 + [False] * 4
    first = objective.queue[:3].clone()
    assert objective.step(views_of(3), torch.empty(3, 0), torch.zeros(()))["contrast"].item() > 0
    assert torch.equal(objective.queue[:3], first) and objective.filled.sum() == 6
    objective.step(views_of(3), torch.empty(3, 0), torch.zeros(()))
    assert objective.position == 2 and objective.filled.all()
    assert not torch.equal(objective.queue[:2], first[:2]) and torch.equal(objective.queue[2], first[2])
    torch.testing.assert_close(objective.queue.norm(dim=1), torch.ones(7))


def test_moco_key_encoder_follows_and_gets_no_gradient() -> None:
    objective = moco(momentum=0.9, head="mlp")
    for _ in range(2):
        loss: Any = objective.step(views_of(4), torch.empty(4, 0), torch.zeros(()))["contrast"]
    loss.backward()
    assert all(p.grad is None for p in objective.keys.parameters())
    assert all(p.grad is not None for p in [*objective.encoder.parameters(), *objective.head.parameters()])
    before = [p.detach().clone() for p in objective.keys.parameters()]
    with torch.no_grad():
        for parameter in [*objective.encoder.parameters(), *objective.head.parameters()]:
            parameter.add_(1.0)
    objective.after_step()
    for old, new in zip(before, objective.keys.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1, rtol=1e-4, atol=1e-5)


def run_of(make_faces: Any, name: str, settings: Settings = SMALL, **options: object) -> Pretraining:
    faces: FaceSet = make_faces()
    described = {"reader": faces.name, "options": dict(faces.options)}
    return resolve(name, {**OPTIONS[name], **options}, settings, [(described, faces)], 5)


class Stopping(Silent):
    """Ends the run after its first epoch."""

    def epoch(self, line: dict[str, Any]) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", OPTIONS)
def test_continues_bit_for_bit(make_faces: Any, tmp_path: Path, name: str) -> None:
    record = pretrain(run_of(make_faces, name), tmp_path / "whole")
    assert math.isfinite(record["loss"])
    with pytest.raises(KeyboardInterrupt):
        pretrain(run_of(make_faces, name), tmp_path / "parts", reporter=Stopping())
    pretrain(run_of(make_faces, name), tmp_path / "parts")
    whole, parts = (torch.load(tmp_path / part / "checkpoint.pt", weights_only=True) for part in ("whole", "parts"))
    assert whole["objective"].keys() == parts["objective"].keys()
    assert all(torch.equal(value, parts["objective"][key]) for key, value in whole["objective"].items())
    fresh = BACKBONES["vit_tiny"].make(16)
    fresh.load_state_dict(torch.load(tmp_path / "whole" / "weights.pt", weights_only=True)["state_dict"])


def test_sgd_as_moco_wants_it(make_faces: Any) -> None:
    settings = replace(SMALL, backbone="resnet_small", optimizer="sgd", lr=0.03, weight_decay=1e-4, warmup_epochs=0)
    state = make_state(run_of(make_faces, "moco", settings=settings), torch.device("cpu"))
    assert isinstance(state.optimizer, torch.optim.SGD)
    assert {group["momentum"] for group in state.optimizer.param_groups} == {0.9}


def test_every_objective_names_its_paper() -> None:
    assert set(OBJECTIVES) >= set(OPTIONS)
    assert all(issubclass(kind, nn.Module) and kind.paper for kind in OBJECTIVES.values())
