"""Whole views against a plain composition per image, and what the random draws promise."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from ferbench.bench.data.views import augment
from ferbench.bench.data.views.augment import StrongParams, ViewRecipe, WeakParams
from ferbench.bench.data.views.randaugment import RANGES
from ferbench.bench.speed.augment import PILLOW, pillow_cutout
from ferbench.kernels.augmentation.plan import OPERATIONS

CASES = [(48, 48, 1, 48, 4), (47, 53, 1, 64, 8), (47, 53, 3, 40, 3), (100, 100, 3, 112, 0)]
cases = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}x{c[1]}x{c[2]}-to-{c[3]}-pad{c[4]}")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def faces(n: int, height: int, width: int, channels: int) -> Tensor:
    """Smooth random pictures [n, H, W, C], nearer to faces than noise is."""
    small = torch.randint(0, 256, (n, channels, 9, 9), generator=generator(5), dtype=torch.uint8)
    return tv.resize(small, [height, width], antialias=True).permute(0, 2, 3, 1).contiguous()


def torchvision_operation(image: Image.Image, name: str, v: float) -> Image.Image:
    """The colour operations by torchvision, the geometric ones by Pillow."""
    tensor = tv.pil_to_tensor(image)
    match name:
        case "autocontrast":
            tensor = tv.autocontrast(tensor)
        case "equalize":
            tensor = tv.equalize(tensor)
        case "posterize":
            tensor = tv.posterize(tensor, int(v))
        case "solarize" if v <= 255:  # torchvision refuses more, which changes nothing
            tensor = tv.solarize(tensor, v)
        case "brightness":
            tensor = tv.adjust_brightness(tensor, v)
        case "contrast":
            tensor = tv.adjust_contrast(tensor, v)
        case "color":
            tensor = tv.adjust_saturation(tensor, v)
        case "sharpness":
            tensor = tv.adjust_sharpness(tensor, v)
        case _:
            return PILLOW[name](image, v)
    return tv.to_pil_image(tensor)


Operation = Callable[[Image.Image, str, float], Image.Image]


def composed_strong(
    image: Image.Image, params: StrongParams, i: int, operation: Operation = torchvision_operation
) -> Image.Image:
    for op, magnitude in zip(params.operations[i].tolist(), params.magnitudes[i].tolist(), strict=True):
        image = operation(image, OPERATIONS[op], magnitude)
    return pillow_cutout(image, params.side[i].item(), *params.centre[i].tolist())


def composed_weak(image: Image.Image, params: WeakParams, i: int, recipe: ViewRecipe) -> Tensor:
    """Resize, pad and crop, flip and normalise one image by torchvision."""
    tensor = tv.resize(tv.pil_to_tensor(image), [recipe.size] * 2, antialias=True)
    tensor = tv.pad(tensor, [recipe.padding])
    tensor = tv.crop(tensor, int(params.top[i]), int(params.left[i]), recipe.size, recipe.size)
    tensor = tv.horizontal_flip(tensor) if params.flip[i] else tensor
    tensor = tv.to_dtype(tv.grayscale_to_rgb(tensor), torch.float32, scale=True)
    return tv.normalize(tensor, list(recipe.mean), list(recipe.std))


def as_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.squeeze(2).numpy())


def grey_levels(difference: Tensor, recipe: ViewRecipe) -> Tensor:
    """Differences of normalised images in steps of 1 of 255."""
    return difference.abs() * torch.tensor(recipe.std).view(3, 1, 1) * 255


@cases
def test_weak_equals_torchvision(case: tuple[int, int, int, int, int]) -> None:
    *shape, size, padding = case
    recipe, images = ViewRecipe(size=size, padding=padding), faces(24, *shape)
    params = augment.draw_weak(24, recipe, generator())
    result = augment.apply_weak(images, params, recipe)
    expected = torch.stack([composed_weak(as_pil(image), params, i, recipe) for i, image in enumerate(images)])
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


@cases
def test_strong_equals_torchvision(case: tuple[int, int, int, int, int]) -> None:
    """Equal where no blend takes part; a blend is within 1, which later operations may widen (equalize, solarize)."""
    *shape, size, padding = case
    n, recipe, images = 120, ViewRecipe(size=size, padding=padding), faces(120, *shape)
    params = augment.draw_strong(n, recipe, generator(1))
    result = augment.apply_strong(images, params, recipe)
    blends = torch.tensor([OPERATIONS.index(name) for name in ("contrast", "color", "sharpness")])
    seen_exact, blended = 0, []
    for i, image in enumerate(images):
        expected = composed_weak(composed_strong(as_pil(image), params, i), params.weak, i, recipe)
        difference = grey_levels(result[i] - expected, recipe)
        if torch.isin(params.operations[i], blends).any():
            blended.append(difference.mean().item())
        else:
            assert difference.max() < 0.01, (i, params.operations[i])
            seen_exact += 1
    assert seen_exact > 30 and len(blended) > 30
    assert np.median(blended) < 0.5 and np.quantile(blended, 0.95) < 3


@cases
def test_plain_equals_torchvision(case: tuple[int, int, int, int, int]) -> None:
    *shape, size, padding = case
    recipe, images = ViewRecipe(size=size, padding=padding), faces(5, *shape)
    still = WeakParams(*torch.full((2, 5), padding), torch.zeros(5, dtype=torch.bool))
    expected = torch.stack([composed_weak(as_pil(image), still, i, recipe) for i, image in enumerate(images)])
    torch.testing.assert_close(augment.augment(images, "plain", recipe, generator()), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("view", augment.VIEWS)
def test_same_generator_same_view_however_the_batch_is_cut(view: augment.View, channels: int) -> None:
    recipe, images = ViewRecipe(size=56, padding=4), faces(23, 48, 48, channels)
    whole = augment.augment(images, view, recipe, generator(3))
    again, state = generator(3), generator(3).get_state()
    pieces = [augment.augment(part, view, recipe, again) for part in images.split([1, 9, 13])]
    assert torch.equal(torch.cat(pieces), whole)
    assert (view == "plain") == torch.equal(again.get_state(), state)


@pytest.mark.parametrize("view", ["weak", "strong"])
def test_a_rank_draws_for_all_and_keeps_its_share(view: augment.View) -> None:
    recipe, images = ViewRecipe(size=40, padding=4), faces(17, 48, 48, 3)
    params = augment.draw(view, 17, recipe, generator(4))
    share = torch.tensor([16, 3, 3, 0, 9])
    assert params is not None
    mine = augment.apply(images[share], params[share], recipe)
    assert torch.equal(mine, augment.apply(images, params, recipe)[share])
    assert torch.equal(augment.apply(images[2:5], params[2:5], recipe), augment.apply(images, params, recipe)[2:5])


def test_thread_count_does_not_matter() -> None:
    recipe, images, threads = ViewRecipe(size=64), faces(16, 48, 48, 3), torch.get_num_threads()
    views = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            views.append(augment.augment(images, "strong", recipe, generator(5)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*views)


@pytest.mark.parametrize("view", augment.VIEWS)
def test_layouts_and_memory_formats_agree(view: augment.View) -> None:
    images = faces(6, 20, 24, 3)
    base = augment.augment(images, view, ViewRecipe(size=32), generator(6))
    planes = augment.augment(images.permute(0, 3, 1, 2), view, ViewRecipe(size=32), generator(6))
    last = augment.augment(images, view, ViewRecipe(size=32, channels_last=True), generator(6))
    assert torch.equal(planes, base) and torch.equal(last, base)
    assert base.is_contiguous() and last.is_contiguous(memory_format=torch.channels_last)


def test_bgr_turns_the_channels_first() -> None:
    images = faces(6, 20, 24, 3)
    recipe = ViewRecipe(size=32, channel_order="bgr")
    expected = augment.augment(images.flip(3), "strong", ViewRecipe(size=32), generator(7))
    assert torch.equal(augment.augment(images, "strong", recipe, generator(7)), expected)


@pytest.mark.parametrize("view", augment.VIEWS)
def test_empty_batch(view: augment.View) -> None:
    images = torch.zeros(0, 48, 48, 1, dtype=torch.uint8)
    assert augment.augment(images, view, ViewRecipe(size=56), generator()).shape == (0, 3, 56, 56)


def test_input_is_left_alone() -> None:
    images = faces(40, 48, 48, 1)
    before = images.clone()
    augment.augment(images, "strong", ViewRecipe(size=48, padding=0), generator(8))
    assert torch.equal(images, before)


@pytest.mark.parametrize("images", [torch.zeros(2, 8, 8, 1), torch.zeros(2, 8, 8, 4, dtype=torch.uint8)], ids=str)
def test_wrong_images_are_named(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"images must be uint8 \[B, H, W, C\]"):
        augment.augment(images, "weak", ViewRecipe(size=8), generator())


def test_weak_draws_follow_the_recipe() -> None:
    n, recipe = 40_000, ViewRecipe(padding=8)
    params = augment.draw_weak(n, recipe, generator(9))
    assert abs(params.flip.float().mean() - 0.5) < 0.01
    still = (params.top == 8) & (params.left == 8)
    assert abs(still.float().mean() - (0.5 + 0.5 / 289)) < 0.01
    counts = torch.bincount(params.top[~still] * 17 + params.left[~still], minlength=289)
    assert counts[8 * 17 + 8] == 0
    assert stats.chisquare(np.delete(counts.numpy(), 8 * 17 + 8)).pvalue > 1e-3


def test_strong_draws_follow_the_recipe() -> None:
    params = augment.draw_strong(20_000, ViewRecipe(), generator(10))
    operations, magnitudes = params.operations.flatten().numpy(), params.magnitudes.flatten().numpy()
    assert stats.chisquare(np.bincount(operations, minlength=14)).pvalue > 1e-3
    pairs = params.operations[:, 0] * 14 + params.operations[:, 2]  # with replacement: slots are independent
    assert stats.chisquare(np.bincount(pairs.numpy(), minlength=196)).pvalue > 1e-3
    for i, (low, high) in enumerate(RANGES[name] for name in OPERATIONS):
        chosen = magnitudes[operations == i]
        assert low <= chosen.min() and chosen.max() < high
        assert stats.kstest(chosen, "uniform", (low, high - low)).pvalue > 1e-3
    assert stats.kstest(params.side.numpy(), "uniform", (0, 0.5)).pvalue > 1e-3
    assert stats.kstest(params.centre.flatten().numpy(), "uniform").pvalue > 1e-3


def test_two_strong_views_differ() -> None:
    images, shared = faces(8, 48, 48, 1), generator(11)
    recipe = ViewRecipe(size=48, padding=4)
    first, second = (augment.augment(images, view, recipe, shared) for view in ("strong", "strong2"))
    assert not torch.equal(first, second)


@pytest.mark.skipif("FERBENCH_FERPLUS_ROOT" not in os.environ, reason="needs FERBENCH_FERPLUS_ROOT, FERPlus' pictures")
def test_real_faces_stay_near_pillow() -> None:
    """The released codes' chain (Pillow throughout) on real faces: median difference below one grey level."""
    paths = sorted(Path(os.environ["FERBENCH_FERPLUS_ROOT"]).glob("FER2013*/*.png"))[:200]
    images = torch.from_numpy(np.stack([np.array(Image.open(path).convert("L")) for path in paths])).unsqueeze(3)
    recipe = ViewRecipe(size=48, padding=4)
    params = augment.draw_strong(len(paths), recipe, generator(12))
    result = augment.apply_strong(images, params, recipe)
    means = []
    for i, image in enumerate(images):
        picture = composed_strong(as_pil(image), params, i, lambda image, name, v: PILLOW[name](image, v))
        expected = composed_weak(picture, params.weak, i, recipe)
        means.append(grey_levels(result[i] - expected, recipe).mean().item())
    assert np.median(means) < 0.5 and np.quantile(means, 0.95) < 2
