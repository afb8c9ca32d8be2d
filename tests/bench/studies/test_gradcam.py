"""Grad-CAM against its definition: the closed form under average pooling, and a transformer taken apart by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ferbench.bench.studies.gradcam import class_activation, focus, stretched, watched
from ferbench.bench.training.networks.backbones import Classifier, make_classifier
from ferbench.bench.training.recording.records import RunError
from ferbench.methods import build, option_values
from ferbench.methods.base import Method


def method(name: str, backbone: str, size: int, **options: object) -> Method:
    torch.manual_seed(3)
    model = make_classifier(backbone, 5, size=size, dropout=0.0)
    nn.init.normal_(model.head.weight)  # type: ignore[arg-type]
    built = build(name, model, option_values(name, "paper", options))
    return built.eval().requires_grad_(False)


def maps(made: Method, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_(True)
    with watched(made) as seen:
        scores = made.predict(images)
    return focus(seen, scores, images.shape[-1])


def test_under_average_pooling_the_map_is_the_heads_weights_on_the_features() -> None:
    """d logit / d A_d at a place is W_cd / (h w) there, so the map is relu(sum_d W_cd A_d) up to a factor."""
    made, images = method("vanilla", "resnet_small", 48), torch.randn(4, 3, 48, 48)
    model = made.model
    assert isinstance(model, Classifier) and isinstance(model.head, nn.Linear)
    features = model.encoder.forward_features(images)  # type: ignore[operator]
    chosen = model(images).logits.argmax(dim=1)
    expected = torch.zeros(4, 3, 3)
    for i in range(4):
        for d in range(128):
            expected[i] += model.head.weight[chosen[i], d] * features[i, d]
    torch.testing.assert_close(maps(made, images), stretched(expected.relu(), 48), atol=1e-4, rtol=1e-4)


def test_transformer_by_hand() -> None:
    """The layer is what enters the last block's attention; patches are put back row by row, without the class token."""
    made, images = method("vanilla", "vit_tiny", 24), torch.randn(2, 3, 24, 24)
    model = made.model
    assert isinstance(model, Classifier)
    encoder, kept = model.encoder, []
    block = encoder.blocks[-1]  # type: ignore[index]
    hook = block.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    chosen = model(images).logits.argmax(dim=1)
    hook.remove()
    entering = block.norm1(kept[0]).detach().requires_grad_(True)  # [2, 1 + 9, 192]
    x = kept[0] + block.attn(entering)
    x = encoder.norm(x + block.mlp(block.norm2(x)))  # type: ignore[operator]
    logits = model.head(encoder.forward_head(x, pre_logits=True))  # type: ignore[operator]
    (slope,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), entering)
    expected = torch.zeros(2, 3, 3)
    for i in range(2):
        weights = slope[i, 1:].mean(dim=0)
        for row in range(3):
            for column in range(3):
                expected[i, row, column] = (weights * entering[i, 1 + 3 * row + column]).sum().clamp(min=0)
    torch.testing.assert_close(maps(made, images), stretched(expected.detach(), 24), atol=1e-4, rtol=1e-3)


def test_class_activation_by_loops() -> None:
    features, gradient = torch.randn(3, 4, 2, 5), torch.randn(3, 4, 2, 5)
    expected = torch.zeros(3, 2, 5)
    for i in range(3):
        for d in range(4):
            expected[i] += features[i, d] * sum(gradient[i, d].flatten().tolist()) / 10
    torch.testing.assert_close(class_activation(features, gradient), expected.relu())


def test_stretched_maps_reach_from_0_to_1_and_a_flat_one_is_0() -> None:
    large = stretched(torch.tensor([[[0.0, 2.0], [1.0, 6.0]], [[3.0, 3.0], [3.0, 3.0]]]), 8)
    assert large.shape == (2, 8, 8)
    assert (large[0].min(), large[0].max()) == (0.0, 1.0)
    assert large[0, 0, 0] == 0.0 and large[0, 7, 7] == 1.0
    assert not large[1].any()


def test_with_a_teacher_the_teachers_pass_is_explained() -> None:
    made, images = method("ssfer", "resnet_small", 32), torch.randn(3, 3, 32, 32)
    before = maps(made, images)
    for parameter in made.model.parameters():  # type: ignore[union-attr]
        parameter.data.normal_()
    torch.testing.assert_close(maps(made, images), before)
    for parameter in made.teacher.model.parameters():  # type: ignore[union-attr]
        parameter.data.normal_()
    assert not torch.allclose(maps(made, images), before)


def test_a_prediction_that_passes_through_no_backbone_is_one_line() -> None:
    class Flat(nn.Module):
        def predict(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :3]

    images = torch.randn(2, 3, 4, 4, requires_grad=True)
    with watched(Flat()) as seen:
        scores = Flat().predict(images)
    with pytest.raises(RunError, match="Grad-CAM needs a method whose prediction passes through a backbone"):
        focus(seen, scores, 4)
