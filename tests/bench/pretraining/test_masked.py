"""Masked autoencoding by hand: which patches are masked, what the loss sees, what the encoder sees."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ferbench.bench.pretraining import MAE, OBJECTIVES, vit
from ferbench.bench.pretraining.mae import MAEOptions
from ferbench.bench.pretraining.objective import Masked, mask_of, masked_mean, random_order
from ferbench.bench.training.networks.backbones import BACKBONES

TINY = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


def make(size: int = 48, **options: Any) -> MAE:
    torch.manual_seed(0)
    return MAE(BACKBONES["vit_tiny"].make(size), MAEOptions(**{**TINY, **options}), size)


@pytest.mark.parametrize("ratio", [0.75, 0.5, 0.6, 0.9])
@pytest.mark.parametrize("patches", [36, 196, 25])
def test_exactly_so_many_patches_are_masked_in_each_image(ratio: float, patches: int) -> None:
    noise = torch.rand(7, patches, generator=torch.Generator().manual_seed(1))
    kept = int(patches * (1 - ratio))
    order = random_order(noise)
    mask = mask_of(order, kept)
    assert mask.sum(1).tolist() == [patches - kept] * 7
    for image in range(7):
        visible = sorted(range(patches), key=lambda p: (noise[image, p].item(), p))[:kept]
        assert [p for p in range(patches) if not mask[image, p]] == sorted(visible)


def test_a_new_set_of_patches_each_time_and_all_equally_often() -> None:
    noise = torch.rand(4000, 16, generator=torch.Generator().manual_seed(2))
    share = mask_of(random_order(noise), 4).float().mean(0)
    assert (share - 0.75).abs().max() < 0.03


def test_ties_go_to_the_first_patch() -> None:
    assert mask_of(random_order(torch.zeros(1, 5)), 2).tolist() == [[False, False, True, True, True]]


def test_patches_by_loops_and_back() -> None:
    images = torch.randn(2, 3, 12, 12)
    patches = vit.patchify(images, 4)
    for b in range(2):
        for row in range(3):
            for column in range(3):
                places = [(c, 4 * row + y, 4 * column + x) for y in range(4) for x in range(4) for c in range(3)]
                flat = [images[b, c, y, x].item() for c, y, x in places]
                assert patches[b, 3 * row + column].tolist() == flat
    assert torch.equal(vit.unpatchify(patches, 4), images)


def test_sine_cosine_positions_by_loops() -> None:
    """He et al.: the first half of the width codes the column, the second the row; the class token has zeros."""
    width, grid = 8, 3
    table = vit.sincos_positions(width, grid)[0]
    assert not table[0].any()
    for row in range(grid):
        for column in range(grid):
            expected = []
            for place in (column, row):
                angles = [place / 10000 ** (i / (width / 4)) for i in range(width // 4)]
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            assert table[1 + grid * row + column].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_the_loss_is_over_masked_patches_alone_by_loops(norm_pix: bool) -> None:
    mae = make(norm_pix=norm_pix).eval()
    images, noise = torch.randn(3, 3, 48, 48), torch.rand(3, 36)
    loss = mae.step({"weak": images}, noise, torch.zeros(()))["reconstruction"]
    order = random_order(noise)
    predicted = mae.reconstruct(images, order, mae.kept).detach().double().numpy()
    mask, pixels = mask_of(order, mae.kept), vit.patchify(images, 8).double().numpy()
    assert mae.kept == 9
    total, count = 0.0, 0
    for b in range(3):
        for p in range(36):
            if mask[b, p]:
                target = pixels[b, p]
                if norm_pix:
                    target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
                total += ((predicted[b, p] - target) ** 2).mean()
                count += 1
    assert count == 3 * 27
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


def test_visible_patches_do_not_move_the_loss_but_through_the_encoder() -> None:
    """The gradient of the loss with respect to the predictions is zero exactly at visible patches."""
    mask = torch.tensor([[True, False, True], [False, True, True]])
    values = torch.rand(2, 3, requires_grad=True)
    masked_mean(values, mask).backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert torch.equal(values.grad, mask.float() / 4)


def test_the_encoder_does_not_see_masked_patches() -> None:
    """Predictions stay when masked pixels change, and move when a visible one does."""
    mae = make().eval()
    images, order = torch.randn(2, 3, 48, 48), random_order(torch.rand(2, 36))
    mask = mask_of(order, mae.kept)
    before = mae.reconstruct(images, order, mae.kept)
    patches = vit.patchify(images, 8)
    hidden = torch.where(mask.unsqueeze(2), torch.randn_like(patches), patches)
    torch.testing.assert_close(mae.reconstruct(vit.unpatchify(hidden, 8), order, mae.kept), before)
    seen = torch.where(mask.unsqueeze(2), patches, patches + 1)
    assert (mae.reconstruct(vit.unpatchify(seen, 8), order, mae.kept) - before).abs().max() > 1e-3


def test_a_full_view_is_timm_s_own_forward_pass() -> None:
    """With nothing left out, tokens and blocks give what the exported encoder gives in a classifier."""
    mae = make().eval()
    images = torch.randn(2, 3, 48, 48)
    encoded = vit.encode(mae.encoder, vit.tokens(mae.encoder, images))
    torch.testing.assert_close(encoded, mae.encoder.forward_features(images))


def test_each_patch_s_token_comes_back_to_its_place() -> None:
    """The decoder's input: visible tokens at their patches, the mask token elsewhere, positions added after that."""
    mae = make()
    shown: list[Tensor] = []
    mae.decoder.register_forward_hook(lambda module, given, result: shown.append(given[0]))
    images, order = torch.randn(1, 3, 48, 48), random_order(torch.rand(1, 36))
    mae.reconstruct(images, order, 9)
    sequence = (shown[0] - mae.positions)[0, 1:]
    mask = mask_of(order, 9)[0]
    blank = mae.mask_token[0, 0]
    for place in range(36):
        assert bool(torch.allclose(sequence[place], blank, atol=1e-6)) is bool(mask[place])
    encoded = mae.embed(vit.encode(mae.encoder, vit.take(vit.tokens(mae.encoder, images), order[:, :9])))
    for rank in range(9):
        torch.testing.assert_close(sequence[order[0, rank]], encoded[0, 1 + rank], atol=1e-5, rtol=0)


