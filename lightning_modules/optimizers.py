"""Optimizers by what they keep of each weight: two moments, the same in 8 bits, or a row and a column."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from datamodules.wrong_input import WrongInput

BETAS = (0.9, 0.999)
KINDS = ("adamw", "adamw8bit", "adafactor")


def check_optimizer(kind: str, betas: Sequence[float] | None = None, strategy: str = "auto") -> None:
    """Refuse settings before anything runs; arguments and errors: see ``make_optimizer``.

    Args:
        kind: One of ``KINDS``.
        betas: Of the moments.
        strategy: The trainer's: under ``fsdp2`` it has to step over shards.
    """
    if kind not in KINDS:
        raise WrongInput(f"unknown optimizer {kind!r}", "optimizer", f"one of {', '.join(KINDS)}")
    if kind == "adafactor" and betas is not None:
        raise WrongInput("adafactor has no betas", "optimizer", "leave betas out, or take adamw")
    if kind != "adamw" and strategy == "fsdp2":  # bitsandbytes knows no shards; Adafactor wants norms of whole rows
        mend = "set optimizer=adamw, or use trainer=ddp"
        raise WrongInput(f"{kind} does not step over shards", "trainer.strategy=fsdp2, optimizer", mend)
    if kind == "adamw8bit":
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as error:
            mend = "pip install smoothtalk[quantized]"
            raise WrongInput("adamw8bit needs bitsandbytes", "optimizer", mend) from error


def make_optimizer(
    groups: Iterable[Any],
    kind: str = "adamw",
    *,
    lr: float,
    weight_decay: float = 0.0,
    betas: Sequence[float] | None = None,
    fused: bool = True,
) -> Optimizer:
    """An optimizer of parameter groups.

    Args:
        groups: Of parameters; a group's own ``weight_decay`` goes first.
        kind: ``adamw``; ``adamw8bit``: bitsandbytes', whose moments take a byte each (Dettmers et al. 2021,
            arXiv 2110.02861), those of less than 4096 weights four; ``adafactor``: torch's (Shazeer and Stern 2018,
            arXiv 1804.04235), whose learning rate is relative to the size of each matrix's weights.
        lr: Learning rate.
        weight_decay: Decoupled.
        betas: Of the moments; default: 0.9 and 0.999.
        fused: ``adamw`` in one pass over the weights.

    Raises:
        WrongInput: Another kind, one that is not installed, or betas for adafactor.
    """
    check_optimizer(kind, betas)
    if kind == "adafactor":
        return torch.optim.Adafactor(groups, lr=lr, weight_decay=weight_decay)
    first, second = betas or BETAS
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(first, second), weight_decay=weight_decay, fused=fused)
    from bitsandbytes.optim.adamw import AdamW8bit

    return AdamW8bit(groups, lr=lr, betas=(first, second), weight_decay=weight_decay)
