# pyright: strict

"""Drawing of templates, one a cluster, so that the K styles differ (arXiv 2310.14503, its clustering of candidates)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Draw(NamedTuple):
    """K templates for each of B passages, and what the retriever's gradient needs; each (B, K)."""

    positions: Tensor
    """int64, where in the candidate set."""
    clusters: Tensor
    """int64, 0 is the cluster of the best candidate, numbers rise with their best candidates' ranks."""
    within_logps: Tensor
    """log p(z|c), differentiable."""
    cluster_logps: Tensor
    """log p(c), differentiable."""
    weights: Tensor
    """p(c) over the number of draws from c; each row sums to 1. No gradient."""


def draw_templates(
    logps: Tensor, labels: Sequence[Sequence[int]] | None, count: int, generator: torch.Generator | None = None
) -> Draw:
    """Draw ``count`` candidates a row: from each cluster in turn, by the policy within it.

    Fewer clusters than ``count`` (candidates may be all alike) give further draws from the first ones. Without labels
    there is one cluster: independent draws, which may repeat.

    Args:
        logps: (B, C), log-probabilities of the candidates, best first; each row normalised.
        labels: B rows of C cluster labels, at most ``count`` different ones a row. None: no clustering.
        count: K.
        generator: Of the draws, on the CPU: the same on any device. Default: torch's own.

    Raises:
        ValueError: Shapes disagree, or there are more clusters than draws: some would have no chance.
    """
    if logps.ndim != 2 or count < 1:
        raise ValueError(f"logps must be (B, C) and count positive, got {tuple(logps.shape)} and {count}")
    groups = torch.tensor(
        [_in_order(row, logps.shape[1]) for row in labels or [[0] * logps.shape[1]] * len(logps)], dtype=torch.int64
    ).reshape(logps.shape)
    sizes = groups.amax(1, keepdim=True) + 1  # (B, 1) clusters of each row
    if labels is not None and (len(labels) != len(logps) or int(sizes.max()) > count):
        raise ValueError(f"{len(labels)} rows of up to {int(sizes.max())} clusters for {len(logps)} of {count} draws")
    turns = torch.arange(count) % sizes  # (B, K) whose turn it is
    shared = (turns[:, :, None] == turns[:, None, :]).sum(-1).to(logps.device)  # draws from the same cluster
    member = (groups[:, None, :] == turns[:, :, None]).to(logps.device)  # (B, K, C)
    masked = logps[:, None, :].masked_fill(~member, -torch.inf)
    cluster_logps = masked.logsumexp(-1)
    chances = masked.detach().double().softmax(-1).cpu().flatten(0, 1)
    positions = torch.multinomial(chances, 1, generator=generator).view(turns.shape).to(logps.device)
    return Draw(
        positions,
        turns.to(logps.device),
        logps.gather(1, positions) - cluster_logps,
        cluster_logps,
        cluster_logps.detach().exp() / shared,
    )


def _in_order(labels: Sequence[int], candidates: int) -> list[int]:
    """The labels renamed 0, 1, … in order of appearance."""
    if len(labels) != candidates:
        raise ValueError(f"{len(labels)} labels for {candidates} candidates")
    names = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return [names[label] for label in labels]