def test_positions_train_only_where_asked() -> None:
    for positions in ("sincos", "learned"):
        mae = make(positions=positions)
        assert mae.encoder.pos_embed.requires_grad is (positions == "learned")
        torch.testing.assert_close(mae.encoder.pos_embed.data, vit.sincos_positions(192, 6))


def test_the_picture_shows_the_image_the_gaps_and_the_reconstruction() -> None:
    mae = make(norm_pix=False).eval()
    images, noise = torch.randn(2, 3, 48, 48), torch.rand(2, 36)
    panels = mae.panels(images, noise)
    mask = mask_of(random_order(noise), mae.kept).unsqueeze(2)
    shown = [vit.patchify(panels[:, n], 8) for n in range(3)]
    assert torch.equal(panels[:, 0], images)
    assert not shown[1].masked_select(mask).any()
    predicted = mae.reconstruct(images, random_order(noise), mae.kept)
    torch.testing.assert_close(shown[2], torch.where(mask, predicted, shown[0]))


def test_released_predicts_pixels() -> None:
    assert MAE.released == {"norm_pix": False} and MAEOptions().norm_pix and MAEOptions().mask_ratio == 0.75


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_s_state_is_its_state_dict(name: str) -> None:
    """A step, then into a fresh one: both give the same loss and gradients."""
    kind = OBJECTIVES[name]

    def fresh(seed: int) -> Any:
        torch.manual_seed(seed)
        options = {key: value for key, value in TINY.items() if key in kind.Options.__dataclass_fields__}
        objective = kind(BACKBONES["vit_tiny"].make(64), kind.Options(**options), 64)  # type: ignore[call-arg]
        objective.begin(10)
        return objective.train()

    def step(objective: Any, seed: int) -> Mapping[str, Tensor]:
        rng = torch.Generator().manual_seed(seed)
        views = {name: torch.randn(4, 3, 64, 64, generator=rng) for name in objective.views}
        noise = torch.rand(4, objective.patches, generator=rng)
        torch.manual_seed(seed)
        losses: Mapping[str, Tensor] = objective.step(views, noise, torch.tensor(0.5))
        objective.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        return losses

    trained, other = fresh(0), fresh(1)
    optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=0.01)
    step(trained, 1)
    optimizer.step()
    trained.after_step()
    other.load_state_dict(trained.state_dict())
    first, second = step(trained, 2), step(other, 2)
    for key in first:
        assert torch.isfinite(first[key]) and torch.equal(first[key], second[key])
    for (key, mine), theirs in zip(trained.named_parameters(), other.parameters(), strict=True):
        assert mine.grad is None or torch.equal(mine.grad, theirs.grad), key


def test_the_base_class_is_no_objective() -> None:
    with pytest.raises(TypeError):
        Masked()  # type: ignore[abstract]
