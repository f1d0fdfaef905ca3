"""A step of several ranks is one step on all their items: weights of losses, logged means, and clipping."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from lightning import LightningModule
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor
from torch.optim import Optimizer


class OverRanks(NamedTuple):
    """A batch of all ranks."""

    means: dict[str, Tensor]
    weight: Tensor | float
    """Of this rank's loss."""
    items: Tensor | int
    """Of all ranks."""


def over_ranks(module: LightningModule, means: Mapping[str, Tensor], count: Tensor | int) -> OverRanks:
    """Means over this rank's items as means over all ranks' items, and the weight of this rank's loss.

    Gradients are averaged over ranks (DDP, FSDP2). For the gradient of the mean over all items, the loss of a rank with
    n of N items on W ranks counts n·W/N, which is 1 where shares are equal. Every rank must come here.

    Args:
        module: Knows the ranks.
        means: Scalars.
        count: Items of this rank: pairs, or tokens.
    """
    trainer = module._trainer
    if trainer is None or trainer.world_size == 1:
        return OverRanks(dict(means), 1.0, count)
    items = torch.as_tensor(count, device=module.device, dtype=torch.float32)
    sums = torch.stack([*(value.detach().float() * items for value in means.values()), items])
    sums = trainer.strategy.reduce(sums, reduce_op="sum")
    assert isinstance(sums, Tensor)
    total = sums[-1].clamp(min=1)
    return OverRanks(dict(zip(means, sums[:-1] / total, strict=True)), items * trainer.world_size / total, sums[-1])


def in_mean(count: float, *, gather: bool) -> dict[str, Any]:
    """Settings of ``log`` for a mean over items; with ``gather`` over all ranks' too, at an epoch's end.

    The count is no whole number: Lightning 2.6 averages these over ranks as such, and cuts (2 + 1) / 2 to 1.
    """
    return {"batch_size": float(count), "sync_dist": gather}


def clip_gradients(
    module: LightningModule,
    optimizer: Optimizer,
    gradient_clip_val: float | None = None,
    gradient_clip_algorithm: str | None = None,
) -> None:
    """Clip as the trainer says, sharded gradients too: their norm is that of all shards.

    Lightning 2.6 refuses fused optimizers in any mixed precision, because they unscale gradients themselves; in
    bfloat16 nothing is scaled.
    """
    plugin = module.trainer.precision_plugin
    if isinstance(plugin, MixedPrecision) and plugin.scaler is None and gradient_clip_val:
        algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
        Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)
    else:
        module.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
