"""Speed case of the two-view contrast."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ferbench.bench.speed.ops.case import Case, Forward, Inputs, Unfit, Work
from ferbench.kernels import info_nce

TEMPERATURE = 0.07


class InfoNce(Case):
    """Both views as anchors (NT-Xent), forward and backward to both; the matrices of the largest sizes do not fit."""

    op = "info_nce"
    sizes = {
        "quick": {"N": 64, "D": 512},
        "paper": {"N": 64, "D": 512},
        "small": {"N": 16, "D": 512},
        "rows": {"N": 4096, "D": 128},
        "rows bf16": {"N": 4096, "D": 128, "bf16": 1},
        "large bf16": {"N": 131_072, "D": 128, "bf16": 1},
        "squared bf16": {"N": 32_768, "D": 128, "bf16": 1},
        "squared": {"N": 32_768, "D": 128},
    }
    inexact = 1e-3  # a cosine is within 1e-5 of the truth, and the softmax takes it over the temperature
    waits = frozenset({"lightly", "pytorch-metric-learning"})
    forward_only = frozenset({"flash-attention-lse"})

    def floor(self, size: dict[str, int]) -> Work:
        """M = 2N rows read and their gradients written; 5 M^2 D, of which float32 needs three bfloat16 products."""
        rows, width, half = 2 * size["N"], size["D"], "bf16" in size
        products = 1 if half else 3
        return Work((4 if half else 8) * rows * width, products * 5.0 * rows**2 * width, launches=2)

    def label(self, size: dict[str, int]) -> str:
        return super().label({k: v for k, v in size.items() if k != "bf16"}) + ("-bf16" if "bf16" in size else "")

    def inputs(self, size: dict[str, int], device: torch.device) -> Inputs:
        a = torch.randn(size["N"], size["D"], device=device)
        b = a + torch.randn_like(a)
        dtype = torch.bfloat16 if "bf16" in size else torch.float32
        return [a.to(dtype).requires_grad_(), b.to(dtype).requires_grad_()]

    def check(self, inputs: Inputs) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Beyond 8192 samples the loss, and the gradients of 64 of them, from denominators summed tile by tile."""
        if len(inputs[0]) <= 8192:
            return super().check(inputs)
        some = torch.arange(64, device=inputs[0].device) * (len(inputs[0]) // 64)
        loss, *gradients = self.step(self.ours, inputs)
        truth = sampled(inputs[0].detach(), inputs[1].detach(), some, self.incoming([loss])[0])
        plain = [value.to(inputs[0].dtype if value.dim() else torch.float32) for value in truth]
        return [loss, *(gradient[some] for gradient in gradients)], plain, truth

    def ours(self, a: Tensor, b: Tensor) -> Sequence[Tensor]:
        return [info_nce(a, b, temperature=TEMPERATURE)]

    def eager(self, a: Tensor, b: Tensor) -> Sequence[Tensor]:
        rows = F.normalize(torch.cat((a, b)), dim=1)
        logits = (rows / TEMPERATURE @ rows.T).fill_diagonal_(-torch.inf)
        return [F.cross_entropy(logits, torch.arange(2 * len(a), device=a.device).roll(len(a)))]

    def others(self) -> dict[str, Forward]:
        forms: dict[str, Forward] = {"released": released, "flash-attention-lse": flash_lse}
        if importlib.util.find_spec("lightly"):
            from lightly.loss import NTXentLoss

            forms["lightly"] = lambda a, b: [NTXentLoss(temperature=TEMPERATURE)(a, b)]
        if importlib.util.find_spec("pytorch_metric_learning"):
            forms["pytorch-metric-learning"] = metric_learning
        if importlib.util.find_spec("inf_cl"):
            forms["inf-cl"] = inf_cl
        return forms


def sampled(a: Tensor, b: Tensor, some: Tensor, incoming: Tensor) -> list[Tensor]:
    """Loss and the gradients of rows `some` of both views, in float64 but for the tiles of the other rows' cosines."""
    rows = torch.cat((a, b)).float()
    unit = F.normalize(rows, dim=1)
    count, half = len(rows), len(a)
    lse = torch.empty(count, dtype=torch.float64, device=a.device)
    for start in range(0, count, 2048):
        logits = unit[start : start + 2048] @ unit.T / TEMPERATURE
        own = torch.arange(len(logits), device=a.device)
        logits[own, start + own] = -torch.inf
        lse[start : start + 2048] = logits.logsumexp(1)
    positive = (unit[:half].double() * unit[half:].double()).sum(1) / TEMPERATURE
    loss = (lse.mean() - positive.mean()).reshape(())
    gradients = []
    for view in range(2):
        index = some + view * half
        own = unit[index].double()
        logits = own @ unit.double().T / TEMPERATURE
        weight = (logits - lse[index, None]).exp() + (logits - lse).exp()
        here = torch.arange(len(some), device=a.device)
        weight[here, index] = 0.0
        weight[here, (index + half) % count] -= 2.0
        pull = weight @ unit.double()
        pull = (pull - (pull * own).sum(1, keepdim=True) * own) / rows[index].double().norm(dim=1, keepdim=True)
        gradients.append(pull * (incoming.double() / (count * TEMPERATURE)))
    return [loss, *gradients]


def flash_lse(a: Tensor, b: Tensor) -> Sequence[Tensor]:
    """Forward alone, of one direction between the views, by the log-sum-exp that flash attention keeps."""
    if not a.is_cuda or a.shape[1] > 256:
        raise Unfit("flash attention takes up to 256 features on a GPU")
    query, key = (F.normalize(x.detach(), dim=1).bfloat16()[None, None] for x in (a, b))
    lse = torch.ops.aten._scaled_dot_product_flash_attention(query, key, key, scale=1 / TEMPERATURE)[1]
    return [lse.mean() - (query * key).sum(-1).float().mean() / TEMPERATURE]


def metric_learning(a: Tensor, b: Tensor) -> Sequence[Tensor]:
    """pytorch-metric-learning's loss, whose memory grows with the cube of the samples."""
    if len(a) > 512:
        raise Unfit("memory for positives times negatives")
    from pytorch_metric_learning.losses import NTXentLoss  # type: ignore[import-not-found]

    return [NTXentLoss(temperature=TEMPERATURE)(torch.cat((a, b)), torch.arange(len(a), device=a.device).repeat(2))]


def inf_cl(a: Tensor, b: Tensor) -> Sequence[Tensor]:
    """Inf-CL's loss in both directions between the views; the rows of a view do not meet each other in it."""
    from inf_cl.flash import _cal_flash_loss  # type: ignore[import-not-found]

    left, right = (F.normalize(x.float(), dim=1) for x in (a, b))
    labels, width = torch.arange(len(a), device=a.device), min(256, a.shape[1])
    there, back = (
        _cal_flash_loss(x / TEMPERATURE, y, labels, head_dim=width) for x, y in ((left, right), (right, left))
    )
    return [0.5 * (there.mean() + back.mean())]


def released(a: Tensor, b: Tensor) -> Sequence[Tensor]:
    """The computation of Ada-CM's code: one similarity of four blocks, and a matrix each for the positives, for what
    is not the anchor itself, and for the log-probability of every pair."""
    rows = F.normalize(torch.cat((a, b)), dim=1)
    similarity = rows @ rows.T / TEMPERATURE
    logits = similarity - similarity.max(1, keepdim=True).values.detach()
    others = 1.0 - torch.eye(len(rows), device=rows.device)
    positives = torch.eye(len(a), device=rows.device).repeat(2, 2) * others
    log_probability = logits - (logits.exp() * others).sum(1, keepdim=True).log()
    return [-((positives * log_probability).sum(1) / positives.sum(1)).mean()]
