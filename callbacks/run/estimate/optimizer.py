"""What an optimizer keeps.  Pure."""

from collections.abc import Mapping
from typing import Any

from callbacks.run.estimate.adapter import Adapter
from callbacks.run.estimate.shape import ModelShape

STATES = {"AdamW": 2, "Adam": 2, "NAdam": 2, "RAdam": 2, "RMSprop": 1, "Adagrad": 1, "SGD": 0}
"""Numbers that an optimizer keeps a weight; of others two are assumed, of SGD with momentum one."""
EIGHT_BITS = 2 * (1 + 4 / 256)
"""Bytes a weight of two moments of a byte each, with a float32 scale a block of 256."""


def numbers_kept(optimizer: Mapping[str, Any], shape: ModelShape, adapter: Adapter | None, width: int) -> float:
    """Numbers a trained weight, each as wide as the weight itself.

    Args:
        optimizer: Its config: a ``kind`` of ``lightning_modules/optimizers.py``, or a class by ``_target_``.
        shape: Of the policy.
        adapter: What is trained of it; None: all.
        width: Bytes of a trained weight.
    """
    kind = optimizer.get("kind")
    if kind == "adamw8bit":
        return EIGHT_BITS / width
    if kind == "adafactor":
        return _rows_and_columns(shape, adapter)
    name = "AdamW" if kind else str(optimizer.get("_target_", "AdamW")).rpartition(".")[2]
    return STATES.get(name, 2) + (1 if name == "SGD" and optimizer.get("momentum") else 0)


def _rows_and_columns(shape: ModelShape, adapter: Adapter | None) -> float:
    """Adafactor's: of a matrix of n·m a row and a column, n + m; of a vector all."""
    if adapter is not None:
        widths = [one.inputs + one.outputs + 2 * adapter.rank for one in shape.products if one.name in adapter.targets]
        return sum(widths) / adapter.parameters
    table, others = shape.vocabulary * shape.hidden, shape.parameters - shape.linear
    tables = round(others / table)  # embedding, and head if it is another
    widths = sum(one.inputs + one.outputs for one in shape.products) + tables * (shape.vocabulary + shape.hidden)
    return (widths + others - tables * table) / shape.parameters
