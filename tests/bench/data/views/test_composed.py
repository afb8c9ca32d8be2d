"""SSFER's views against torchvision, Pillow and timm, one image at a time; boxes against torchvision's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from ferbench.bench.data.views import augment, timm_policy
from ferbench.bench.data.views.augment import ViewRecipe, view_boxes
from ferbench.bench.data.views.batches import Batches, ImageStore, Share, Stream
from ferbench.bench.data.views.boxes import FALLBACK, known_boxes, without_boxes
from ferbench.bench.data.views.composed import ComposedParams
from ferbench.bench.data.views.resized_crop import WindowParams, batched, draw_windows, resized_crop, windows
from ferbench.bench.data.views.timm_policy import OPERATIONS, TimmParams, draw_operations
from ferbench.methods import Views

FILL = (150, 117, 103)
SHAPES = [(48, 48, 1, 48), (47, 53, 1, 64), (47, 53, 3, 40), (100, 100, 3, 112)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}x{s[2]}-to-{s[3]}")
TIMM = dict(
    zip(OPERATIONS, auto_augment._RAND_INCREASING_TRANSFORMS, strict=True)  # the same order
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def faces(n: int, height: int, width: int, channels: int) -> Tensor:
    """Smooth random pictures [n, C, H, W]."""
    small = torch.randint(0, 256, (n, channels, 9, 9), generator=rng(5), dtype=torch.uint8)
    return tv.resize(small, [height, width], antialias=True)


def cropped(image: Tensor, window: Tensor, mirrored: bool, size: int) -> Tensor:
    part = tv.resized_crop(
        image, *window.tolist(), [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return tv.horizontal_flip(part) if mirrored else part


@shapes
@pytest.mark.parametrize("how", [resized_crop, batched])
def test_resized_crop_equals_torchvision(shape: tuple[int, ...], how: Any) -> None:
    height, width, channels, size = shape
    images, params = faces(30, height, width, channels), draw_windows(30, 0.5, rng(1))
    window = windows(params, height, width, 0.2)
    result = how(images, window, params.mirrored, size)
    expected = torch.stack(
        [cropped(image, window[i], bool(params.mirrored[i]), size) for i, image in enumerate(images)]
    )
    difference = (result.int() - expected.int()).abs()
    assert difference.max() <= (0 if how is resized_crop else 1)
    assert difference.float().mean() < 1e-3


def test_windows_follow_torchvision_s_rule_by_loops() -> None:
    """Ten tries, the first that fits; what is drawn here is put into torchvision's own formula."""
    height, width, n = 61, 40, 200
    params = draw_windows(n, 0.5, rng(2))
    found = windows(params, height, width, 0.2)
    for i in range(n):
        expected = None
        for area_share, aspect_share in zip(params.area[i].tolist(), params.aspect[i].tolist(), strict=True):
            area = height * width * (0.2 + 0.8 * area_share)
            aspect = np.exp(np.log(3 / 4) + aspect_share * (np.log(4 / 3) - np.log(3 / 4)))
            w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                down, right = params.place[i].tolist()
                expected = [int(down * (height - h + 1)), int(right * (width - w + 1)), h, w]
                break
        if expected is not None:
            assert found[i].tolist() == expected
        else:  # the largest central window of an aspect that is allowed
            tall = round(width / (3 / 4))
            assert found[i].tolist() == [(height - tall) // 2, 0, tall, width]


def test_windows_have_torchvision_s_distribution() -> None:
    n = 3000
    ours = windows(draw_windows(n, 0.5, rng(3)), 100, 100, 0.2).double()
    torch.manual_seed(0)
    transform, image = RandomResizedCrop(10, scale=(0.2, 1.0)), torch.zeros(3, 100, 100)
    params = [transform.make_params([image]) for _ in range(n)]
    theirs = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in params]).double()
    assert (ours.mean(0) - theirs.mean(0)).abs().max() < 2
    assert (ours.std(0) - theirs.std(0)).abs().max() < 1.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_within_1_of_timm_s_on_pillow_images(
    name: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = faces(6, 47, 53, channels)
    level = torch.tensor([0.9, -0.9, 0.83, -0.99, 0.99, -0.95], dtype=torch.float64)
    result = timm_policy.operate(images, name, level, FILL)
    grey = sum(v * w for v, w in zip(FILL, (19595, 38470, 7471), strict=True)) // 65536
    for i, amount in enumerate(level.tolist()):
        monkeypatch.setattr(auto_augment, "_randomly_negate", lambda v, sign=amount: -v if sign < 0 else v)
        picture = Image.fromarray(images[i].permute(1, 2, 0).squeeze(2).numpy())
        to_argument = auto_augment.LEVEL_TO_ARG[TIMM[name]]
        arguments = to_argument(abs(amount) * 10, {}) if to_argument else ()
        fill = FILL if channels == 3 else grey
        expected = auto_augment.NAME_TO_OP[TIMM[name]](
            picture, *arguments, fillcolor=fill, resample=Image.Resampling.BICUBIC
        )
        difference = (result[i].int() - tv.pil_to_tensor(expected).int()).abs()
        assert difference.max() <= 1 and difference.float().mean() < 0.03, i


def test_no_bits_left_is_black() -> None:
    """At magnitude 10 timm keeps no bits; Pillow takes that only up to version 11."""
    images = faces(2, 8, 8, 3)
    assert not timm_policy.operate(images, "posterize", torch.ones(2, dtype=torch.float64), FILL).any()


def test_magnitudes_and_choices_follow_timm_s_rule() -> None:
    n = 20000
    params = draw_operations(n, rng(4))
    counts = torch.bincount(params.operations.flatten(), minlength=15) / (2 * n)
    assert (counts - 1 / 15).abs().max() < 0.005
    assert params.applied.double().mean().item() == pytest.approx(0.5, abs=0.01)
    assert params.negative.double().mean().item() == pytest.approx(0.5, abs=0.01)
    random.seed(0)
    theirs = torch.tensor([max(0.0, min(10.0, random.gauss(9, 0.5))) for _ in range(n)]) / 10
    assert params.level.mean().item() == pytest.approx(theirs.mean().item(), abs=0.002)
    assert params.level.std().item() == pytest.approx(theirs.std().item(), abs=0.002)
    assert params.level.max() == 1


def test_operations_are_applied_in_order_to_the_images_they_were_drawn_for() -> None:
    images = faces(20, 24, 24, 3)
    params = draw_operations(20, rng(6))
    result = timm_policy.apply_operations(images, params, FILL)
    for i in range(20):
        one = images[i : i + 1]
        for layer in range(2):
            if params.applied[i, layer]:
                level = params.level[i : i + 1, layer] * (-1 if params.negative[i, layer] else 1)
                one = timm_policy.operate(one, OPERATIONS[int(params.operations[i, layer])], level, FILL)
        assert torch.equal(result[i], one[0]), i


RECIPE = ViewRecipe(size=40, geometry="resized_crop", mean=(0.588, 0.459, 0.402), std=(0.228, 0.202, 0.190))


@pytest.mark.parametrize("view", ["weak", "strong"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_is_crop_then_flip_then_operations_then_normalise(view: Any, channels: int) -> None:
    images = faces(12, 47, 53, channels)
    params = augment.draw(view, 12, RECIPE, rng(7))
    assert isinstance(params, ComposedParams) and (params.operations is None) is (view == "weak")
    result = augment.apply(images.permute(0, 2, 3, 1).contiguous(), params, RECIPE)
    window = windows(params.windows, 47, 53, 0.2)
    for i in range(12):
        part = cropped(images[i], window[i], bool(params.windows.mirrored[i]), 40).unsqueeze(0)
        if params.operations is not None:
            part = timm_policy.apply_operations(part, params.operations[torch.tensor([i])], [150, 117, 103])
        pixels = tv.to_dtype(part[0].expand(3, -1, -1), torch.float32, scale=True)
        torch.testing.assert_close(
            result[i], tv.normalize(pixels, list(RECIPE.mean), list(RECIPE.std)), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("view", augment.VIEWS)
def test_the_same_view_however_the_batch_is_cut(view: augment.View) -> None:
    images = faces(9, 30, 30, 3).permute(0, 2, 3, 1).contiguous()
    params = augment.draw(view, 9, RECIPE, rng(8))
    whole = augment.apply(images, params, RECIPE)
    for rows in (slice(0, 9, 2), torch.tensor([8, 1, 3])):
        part = augment.apply(images[rows], None if params is None else params[rows], RECIPE)
        assert torch.equal(part, whole[rows])


def expected_box(box: Tensor, image: Tensor, transforms: Any) -> list[float]:
    boxes = tv_tensors.BoundingBoxes(box.unsqueeze(0), format="XYXY", canvas_size=image.shape[1:])  # type: ignore[call-overload]
    moved = tv.clamp_bounding_boxes(transforms(boxes))
    return list(moved.as_subclass(torch.Tensor)[0].tolist())


def boxes_in(height: int, width: int, n: int) -> Tensor:
    corners = torch.rand(n, 2, 2, generator=rng(9), dtype=torch.float64) * torch.tensor([width, height])
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def test_boxes_through_a_resized_crop_are_torchvision_s() -> None:
    height, width, n = 47, 53, 40
    boxes, params = boxes_in(height, width, n), augment.draw("weak", n, RECIPE, rng(10))
    assert isinstance(params, ComposedParams)
    window, moved = windows(params.windows, height, width, 0.2), view_boxes(boxes, (height, width), params, RECIPE)
    for i in range(n):

        def chain(given: Any, i: int = i) -> Any:
            given = tv.resized_crop(given, *window[i].tolist(), [40, 40])
            return tv.horizontal_flip(given) if params.windows.mirrored[i] else given

        expected = expected_box(boxes[i], torch.zeros(3, height, width), chain)  # in float32
        assert moved[i].tolist() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("view", ["weak", "strong", "plain"])
def test_boxes_through_a_padded_crop_are_torchvision_s(view: Any) -> None:
    height, width, n = 47, 53, 40
    recipe = ViewRecipe(size=64, padding=8, crop=0.7)
    boxes, params = boxes_in(height, width, n), augment.draw(view, n, recipe, rng(11))
    moved = view_boxes(boxes, (height, width), params, recipe)
    weak = getattr(params, "weak", params)
    for i in range(n):

        def chain(given: Any, i: int = i) -> Any:
            given = tv.resize(given, [64, 64])
            if weak is None:
                return given
            given = tv.crop(tv.pad(given, [8]), int(weak.top[i]), int(weak.left[i]), 64, 64)
            return tv.horizontal_flip(given) if weak.flip[i] else given

        expected = expected_box(boxes[i], torch.zeros(3, height, width), chain)  # in float32
        assert moved[i].tolist() == pytest.approx(expected, abs=2e-5)


def test_a_marked_face_is_inside_its_box_in_the_view() -> None:
    """The box is drawn into the picture: the view's white pixels span the moved box, to a pixel."""
    n, side = 30, 60
    boxes = torch.tensor([[12.0, 20, 40, 52]]).repeat(n, 1)
    images = torch.zeros(n, side, side, 1, dtype=torch.uint8)
    images[:, 20:52, 12:40] = 255
    recipe = ViewRecipe(size=120, geometry="resized_crop", least_area=0.5)
    params = augment.draw("weak", n, recipe, rng(12))
    bright = augment.apply(images, params, recipe)[:, 0] > 0
    moved = view_boxes(boxes, (side, side), params, recipe)
    for i in range(n):
        rows, columns = bright[i].any(1).nonzero(), bright[i].any(0).nonzero()
        if len(rows):
            seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert moved[i].tolist() == pytest.approx([float(value) for value in seen], abs=1.01), i


def test_unknown_boxes_become_the_constant_one(make_faces: Any) -> None:
    boxes = torch.full((2, 4), float("nan"))
    boxes[1] = torch.tensor([1.0, 2, 9, 10])
    moved = view_boxes(boxes, (16, 16), None, ViewRecipe(size=224, padding=0))
    assert moved[0].tolist() == pytest.approx([25, 25, 220, 220])
    assert moved[1].tolist() == pytest.approx([14, 28, 126, 140])
    assert [224 * value for value in FALLBACK] == pytest.approx([25, 25, 220, 220])
    tiny = make_faces()
    assert "no face boxes" in known_boxes(tiny, tiny.train)
    known = np.zeros((len(tiny.labels), 4), np.float32)
    known[tiny.train[:27]] = np.nan
    from dataclasses import replace

    assert "50.0 % of the labelled" in known_boxes(replace(tiny, boxes=known), tiny.train)


def test_boxes_that_are_the_whole_image_say_nothing(make_faces: Any) -> None:
    """Of 54 training images 27 have no box and some one that reaches all four edges, to half a pixel, or beyond."""
    from dataclasses import replace

    tiny = make_faces()
    boxes = np.tile(np.array([-1, 0.4, 16.2, 15.6], np.float32), (len(tiny.labels), 1))
    boxes[tiny.train[:27]] = np.nan
    whole = replace(tiny, boxes=boxes)
    assert known_boxes(whole, tiny.train) == (
        "face boxes: 50.0 % of the labelled images take the constant one, of 50.0 % the box is the whole image"
    )
    line = without_boxes(whole, tiny.train)
    assert line is not None and "\n" not in line
    assert "tiny: no labelled image has a face box other than the whole image" in line and "faces=haar" in line
    assert without_boxes(tiny, tiny.train) == line
    looked = replace(tiny, options={**tiny.options, "faces": "haar"}, boxes=np.full((len(tiny.labels), 4), np.nan))
    assert without_boxes(looked, tiny.train) == (
        "tiny: faces=haar found a face in no labelled image, so that FaceMix with kappa=iou is Mixup: "
        "give the reader faces=csv or mtcnn, or the method mix=mixup"
    )
    for place, value in ((0, 0.6), (1, 0.6), (2, 15.4), (3, 15.4)):
        one = boxes.copy()
        one[tiny.train[-1], place] = value
        assert without_boxes(replace(tiny, boxes=one), tiny.train) is None
        assert without_boxes(replace(tiny, boxes=one), tiny.train[:-1]) == line
        assert f"of {100 * 26 / 54:.1f} % the box" in known_boxes(replace(tiny, boxes=one), tiny.train)


@pytest.mark.parametrize("geometry", ["crop", "resized_crop"])
def test_batches_carry_boxes_for_methods_that_take_them(make_faces: Any, geometry: Any) -> None:
    from dataclasses import replace

    tiny = make_faces()
    known = np.tile(np.array([2, 3, 12, 13], np.float32), (len(tiny.labels), 1))
    recipe = ViewRecipe(size=32, padding=4, geometry=geometry)
    store, stream = ImageStore(replace(tiny, boxes=known), torch.device("cpu")), Stream(tiny.train, 6, 1, "labelled")

    def batches(store: ImageStore, boxes: bool, share: Share = Share()) -> Batches:  # noqa: B008
        return Batches(store, stream, None, Views(labelled=("weak", "strong")), recipe, share, boxes=boxes)

    whole = batches(store, True).labelled(3)
    assert whole.boxes is not None and whole.boxes.keys() == {"weak", "strong"}
    for name in ("weak", "strong"):
        params = augment.draw(name, 6, recipe, torch.Generator().manual_seed(_seed(f"labelled/{name}")))
        expected = view_boxes(torch.tensor(known[:6]), (16, 16), params, recipe)
        torch.testing.assert_close(whole.boxes[name], expected)
    part = batches(store, True, Share(1, 2)).labelled(3)
    assert part.boxes is not None and torch.equal(part.boxes["weak"], whole.boxes["weak"][1::2])
    assert batches(store, False).labelled(3).boxes is None
    assert batches(ImageStore(tiny, torch.device("cpu")), True).labelled(3).boxes is None


def _seed(purpose: str) -> int:
    from ferbench.bench.data.randomness import derive

    return derive(1, purpose, 3)


def test_parameters_are_taken_row_by_row() -> None:
    params = ComposedParams(draw_windows(4, 0.5, rng()), draw_operations(4, rng()))
    part = params[slice(1, 3)]
    assert isinstance(part.windows, WindowParams) and isinstance(part.operations, TimmParams)
    assert torch.equal(part.windows.area, params.windows.area[1:3])
