"""When a training needs most memory, and what for: its moments, as in ``moments.py``.  Pure."""

from collections.abc import Sequence

from callbacks.run.estimate.memory import (
    FLOAT,
    Batch,
    Precision,
    activation_bytes,
    around_bytes,
    chunk_bytes,
    head_cast_bytes,
    kept_logit_bytes,
    layer_bytes,
    passing_bytes,
)
from callbacks.run.estimate.models import Frozen, Policy
from callbacks.run.estimate.moments import Held, Moments
from callbacks.run.estimate.offload import Activations, offloaded
from callbacks.run.estimate.shards import layer_reduced, layers_gathered, root_gathered, root_reduced


def training_moments(policy: Policy, batch: Batch, frozen: Sequence[tuple[Frozen, Batch]] = ()) -> Moments:
    """Moments of a training step after the first, and of a checkpoint.

    Gradients of the step before are there until the backward pass begins (Lightning sets them free just then), or, with
    accumulation, all along. Autocast keeps narrow copies of the weights while it is on. Each frozen model comes with
    the batch as it reads it. Of a sharded policy a rank holds its share, and beside it what is gathered.
    """
    shards = policy.shards
    always: Held = {"weights": policy.weights / shards, "optimizer": policy.states / shards}
    if policy.replicated:
        always["gradient buckets"] = policy.trained
    if frozen:
        always["frozen weights"] = sum(model.weights for model, _ in frozen) / shards
    gradients: Held = {"gradients": policy.trained / shards}
    kept: Held = {"activations": activations_of(policy, batch).device, **_whole_weights(policy)}
    chunk = chunk_bytes(batch.predicted, policy.vocabulary, policy.cuda)
    few = kept_logit_bytes(batch.predicted, policy.vocabulary, policy.cuda)  # until the head's backward pass is over
    moments = {"forward": always | gradients | kept | {"logits": few or 2 * chunk}}
    if frozen:
        held = {"frozen forward": _frozen_forward(policy, frozen, 2 * chunk)}
        moments["frozen models' forward"] = always | gradients | kept | held
    before = gradients if policy.accumulates else {}
    head = {"logits": few + chunk, "gradients of the head": _head_gradients(policy, batch)}
    moments["backward of the head"] = always | kept | before | head
    moments |= _layers_backward(policy, batch, always, gradients, kept)
    moments["step"] = always | gradients | {"step": _step_bytes(policy) / shards}
    if not policy.cuda:
        moments["checkpoint"] = always | gradients | {"checkpoint": policy.checkpoint / shards}
        if policy.adapter and policy.adapter.merged:  # into a base that is read again
            moments["merged export"] = always | {"merged": policy.whole}
        if shards > 1:  # on the first rank
            moments["gathered export"] = always | {"gathered": policy.whole}
    return moments


def pruning_moments(policy: Policy, batch: Batch | None) -> Moments:
    """Moments of a pass over calibration rows, after each of which its gradients go, and of what units are worth.

    Args:
        policy: What is pruned, without optimizer states.
        batch: The largest; None: no row is looked at, only weights.
    """
    worth = {"worth of units": 2.0 * policy.precision.weights * policy.shape.largest}
    if batch is None:
        return {"worth of units": {"weights": policy.weights} | worth}
    there: Held = {"weights": policy.weights, "gradients": policy.trained}
    if policy.replicated:
        there["gradient buckets"] = policy.trained
    passes = {}
    for name, held in training_moments(policy, batch).items():
        if name == "forward" or name.startswith("backward"):
            gone = {"optimizer"} | ({"gradients"} if name == "forward" else set())
            passes[name] = {what: size for what, size in held.items() if what not in gone}
    return passes | {"worth of units": there | worth}


def activations_of(policy: Policy, batch: Batch) -> Activations:
    """What autograd keeps between forward and backward pass, on the device and in the host's memory."""
    settings = policy.shape, batch, policy.precision, policy.checkpointing, policy.adapter
    return offloaded(*settings) if policy.offload else Activations(activation_bytes(*settings), 0.0)


def _whole_weights(policy: Policy) -> Held:
    """What forward and backward pass compute with beside the weights as a rank holds them."""
    shape, precision = policy.shape, policy.precision
    if policy.shards > 1:  # layers are gathered in the products' dtype, and cast no more
        return {"gathered": root_gathered(shape, precision) + layers_gathered(shape, precision)}
    return {"weights cast": float(precision.products * shape.linear)} if precision.autocast else {}


def _frozen_forward(policy: Policy, frozen: Sequence[tuple[Frozen, Batch]], logits: float) -> float:
    passing = max(passing_bytes(m.shape, read, m.bytes_a_weight) for m, read in frozen)
    cast = max(head_cast_bytes(m.shape, policy.vocabulary, m.bytes_a_weight, policy.cuda) for m, _ in frozen)
    states = max(FLOAT * read.tokens * m.shape.hidden for m, read in frozen)
    gathered = 0.0
    if policy.shards > 1:
        as_they_are = [(m.shape, Precision(m.bytes_a_weight, m.bytes_a_weight)) for m, _ in frozen]
        gathered = max(root_gathered(*one) + layers_gathered(*one) for one in as_they_are)
    return max(passing, states + cast + logits) + gathered


def _layers_backward(policy: Policy, batch: Batch, always: Held, gradients: Held, kept: Held) -> Moments:
    shape, precision, shards = policy.shape, policy.precision, policy.shards
    # Where no gradients were before, they come as activations go: at the last layer there are the head's alone.
    first = {"gradients": policy.trained if policy.accumulates else float(precision.weights * shape.largest)}
    if policy.adapter:
        first = {"gradients": policy.trained}
    whole: Held = {}
    if shards > 1:  # the head's gradient is whole until the root is reduced
        first = gradients if policy.accumulates else {}
        head = float(precision.weights * shape.largest)
        whole = {"gradients of the head": head, "gradients of a layer": layer_reduced(shape, precision)}
    layer = layer_bytes(shape, batch, precision, policy.adapter)
    again = {"layer made again": layer} if policy.checkpointing else {}
    passing = _layer_gradients(policy, batch)
    moments = {"backward of the last layer": always | kept | first | whole | again | passing}
    if policy.checkpointing or policy.offload:
        there = {"gathered": kept["gathered"]} if shards > 1 else {}
        if policy.offload:  # that of two layers, but of none around them
            there["activations"] = kept["activations"] - around_bytes(shape, batch, precision)
        moments["backward of the first layer"] = always | gradients | there | whole | again | passing
    if shards > 1:
        root = {"gathered": root_gathered(shape, precision), "gradients of the root": root_reduced(shape, precision)}
        moments["reduction of the root"] = always | gradients | root
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
