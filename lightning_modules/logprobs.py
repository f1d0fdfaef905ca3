# pyright: strict

"""Token log-probabilities from hidden states, in chunks, so that the full logits of a batch never exist.

Shapes: T = response tokens of a batch (all rows, end to end), h = hidden width, V = vocabulary rows.
All results are float32 (float64 for float64 input): a log-softmax in bfloat16 loses the margins that
preference losses are made of.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_CHUNK_LOGITS = 2**21  # 8 MB of float32: stays in a CPU's last-level cache
CPU_KEPT_LOGITS = 2**24  # 64 MB: up to here making them again costs more than it saves
GPU_CHUNK_LOGITS = 2**27  # 512 MB: large enough that the matrix product runs at full rate
HALF = (torch.bfloat16, torch.float16)

_Settings = tuple[float, float | None, int]  # scale, softcap, tokens a chunk


class OutputHead(NamedTuple):
    """How a language model turns hidden states into logits."""

    weight: Tensor
    """(V, h). Rows beyond the tokenizer's vocabulary are cut off, so that phantom tokens take no mass."""
    bias: Tensor | None = None
    """(V,) or None."""
    scale: float = 1.0
    """Multiplies the logits (Cohere, Granite)."""
    softcap: float | None = None
    """Bounds the logits by ``softcap * tanh(logits / softcap)`` (Gemma 2), after the scale."""


