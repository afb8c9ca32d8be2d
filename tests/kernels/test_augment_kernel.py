"""The augmentation kernels against the batched torch path: the same pixel values, so float results within rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ferbench.bench.data.views.augment import ViewRecipe, draw, make_plan
from ferbench.bench.data.views.randaugment import RANGES, operation_maps
from ferbench.kernels.augmentation.op import augment
from ferbench.kernels.augmentation.plan import OPERATIONS, Plan, pack, unpack

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF_STEP = 0.5 / 255 / max(STD)  # half the distance of two neighbouring pixel values after normalisation


def pictures(n: int, height: int, width: int, channels: int) -> Tensor:
    """Noise, narrow noise, a ramp, two-valued and constant images [n, H, W, C]."""
    images = torch.randint(0, 256, (n, height, width, channels), dtype=torch.uint8)
    images[1 % n] = images[1 % n] // 5 + 100
    images[2 % n] = torch.linspace(3, 251, images[0].numel()).view(images.shape[1:]).to(torch.uint8)
    images[3 % n] = images[3 % n] // 128 * 200
    images[4 % n] = 77
    return images


def assert_same_pixels(images: Tensor, plan: Tensor, device: torch.device, **options: Any) -> None:
    options = {"padding": 3, "mean": MEAN, "std": STD} | options
    expected = augment(images, plan, impl="reference", **options)
    result = augment(images.to(device), plan.to(device), impl="triton", **options).cpu()
    assert result.isfinite().all() and result.stride() == expected.stride()
    assert (result - expected).abs().max() < min(HALF_STEP, 1e-5)


def drawn(n: int, height: int, width: int, *, view: str = "strong", num_ops: int = 3, padding: int = 3) -> Tensor:
    """n rows as the recipe draws them."""
    recipe = ViewRecipe(padding=padding, num_ops=num_ops)
    params = draw(view, n, recipe, torch.Generator().manual_seed(n + width))  # type: ignore[arg-type]
    return make_plan(params, n, height, width, recipe)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation(name: str, channels: int, device: torch.device) -> None:
    low, high = RANGES[name]
    amounts = torch.tensor([[low], [high], [(low + high) / 2], [low + 0.31 * (high - low)], [0.77 * high]])
    operations = torch.full((5, 1), OPERATIONS.index(name))
    maps = operation_maps(operations, amounts.double(), 29, 31)
    box, corner = torch.tensor([[0, 0, -1, -1]] * 5), torch.zeros(5, 2)
    plan = pack(Plan(operations, amounts, maps, box, corner, torch.zeros(5, dtype=torch.bool)))
    assert_same_pixels(pictures(5, 29, 31, channels), plan, device, size=29, padding=0)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(16, 16, 16), (17, 19, 24), (24, 24, 11), (11, 8, 15), (2, 1, 3)],
    ids=lambda value: str(value),
)
def test_strong_view(height: int, width: int, size: int, channels: int, device: torch.device) -> None:
    plan = drawn(7, height, width)
    assert_same_pixels(pictures(7, height, width, channels), plan, device, size=size)


@pytest.mark.parametrize("view", ["weak", "plain"])
@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize("size", [14, 20], ids=["as-stored", "resized"])
def test_views_without_operations(view: str, channels: int, size: int, device: torch.device) -> None:
    assert_same_pixels(pictures(5, 14, 14, channels), drawn(5, 14, 14, view=view), device, size=size)


@pytest.mark.parametrize("num_ops", [1, 2, 5])
def test_any_number_of_operations(num_ops: int, device: torch.device) -> None:
    assert_same_pixels(pictures(5, 20, 20, 1), drawn(5, 20, 20, num_ops=num_ops), device, size=20)


def test_channels_last_result(device: torch.device) -> None:
    assert_same_pixels(pictures(5, 14, 14, 3), drawn(5, 14, 14), device, size=18, channels_last=True)


def test_more_pixels_than_one_block(device: torch.device) -> None:
    assert_same_pixels(pictures(4, 61, 67, 1), drawn(4, 61, 67, padding=5), device, size=36, padding=5)


def test_empty_batch(device: torch.device) -> None:
    images = torch.zeros(0, 8, 8, 1, dtype=torch.uint8, device=device)
    result = augment(images, drawn(0, 8, 8).to(device), size=9, padding=3, mean=MEAN, std=STD, impl="triton")
    assert result.shape == (0, 3, 9, 9)


def test_twice_the_same_bits(device: torch.device) -> None:
    images, plan = pictures(5, 18, 18, 3).to(device), drawn(5, 18, 18).to(device)
    options: dict[str, Any] = {"size": 18, "padding": 3, "mean": MEAN, "std": STD, "impl": "triton"}
    assert torch.equal(augment(images, plan, **options), augment(images, plan, **options))


def test_pack_and_unpack() -> None:
    fields = Plan(
        torch.randint(0, 14, (4, 3)), torch.rand(4, 3), torch.randint(-(2**20), 2**20, (4, 3, 6)),
        torch.randint(-1, 48, (4, 4)), torch.randint(0, 16, (4, 2)), torch.tensor([True, False, False, True]),
    )  # fmt: skip
    rows = pack(fields)
    assert rows.shape == (4, 31) and rows.dtype == torch.int32
    for before, after in zip(fields, unpack(rows), strict=True):
        assert torch.equal(before, after.to(before.dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 8, 8, 1)}, "images must be uint8"),
        ({"images": torch.zeros(2, 8, 8, 2, dtype=torch.uint8)}, "1 or 3 channels"),
        ({"images": torch.zeros(3, 8, 8, 1, dtype=torch.uint8)}, "images must have shape"),
        ({"plan": torch.zeros(2, 8, dtype=torch.int32)}, "plan must be packed rows"),
    ],
    ids=["dtype", "channels", "batch", "plan"],
)
def test_wrong_arguments_are_named(change: dict[str, Any], message: str) -> None:
    images = torch.zeros(2, 8, 8, 1, dtype=torch.uint8)
    arguments = {"images": images, "plan": drawn(2, 8, 8), "size": 8, "padding": 3, "mean": MEAN, "std": STD}
    with pytest.raises(ValueError, match=message):
        augment(**(arguments | change))
