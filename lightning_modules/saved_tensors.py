"""What autograd has saved while it waits elsewhere: by layer, one by one, and as each node sees it."""

from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor

SAME_NUMBERS = {"TBackward0", "TransposeBackward0", "PermuteBackward0", "ViewBackward0", "ToCopyBackward0"}
"""Of what a weight goes through on its way into a product."""


class Group:
    """What one layer has saved."""

    def __init__(self, before: "Group | None" = None):
        self.before = before
        self.kept: list[ref[Kept]] = []  # autograd's nodes own them, and let them go one by one
        self.leaving: dict[Any, tuple[Tensor, Kept]] = {}  # with the tensors, so that no other takes their places
        self.coming: list[Tensor] = []
        self.mark: Any = None


class Kept:
    """One saved tensor: on the host, and on the device as long as its group is there."""

    def __init__(self, group: Group, host: Tensor, device: Tensor):
        self.group, self.host = group, host
        self.device: Tensor | None = device


class View(NamedTuple):
    """How one of autograd's nodes sees it: products read as a matrix what others made of several dimensions."""

    kept: Kept
    shape: torch.Size
    stride: tuple[int, ...]
    dense: bool
    """It fills its memory; one that does not shares its copy, which has no gaps, with none that looks otherwise."""


def seen_as(tensor: Tensor, view: View) -> Tensor:
    """What was copied, as a node sees it."""
    if (tensor.shape, tensor.stride()) == (view.shape, view.stride) or not view.dense:
        return tensor
    return tensor.as_strided(view.shape, view.stride, tensor.storage_offset())


def dense(tensor: Tensor) -> bool:
    """Whether it fills its memory without gaps, in whatever order: its copy then lies as it does."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return last == tensor.numel() - 1


def of_a_weight(tensor: Tensor) -> bool:
    """Whether it is a weight, turned or narrowed."""
    node = tensor.grad_fn
    while node is not None and node.name() in SAME_NUMBERS:
        node = node.next_functions[0][0]
    return node is not None and "AccumulateGrad" in node.name()
