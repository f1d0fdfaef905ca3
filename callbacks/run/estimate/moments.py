"""When a stage needs most memory, and what for.  Pure.

Each function gives the moments of a stage by name, each a mapping from what is held to its bytes; the peak is the
moment with the largest sum.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from callbacks.run.estimate.adapter import Adapter, base_bytes
from callbacks.run.estimate.memory import (
    FLOAT,
    Batch,
    Precision,
    activation_bytes,
    cache_bytes,
    chunk_bytes,
    head_cast_bytes,
    kept_logit_bytes,
    layer_bytes,
    passing_bytes,
)
from callbacks.run.estimate.shape import ModelShape

Held = dict[str, float]
Moments = dict[str, Held]


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


def training_moments(policy: Policy, batch: Batch, frozen: Sequence[tuple[Frozen, Batch]] = ()) -> Moments:
    """Moments of a training step after the first, and of a checkpoint.

    Gradients of the step before are there until the backward pass begins (Lightning sets them free just then), or, with
    accumulation, all along. Autocast keeps narrow copies of the weights while it is on. Each frozen model comes with
    the batch as it reads it.
    """
    shape, precision = policy.shape, policy.precision
    always: Held = {"weights": policy.weights, "optimizer": policy.states}
    if policy.replicated:
        always["gradient buckets"] = policy.trained
    if frozen:
        always["frozen weights"] = sum(model.weights for model, _ in frozen)
    gradients: Held = {"gradients": policy.trained}
    kept: Held = {"activations": activation_bytes(shape, batch, precision, policy.checkpointing, policy.adapter)}
    if precision.autocast:
        kept["weights cast"] = float(precision.products * shape.linear)
    chunk = chunk_bytes(batch.predicted, policy.vocabulary, policy.cuda)
    few = kept_logit_bytes(batch.predicted, policy.vocabulary, policy.cuda)  # until the head's backward pass is over
    moments = {"forward": always | gradients | kept | {"logits": few or 2 * chunk}}
    if frozen:
        passing = max(passing_bytes(m.shape, read, m.bytes_a_weight) for m, read in frozen)
        cast = max(head_cast_bytes(m.shape, policy.vocabulary, m.bytes_a_weight, policy.cuda) for m, _ in frozen)
        states = max(FLOAT * read.tokens * m.shape.hidden for m, read in frozen)
        held = {"frozen forward": max(passing, states + cast + 2 * chunk)}
        moments["frozen models' forward"] = always | gradients | kept | held
    moments["backward of the head"] = (
        always
        | kept
        | (gradients if policy.accumulates else {})
        | {
            "logits": few + chunk,
            "gradients of the head": _head_gradients(policy, batch),
        }
    )
    # Where no gradients were before, they come as activations go: at the last layer there are the head's alone.
    first = {"gradients": policy.trained if policy.accumulates else float(precision.weights * shape.largest)}
    if policy.adapter:
        first = {"gradients": policy.trained}
    layer = layer_bytes(shape, batch, precision, policy.adapter)
    again = {"layer made again": layer} if policy.checkpointing else {}
    passing = _layer_gradients(policy, batch)
    moments["backward of the last layer"] = always | kept | first | again | passing
    if policy.checkpointing:
        moments["backward of the first layer"] = always | gradients | again | passing
    moments["step"] = always | gradients | {"step": _step_bytes(policy)}
    if not policy.cuda:
        moments["checkpoint"] = always | gradients | {"checkpoint": policy.checkpoint}
        if policy.adapter and policy.adapter.merged:  # into a base that is read again
            moments["merged export"] = always | {"merged": policy.whole}
    return moments


def _head_gradients(policy: Policy, batch: Batch) -> float:
    """Of the head's rows, accumulated wide; again with the padded rows; and of the states of response tokens."""
    shape = policy.shape
    if policy.adapter:  # the head is frozen
        return FLOAT * shape.hidden * float(batch.predicted)
    padded = shape.vocabulary if shape.vocabulary != policy.vocabulary else 0
    return FLOAT * shape.hidden * float(policy.vocabulary + padded + batch.predicted)


def _layer_gradients(policy: Policy, batch: Batch) -> Held:
    """Of the residual, its norm, and the feed-forward's branches, at the last layer."""
    shape, narrow = policy.shape, policy.precision.products
    passing = batch.tokens * (2 * shape.hidden * FLOAT + 2 * shape.intermediate * narrow)
    return {"gradients passing": float(passing)}


def _step_bytes(policy: Policy) -> float:
    """AdamW's denominators: of all weights at once on a GPU (foreach), of one parameter at a time on a CPU."""
    if policy.adapter:
        return policy.trained
    at_once = policy.shape.parameters if policy.cuda else 2 * policy.shape.largest
    return float(at_once * policy.precision.weights)


def scoring_moments(models: Mapping[str, tuple[Frozen, Batch]], vocabulary: int, cuda: bool) -> Moments:
    """One forward pass of each model, one in memory at a time, over the batch as it reads it."""
    moments = {}
    for name, (model, batch) in models.items():
        states = FLOAT * batch.tokens * model.shape.hidden
        chunk = 2 * chunk_bytes(batch.predicted, vocabulary, cuda)
        cast = head_cast_bytes(model.shape, vocabulary, model.bytes_a_weight, cuda)
        held: Held = {"weights": model.weights}
        moments[f"{name}: layers"] = held | {"passing": passing_bytes(model.shape, batch, model.bytes_a_weight)}
        moments[f"{name}: head"] = held | {"passing": float(states), "logits": chunk + cast}
    return moments


def divergence_moments(
    teacher: Frozen, models: Mapping[str, Frozen], batch: Batch, vocabulary: int, cuda: bool
) -> Moments:
    """The teacher beside each student in turn; of both, all distributions of a chunk."""
    moments = {}
    for name, model in models.items():
        held: Held = {"weights": teacher.weights + model.weights}
        passing = max(passing_bytes(m.shape, batch, m.bytes_a_weight) for m in (teacher, model))
        states = float(FLOAT * batch.predicted * (teacher.shape.hidden + model.shape.hidden))
        chunk = chunk_bytes(batch.predicted, 2 * vocabulary, cuda) / 2
        cast = sum(head_cast_bytes(m.shape, vocabulary, m.bytes_a_weight, cuda) for m in (teacher, model))
        moments[f"{name}: layers"] = held | {"passing": passing + states}
        moments[f"{name}: head"] = held | {"passing": states, "logits": 6 * chunk + cast}
    return moments


def sampling_moments(models: Mapping[str, Frozen], rows: int, prompt: int, new: int, cuda: bool) -> Moments:
    """Prompts read, then answers at their longest, with the cache of keys and values."""
    moments = {}
    for name, model in models.items():
        shape, narrow = model.shape, model.bytes_a_weight
        # float32 logits of one position a row: as they come, without padded rows, as probabilities, and their draws
        logits = 5.0 * FLOAT * rows * shape.vocabulary
        held: Held = {"weights": model.weights, "logits": logits}
        reading = Batch(rows, prompt, rows)
        moments[f"{name}: prompts"] = held | {
            "cache": cache_bytes(shape, rows, prompt, narrow),
            "passing": passing_bytes(shape, reading, narrow),
        }
        moments[f"{name}: answers"] = held | {"cache": cache_bytes(shape, rows, prompt + new, narrow)}
    return moments


def peak(moments: Moments) -> tuple[str, float]:
    """The moment that needs most, and its bytes."""
    name = max(moments, key=lambda moment: sum(moments[moment].values()))
    return name, sum(moments[name].values())
