"""What LoRA and a base in fewer bits change of a model's counts.  Pure.

With W frozen and B·A beside it, a product's input is kept for A's gradient only, gradients and optimizer states are
those of A and B, and the backward pass makes one product with W (the input's gradient), not two.
"""

from collections.abc import Collection
from typing import NamedTuple

from callbacks.run.estimate.shape import ModelShape

FLOAT = 4
QUANTIZED = {"int8": 1.0, "nf4": (4 + 8 / 64 + 32 / (64 * 256)) / 8}
"""Bytes of a weight of the layers: nf4 has an 8-bit scale a block of 64, and a scale of 256 of those."""


class Adapter(NamedTuple):
    """LoRA on a model, its numbers in float32. Counts are of elements."""

    parameters: int
    """Of all A and B: Σ rank·(in + out)."""
    reads: int
    """Inputs of the adapted products of a layer, a token."""
    between: int
    """What A makes of them: rank times their number."""
    quantization: str | None = None
    """Of the base's layers."""
    merged: bool = True
    """What is written in the end: the whole model, or the adapter alone."""
    rank: int = 0
    targets: frozenset[str] = frozenset()
    """Last names of the adapted layers."""


def adapter_of(
    shape: ModelShape, rank: int, targets: Collection[str] | str, quantization: str | None = None, merged: bool = True
) -> Adapter:
    """LoRA of a rank on the layers of these last names, or on all of them (any string).

    Args:
        shape: Of the base.
        rank: Width of A and B.
        targets: Last names of the adapted layers.
        quantization: Of the base's layers: None, ``int8`` or ``nf4``.
        merged: Whether the whole model is written in the end.
    """
    chosen = [one for one in shape.products if isinstance(targets, str) or one.name in targets]
    return Adapter(
        parameters=rank * sum(one.inputs + one.outputs for one in chosen),
        reads=sum(one.inputs for one in chosen) // shape.layers,
        between=rank * len(chosen) // shape.layers,
        quantization=quantization,
        merged=merged,
        rank=rank,
        targets=frozenset(one.name for one in chosen),
    )


def base_bytes(shape: ModelShape, bytes_a_weight: int, quantization: str | None) -> float:
    """Bytes of a model's weights, those of the layers' products in fewer bits if they are quantised."""
    if quantization is None:
        return float(shape.parameters * bytes_a_weight)
    return shape.linear * QUANTIZED[quantization] + float((shape.parameters - shape.linear) * bytes_a_weight)


def kept_by_adapter(adapter: Adapter, wide: int, narrow: int) -> float:
    """Bytes a token and layer that A and B need for their gradients, beside what a frozen layer keeps.

    Args:
        adapter: See there.
        wide: Bytes of a base's weight.
        narrow: Bytes of a number in the products.
    """
    copies = narrow if narrow < wide else FLOAT  # autocast reads narrow copies; a narrow base is read in float32
    return adapter.between * (narrow if narrow < wide else FLOAT) + copies * adapter.reads
