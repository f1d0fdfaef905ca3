"""How near an approximated teacher's log-probabilities come to the full one's, in numbers."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Tokens = Sequence[tuple[Sequence[float], Sequence[float]]]
"""Of n pairs, the log-probabilities of the tokens of the chosen and of the rejected response (nats)."""


class Agreement(NamedTuple):
    """Over n pairs; log-probabilities in nats, δ_te = Δte − Δref as in the paper, of sums over tokens."""

    pairs: float
    tokens: float
    token_logp_mae: float
    """Mean absolute difference of a response token's log-probability."""
    delta_te_mae: float
    """The same of a pair's δ_te."""
    delta_te_max: float
    """The largest."""
    delta_te_mean_abs: float
    """Mean |δ_te| under the full teacher, to hold the two before against."""
    delta_te_correlation: float
    """Pearson's, between the two δ_te; NaN where one of them does not vary."""
    delta_te_sign_agreement: float
    """Share of the pairs where both have one sign: where both push the student the same way."""


def agreement(full: Tokens, near: Tokens, reference: Tokens) -> Agreement:
    """Compare an approximated teacher with the full one.

    Args:
        full: The full teacher's log-probabilities.
        near: The approximation's, of the same tokens.
        reference: The reference's; its tokens may be others (a teacher with a tokenizer of its own).
    """
    a, b = (torch.tensor([value for pair in one for side in pair for value in side]).double() for one in (full, near))
    delta_ref = _deltas(reference)
    ours, theirs = _deltas(full) - delta_ref, _deltas(near) - delta_ref
    apart = (theirs - ours).abs()
    varies = min(float(ours.std(correction=0)), float(theirs.std(correction=0))) > 0
    return Agreement(
        pairs=len(full),
        tokens=len(a),
        token_logp_mae=float((a - b).abs().mean()),
        delta_te_mae=float(apart.mean()),
        delta_te_max=float(apart.max()),
        delta_te_mean_abs=float(ours.abs().mean()),
        delta_te_correlation=float(torch.corrcoef(torch.stack([ours, theirs]))[0, 1]) if varies else float("nan"),
        delta_te_sign_agreement=float((ours.sign() == theirs.sign()).double().mean()),
    )


def _deltas(pairs: Tokens) -> Tensor:
    """(n,) float64: log-probability of the chosen response minus that of the rejected one."""
    return torch.tensor([sum(chosen) - sum(rejected) for chosen, rejected in pairs], dtype=torch.float64)
