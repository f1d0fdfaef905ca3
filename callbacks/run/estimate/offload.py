"""What ``activation_offload=true`` leaves on the device, and what it puts into the host's memory.  Pure.

Of each layer all moves but leaves of the graph (masks, attention's log-sums) and a norm's one number a token, which is
smaller than what travels (``lightning_modules/activation_offload.py``). Two layers' share is on the device at a time.
"""

from typing import NamedTuple

from callbacks.run.estimate.adapter import Adapter
from callbacks.run.estimate.memory import FLOAT, Batch, Precision, around_bytes, layer_bytes
from callbacks.run.estimate.shape import ModelShape

AT_ONCE = 2
"""Layers whose share is on the device: one computes, another is on its way."""


class Activations(NamedTuple):
    """What autograd keeps between forward and backward pass, in bytes."""

    device: float
    host: float


def moving_bytes(
    shape: ModelShape, batch: Batch, precision: Precision, checkpointing: bool, adapter: Adapter | None = None
) -> float:
    """Of one layer; with checkpointing its input."""
    if checkpointing:
        return float(batch.tokens * shape.hidden * precision.weights)
    return layer_bytes(shape, batch, precision, adapter) - staying_bytes(shape, batch, precision)


def staying_bytes(shape: ModelShape, batch: Batch, precision: Precision) -> float:
    """Of one layer, without checkpointing."""
    token = FLOAT * shape.norm_rows + (0 if shape.eager else FLOAT * shape.heads)
    mask = precision.products * batch.rows * batch.length**2
    masked = batch.padded and batch.packed is None and not shape.eager
    return float(batch.tokens * token + (mask if masked else 0))


def offloaded(
    shape: ModelShape, batch: Batch, precision: Precision, checkpointing: bool, adapter: Adapter | None = None
) -> Activations:
    """Both sides; what is kept outside the layers stays."""
    moving = moving_bytes(shape, batch, precision, checkpointing, adapter)
    staying = 0.0 if checkpointing else staying_bytes(shape, batch, precision)
    here = min(AT_ONCE, shape.layers) * moving + shape.layers * staying
    return Activations(here + around_bytes(shape, batch, precision), shape.layers * moving)
