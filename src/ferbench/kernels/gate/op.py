"""The public gate and mixture of experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ferbench.kernels.dispatch import Impl, has_shape, once_differentiable, one_of, opaque_op, use_triton
from ferbench.kernels.gate import reference

MAX_EXPERTS = 256
MAX_KEPT = 8


def topk_gate(logits: Tensor, k: int, *, activation: reference.Activation = "softplus", impl: Impl = "auto") -> Tensor:
    """Softmax over the `k` largest activated logits of a row, 0 elsewhere, ties to the lower index (LEAF Eq. 3).

    The choice is made on the raw logits, which order as their softplus does but do not underflow to equal values.

    Args:
        logits: [B, N], 1 <= N <= 256 experts in Triton.
        k: experts kept, 1 <= k <= N, at most 8 in Triton.
        activation: "softplus" (Eq. 3) or "none" (the released code).
        impl: "auto", "triton" or "reference".

    Returns:
        [B, N] weights in the type of `logits`. With k = 1 the weight is the constant 1 and the gate gets no gradient.

    Raises:
        ValueError: shapes or options that do not fit.
    """
    op = "topk_gate"
    has_shape(op, "logits", logits, (None, None))
    if not 1 <= k <= logits.shape[1]:
        raise ValueError(f"{op}: k must lie in 1..{logits.shape[1]} (the number of experts), not {k}")
    one_of(op, "activation", activation, ("softplus", "none"))
    unfit = None
    if logits.shape[1] > MAX_EXPERTS or k > MAX_KEPT:
        unfit = f"at most {MAX_EXPERTS} experts and k {MAX_KEPT} in Triton, got {logits.shape[1]} and {k}"
    if not use_triton(op, impl, [logits], unfit):
        return reference.topk_gate(logits, k, activation=activation)
    return _TopkGate.apply(logits, k, activation == "softplus")  # type: ignore[no-any-return]


def mix_experts(weights: Tensor, outputs: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Weighted sum of the experts' outputs (LEAF Eq. 2).

    A non-finite output of an expert whose weight is 0 counts as 0: an expert that was not chosen cannot spoil the sum.

    Args:
        weights: [B, N], any strides.
        outputs: [B, N, D], any strides.
        impl: "auto", "triton" or "reference".

    Returns:
        [B, D] in the promoted type of both; gradients go to both.

    Raises:
        ValueError: shapes that do not fit.
    """
    op = "mix_experts"
    has_shape(op, "weights", weights, (None, None))
    has_shape(op, "outputs", outputs, (weights.shape[0], weights.shape[1], None))
    if not use_triton(op, impl, [weights, outputs]):
        return reference.mix_experts(weights, outputs)
    return _MixExperts.apply(weights, outputs)  # type: ignore[no-any-return]


def _run_gate_forward(logits: Tensor, k: int, softplus: bool) -> Tensor:
    from ferbench.kernels.gate.kernel import gate_forward

    return gate_forward(logits, k, softplus)


def _run_gate_backward(grad: Tensor, weights: Tensor, logits: Tensor, softplus: bool) -> Tensor:
    from ferbench.kernels.gate.kernel import gate_backward

    return gate_backward(grad, weights, logits, softplus)


def _run_mix_forward(weights: Tensor, outputs: Tensor) -> Tensor:
    from ferbench.kernels.gate.mix_kernel import mix_forward

    return mix_forward(weights, outputs)


def _run_mix_backward(grad: Tensor, weights: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    from ferbench.kernels.gate.mix_kernel import mix_backward

    return mix_backward(grad, weights, outputs)


def _like_logits(logits: Tensor) -> Tensor:
    return logits.new_empty(logits.shape)


_gate_forward = opaque_op(
    "topk_gate_forward(Tensor logits, int k, bool softplus) -> Tensor",
    _run_gate_forward,
    lambda logits, k, softplus: _like_logits(logits),
)
_gate_backward = opaque_op(
    "topk_gate_backward(Tensor grad, Tensor weights, Tensor logits, bool softplus) -> Tensor",
    _run_gate_backward,
    lambda grad, weights, logits, softplus: _like_logits(logits),
)
_mix_forward = opaque_op(
    "mix_experts_forward(Tensor weights, Tensor outputs) -> Tensor",
    _run_mix_forward,
    lambda weights, outputs: outputs.new_empty(
        (outputs.shape[0], outputs.shape[2]), dtype=torch.promote_types(weights.dtype, outputs.dtype)
    ),
)
_mix_backward = opaque_op(
    "mix_experts_backward(Tensor grad, Tensor weights, Tensor outputs) -> (Tensor, Tensor)",
    _run_mix_backward,
    lambda grad, weights, outputs: (weights.new_empty(weights.shape), outputs.new_empty(outputs.shape)),
)


class _TopkGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, k: int, softplus: bool) -> Tensor:
        weights: Tensor = _gate_forward(logits, k, softplus)
        ctx.save_for_backward(weights, logits)
        ctx.softplus = softplus
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        weights, logits = ctx.saved_tensors
        return _gate_backward(grad, weights, logits, ctx.softplus), None, None


class _MixExperts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, outputs: Tensor) -> Tensor:
        ctx.save_for_backward(weights, outputs)
        return _mix_forward(weights, outputs)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return _mix_backward(grad, *ctx.saved_tensors)  # type: ignore[no-any-return]
