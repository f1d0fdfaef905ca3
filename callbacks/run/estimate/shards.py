"""What FSDP2 gathers and reduces while a rank holds 1/N of everything (``lightning_modules/sharding.py``).  Pure.

The root, what lies in no layer, is gathered as it is, from the forward pass to the end of the backward pass. Layers are
gathered in the products' dtype and let go again: two at a time, the one that runs and the one that is on its way. Where
a layer's backward pass ends, its gradients are there whole, and again in float32 as they are reduced; the root's last.
"""

from callbacks.run.estimate.memory import FLOAT, Precision
from callbacks.run.estimate.shape import ModelShape

AT_ONCE = 2
"""Layers that are gathered."""


def layers_gathered(shape: ModelShape, precision: Precision) -> float:
    """Bytes of the layers that are whole at one time."""
    return float(min(AT_ONCE, shape.layers) * layer_parameters(shape) * precision.products)


def root_gathered(shape: ModelShape, precision: Precision) -> float:
    """Bytes of the root: embeddings, last norm, head."""
    return float(shape.outside * precision.weights)


def layer_reduced(shape: ModelShape, precision: Precision) -> float:
    """Bytes of a layer's gradients, whole, and of what is reduced."""
    return float(layer_parameters(shape) * (precision.products + max(FLOAT, precision.products)))


def root_reduced(shape: ModelShape, precision: Precision) -> float:
    """The same of the root."""
    return float(2 * shape.outside * precision.weights)


def layer_parameters(shape: ModelShape) -> float:
    """Of one layer: matrices, norms and biases."""
    return (shape.parameters - shape.outside) / shape.layers
