"""Models in memory: frozen ones, and one in training with what is kept beside its weights.  Pure."""

from typing import NamedTuple

from callbacks.run.estimate.adapter import Adapter, base_bytes
from callbacks.run.estimate.memory import FLOAT, Precision
from callbacks.run.estimate.shape import ModelShape


class Reading(NamedTuple):
    """How a model reads packed rows."""

    attention: str | None = None
    """``blocks``, ``flex`` or ``dense`` (see ``Batch.packed``); None: rows are padded."""
    window: float = float("inf")
    """Tokens of the longest sequence that it reads packed."""


PADDED = Reading()


class Frozen(NamedTuple):
    """A model without gradients."""

    shape: ModelShape
    bytes_a_weight: int
    reading: Reading = PADDED
    shared: bool = False
    """It is the policy with its adapter switched off: it runs, and has no weights of its own."""
    quantization: str | None = None
    """Of its layers: None, ``int8`` or ``nf4``."""

    @property
    def weights(self) -> float:
        """Bytes."""
        return 0.0 if self.shared else base_bytes(self.shape, self.bytes_a_weight, self.quantization)


class Policy(NamedTuple):
    """A model in training, and how it is trained."""

    shape: ModelShape
    precision: Precision
    vocabulary: int
    """Rows of the softmax."""
    checkpointing: bool
    accumulates: bool
    """Gradients of several micro-batches add up before a step."""
    optimizer_states: float
    """Numbers that the optimizer keeps a weight: AdamW's two moments."""
    cuda: bool
    replicated: bool = False
    """Several processes, whose gradients meet in buckets as large as what is trained."""
    adapter: Adapter | None = None
    """What is trained in place of all weights."""
    reading: Reading = PADDED
    shards: int = 1
    """Ranks that share weights, gradients and optimizer states (FSDP2)."""
    offload: bool = False
    """What the backward pass needs of the layers waits in the host's memory."""

    @property
    def weights(self) -> float:
        """Bytes, an adapter's included."""
        if self.adapter is None:
            return self.whole
        return self.trained + base_bytes(self.shape, self.precision.weights, self.adapter.quantization)

    @property
    def whole(self) -> float:
        """Bytes of the model without an adapter, not quantised."""
        return float(self.shape.parameters * self.precision.weights)

    @property
    def trained(self) -> float:
        """Bytes of what is trained."""
        return self.whole if self.adapter is None else float(FLOAT * self.adapter.parameters)

    @property
    def states(self) -> float:
        """Bytes of the optimizer's."""
        return self.optimizer_states * self.trained

    @property
    def checkpoint(self) -> float:
        """Bytes of what a checkpoint holds: what is trained, and optimizer states."""
        return self.trained + self.states

    @property
    def exported(self) -> float:
        """Bytes of what is written in the end."""
        return self.whole if self.adapter is None or self.adapter.merged else self.trained
