"""When a training needs most memory, and what for: its moments, as in ``moments.py``.  Pure."""

from collections.abc import Sequence

from callbacks.run.estimate.memory import (
    FLOAT,
    Batch,
    activation_bytes,
    chunk_bytes,
    head_cast_bytes,
    kept_logit_bytes,
    layer_bytes,
    passing_bytes,
)
from callbacks.run.estimate.models import Frozen, Policy
from callbacks.run.estimate.moments import Held, Moments


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