def chunk_tokens(vocabulary: int, device: torch.device, requested: int | None = None) -> int:
    """Tokens a chunk: as requested, else as many as fill the device's chunk of logits."""
    if requested is not None:
        if requested < 1:
            raise ValueError(f"chunk_tokens must be at least 1, got {requested}")
        return requested
    return max(1, (CPU_CHUNK_LOGITS if device.type == "cpu" else GPU_CHUNK_LOGITS) // vocabulary)


def logits_of(hidden: Tensor, head: OutputHead) -> Tensor:
    """Logits (T, V) of hidden states (T, h), in float32 (float64 for float64 input). Not differentiable."""
    weight = head.weight.to(_matmul_dtype(hidden))
    if weight.dtype in HALF:
        # Tensor cores multiply in half precision and accumulate in float32: keep the accumulator.
        logits = torch.mm(hidden, weight.T, out_dtype=torch.float32)
    else:
        logits = hidden.to(weight.dtype) @ weight.T
    if head.bias is not None:
        logits += head.bias
    if head.scale != 1.0:
        logits *= head.scale
    if head.softcap is not None:
        logits = logits.div_(head.softcap).tanh_().mul_(head.softcap)
    return logits


def token_logps(hidden: Tensor, head: OutputHead, targets: Tensor, chunk: int | None = None) -> Tensor:
    """Log-probability of each target token: ``log softmax(logits)[target]``.

    The backward pass recomputes each chunk's logits, so memory beyond the inputs and
    their gradients is one chunk in both passes. (On a CPU up to ``CPU_KEPT_LOGITS`` are kept instead.)

    Args:
        hidden: (T, h), the states that predict the targets (already shifted).
        head: The output head; gradients reach its weight and bias.
        targets: (T,) int64, each below V.
        chunk: Tokens a chunk; the result does not depend on it. Default: by device.

    Returns:
        (T,) float32 (float64 for float64 input), in nats.

    Raises:
        ValueError: Shapes disagree.
    """
    if hidden.ndim != 2 or targets.shape != hidden.shape[:1]:
        raise ValueError(f"hidden must be (T, h) and targets (T,), got {tuple(hidden.shape)}, {tuple(targets.shape)}")
    size = chunk_tokens(head.weight.shape[0], hidden.device, chunk)
    if torch.is_autocast_enabled(hidden.device.type):
        # Under autocast the last norm hands on float32; the product with the head is half precision's to do.
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    with torch.autocast(hidden.device.type, enabled=False):
        apply = cast(Callable[..., Tensor], _ChunkedLogps.apply)  # pyright: ignore[reportUnknownMemberType]
        return apply(hidden, head.weight, head.bias, targets, (head.scale, head.softcap, size))


@torch.no_grad()
def token_kl(
    hidden_p: Tensor, head_p: OutputHead, hidden_q: Tensor, head_q: OutputHead, chunk: int | None = None
) -> Tensor:
    """KL(p ‖ q) of two models' next-token distributions over one vocabulary, exact, without gradient.

    Args:
        hidden_p: (T, h_p).
        head_p: The head of p.
        hidden_q: (T, h_q), at the same positions.
        head_q: The head of q, with as many vocabulary rows.
        chunk: Tokens a chunk; the result does not depend on it. Default: by device.

    Returns:
        (T,) float32 (float64 for float64 input), nats.

    Raises:
        ValueError: The vocabularies differ in size, or the positions in number.
    """
    if head_p.weight.shape[0] != head_q.weight.shape[0]:
        raise ValueError(f"vocabularies differ: {head_p.weight.shape[0]} and {head_q.weight.shape[0]} rows")
    if len(hidden_p) != len(hidden_q):
        raise ValueError(f"positions differ: {len(hidden_p)} and {len(hidden_q)}")
    size = chunk_tokens(2 * head_p.weight.shape[0], hidden_p.device, chunk)
    head_p, head_q = _ready(head_p, hidden_p), _ready(head_q, hidden_q)
    parts = [hidden_p.new_zeros(0, dtype=_result_dtype(hidden_p))]
    with torch.autocast(hidden_p.device.type, enabled=False):
        for start in range(0, len(hidden_p), size):
            log_p = logits_of(hidden_p[start : start + size], head_p).log_softmax(-1)
            log_q = logits_of(hidden_q[start : start + size], head_q).log_softmax(-1)
            parts.append((log_p.exp() * (log_p - log_q)).sum(-1).to(parts[0].dtype))
    return torch.cat(parts)


class _ChunkedLogps(torch.autograd.Function):
    """Forward keeps only each token's log-normaliser; backward makes the logits again, a chunk at a time.

    Where they are few, forward keeps exp(logits − max) with its sum instead.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, settings: _Settings
    ) -> Tensor:
        scale, softcap, size = settings
        head = _ready(OutputHead(weight, bias, scale, softcap), hidden)
        logps = torch.empty(targets.shape, dtype=_result_dtype(hidden), device=hidden.device)
        normalisers, sums = torch.empty_like(logps), torch.empty_like(logps)
        few = hidden.device.type == "cpu" and len(targets) * len(weight) <= CPU_KEPT_LOGITS
        keep, kept = few and softcap is None and any(ctx.needs_input_grad), list[Tensor]()
        for start in range(0, len(targets), size):
            piece = slice(start, start + size)
            logits = logits_of(hidden[piece], head)
            logps[piece] = logits.gather(-1, targets[piece, None]).squeeze(-1)
            if keep:
                most = logits.amax(-1, keepdim=True)
                kept.append(logits.sub_(most).exp_())
                sums[piece] = kept[-1].sum(-1)
                normalisers[piece] = sums[piece].log() + most[:, 0]
            else:
                normalisers[piece] = logits.logsumexp(-1)
        ctx.save_for_backward(hidden, weight, bias, targets, normalisers, sums, *kept)
        ctx.settings = settings
        return logps.sub_(normalisers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, targets, normalisers, sums, *kept = ctx.saved_tensors
        scale, softcap, size = ctx.settings
        head = _ready(OutputHead(weight, bias, scale, softcap), hidden)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden) if wants_hidden else None
        # One accumulator over all chunks, wide: sums of many chunks in half precision would drift.
        grad_weight = torch.zeros_like(weight, dtype=normalisers.dtype) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=normalisers.dtype) if wants_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(targets), size):
                piece = slice(start, start + size)
                if kept:
                    slope = _kept_grad(kept[start // size], targets[piece], sums[piece], grad[piece], scale)
                else:
                    slope = _logit_grad(hidden[piece], head, targets[piece], normalisers[piece], grad[piece])
                if grad_bias is not None:
                    grad_bias += slope.sum(0)
                slope = slope.to(head.weight.dtype)
                if grad_hidden is not None:
                    grad_hidden[piece] = slope @ head.weight
                if grad_weight is not None and slope.dtype == grad_weight.dtype:
                    grad_weight.addmm_(slope.T, hidden[piece].to(slope.dtype))
                elif grad_weight is not None:
                    grad_weight += slope.T @ hidden[piece]
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )


def _logit_grad(hidden: Tensor, head: OutputHead, targets: Tensor, normalisers: Tensor, grad: Tensor) -> Tensor:
    """Gradient (T, V) with respect to ``hidden @ weight.T + bias``, from that of the log-probabilities (T,)."""
    logits = logits_of(hidden, head)
    bend = None if head.softcap is None else 1 - (logits / head.softcap) ** 2
    # d log p(target) / d logits = onehot(target) − softmax
    slope = logits.sub_(normalisers[:, None]).exp_().mul_(-grad[:, None])
    slope.scatter_add_(-1, targets[:, None], grad[:, None])
    if bend is not None:
        slope *= bend
    if head.scale != 1.0:
        slope *= head.scale
    return slope


def _kept_grad(kept: Tensor, targets: Tensor, sums: Tensor, grad: Tensor, scale: float) -> Tensor:
    """The same from exp(logits − max) (T, V) and its sums (T,), without a soft cap."""
    slope = kept * (-scale * grad / sums)[:, None]
    return slope.scatter_add_(-1, targets[:, None], scale * grad[:, None])


def _result_dtype(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def _matmul_dtype(hidden: Tensor) -> torch.dtype:
    return hidden.dtype if hidden.is_cuda and hidden.dtype in HALF else _result_dtype(hidden)


def _ready(head: OutputHead, hidden: Tensor) -> OutputHead:
    """The head with its weight in the dtype of the product: once a call, not once a chunk."""
    return head._replace(weight=head.weight.to(_matmul_dtype(hidden)))
