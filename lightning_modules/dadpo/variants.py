# pyright: strict

"""Variants of the daDPO loss, each off by default: what the paper (arXiv 2506.15717) does is what is done.

B = β1 + β2 stays what the settings make it, however β2 moves: what moves is then the target margin β2·δ_te alone, and
neither the loss's scale nor the gradient's, and dDPO at β = B stays the baseline.
"""

import math
from collections.abc import Callable

from torch import Tensor

SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: done,
    "cosine": lambda done: (1 - math.cos(math.pi * done)) / 2,
}
"""How far β2 has come, from 0 to 1, when a share ``done`` of the run is done."""


def per_token(logps: Tensor, lengths: Tensor) -> Tensor:
    """Mean log-probability of a token, log m(y|x) / |y|: the reward of SimPO (arXiv 2405.14734, Section 2.2).

    With it in place of the sums, for policy, reference and teacher alike, Δm = log m(y_t|x)/|y_t| − log m(y_s|x)/|y_s|,
    and u is that of daDPO's Eq. 10. At β2 = 0 this is length-normalised DPO (Tülu 3, arXiv 2411.15124, Section 5; TRL's
    ``sigmoid_norm``). Where all responses have T tokens it is daDPO at (β1, β2) / T.

    Args:
        logps: (B,) summed over the response's tokens, nats.
        lengths: (B,) its tokens, end of turn included, at least 1.
    """
    return logps / lengths.to(logps.dtype)


def sft_loss(chosen_logps: Tensor, chosen_lengths: Tensor) -> Tensor:
    """−Σ log π_θ(y_t|x) / Σ |y_t| over a batch: cross-entropy on the chosen responses, nats a token, scalar.

    Added to the loss with a weight α it keeps the chosen responses likely, which a margin alone does not (Iterative
    Reasoning Preference Optimization, arXiv 2404.19733, Eq. 1). That divides each response by its own length; here, as
    in TRL's ``sft`` loss and in fine-tuning, each token counts alike.

    Args:
        chosen_logps: (B,) log π_θ of the chosen responses, summed over tokens.
        chosen_lengths: (B,) their tokens, end of turn included.
    """
    return -chosen_logps.sum() / chosen_lengths.sum().to(chosen_logps.dtype)


def ramp(shape: str, start: float, end: float, done: float) -> float:
    """β2 when a share ``done`` of the run is done: from ``start`` at 0 to ``end`` at 1; constant: ``end`` throughout.

    Warming up the target keeps the first steps, where π_θ = π_ref and the loss is softplus(β2·δ_te), from saturated
    pairs. (No paper's; a cosine ramp has no kink at either end.)

    Raises:
        ValueError: An unknown shape, or a share outside [0, 1].
    """
    if shape not in SHAPES:
        raise ValueError(f"unknown schedule {shape!r}: one of {', '.join(SHAPES)}")
    if not 0 <= done <= 1:
        raise ValueError(f"a share of the run lies between 0 and 1, got {done}")
    return start + (end - start) * SHAPES[shape](done)


def scaled_beta_teacher(delta_te: Tensor, target: float) -> float:
    """β2 at which the median of |β2·δ_te| is ``target``.

    E[δ_te] = KL(te‖ref) + KL(ref‖te) grows with the responses' length, so that a β2 which saturates no pair of one data
    set saturates all of another; a target in nats carries over.

    Args:
        delta_te: (n,) Δte − Δref of the training pairs, nats.
        target: Nats, positive.

    Raises:
        ValueError: The median is 0 or no number: the teacher says what the reference says.
    """
    ordered = delta_te.abs().double().sort().values
    middle = ordered[[(len(ordered) - 1) // 2, len(ordered) // 2]].mean().item()
    if not 0 < middle < math.inf:
        raise ValueError(f"the median of |δ_te| is {middle}")
    return target / middle


def delta_te(scores: tuple[Tensor, Tensor, Tensor, Tensor], lengths: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Δte − Δref (n,) of scored pairs, of sums or, with lengths, of means over tokens.

    Args:
        scores: In the order of ``PairScores``: reference, then teacher, each of chosen, then of rejected responses.
        lengths: (n,) tokens of the chosen and of the rejected responses; None: sums.
    """
    if lengths is not None:
        ref_chosen, ref_rejected, chosen, rejected = (
            per_token(logps, lengths[side % 2]) for side, logps in enumerate(scores)
        )
    else:
        ref_chosen, ref_rejected, chosen, rejected = scores
    return (chosen - rejected) - (ref_chosen - ref_rejected)
