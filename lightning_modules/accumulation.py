"""Gradient accumulation in which an update is one step on all items of its batches, whatever each of them holds."""

from collections.abc import Iterable

import torch
from lightning import LightningModule
from torch import Tensor, nn


class Accumulation:
    """Batches of one update count by their items: tokens, or pairs.

    Lightning gives each of ``accumulate_grad_batches`` batches the same say, so that a token of a batch of short
    responses counts more than one of long ones, and an epoch's last update is the smaller the fewer batches are left.
    Here losses are weighed against the update's first batch, and gradients are divided by what they came to before
    they are clipped: what a single batch of all these rows would have given.
    """

    def __init__(self) -> None:
        self._first = self._sum = torch.zeros(())
        self._begun = False

    def weight(self, module: LightningModule, items: Tensor | int) -> Tensor | float:
        """Of this batch's loss.

        Args:
            module: Knows how many batches an update has.
            items: Of this batch, of all ranks.
        """
        if module._trainer is None or module.trainer.accumulate_grad_batches == 1:
            return 1.0
        items = torch.as_tensor(items, dtype=torch.float32, device=module.device)
        if not self._begun:
            self._first, self._sum, self._begun = items.clamp(min=1), torch.zeros_like(items), True
        self._sum = self._sum + items
        return items / self._first

    def finish(self, module: LightningModule, parameters: Iterable[nn.Parameter]) -> None:
        """Divide the gradients of an update's batches, which Lightning has divided by ``accumulate_grad_batches``."""
        if not self._begun:
            return
        share = module.trainer.accumulate_grad_batches * self._first / self._sum.clamp(min=1)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(share)
        self._begun = False
