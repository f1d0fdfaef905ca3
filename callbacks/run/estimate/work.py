"""What a stage does, by numbers alone: from shapes and tokens to operations, bytes and hours.  Pure."""

from typing import NamedTuple

from callbacks.run.estimate.flops import frozen_flops, sampling_flops, training_flops
from callbacks.run.estimate.memory import Batch, cache_bytes, kept_logit_bytes, layer_bytes, passing_bytes
from callbacks.run.estimate.moments import (
    Frozen,
    Moments,
    Policy,
    divergence_moments,
    sampling_moments,
    scoring_moments,
    training_moments,
)
from callbacks.run.estimate.tokens import Reads, Sequences, padded


class Work(NamedTuple):
    """A stage. What makes it fit is found by replacing a field."""

    kind: str
    """``training``, ``scoring``, ``divergence`` or ``sampling``."""
    models: dict[str, Frozen]
    """Of a training in live mode, those beside the policy."""
    rows: list[Sequences]
    count: int
    batch_size: int
    vocabulary: int
    cuda: bool
    policy: Policy | None = None
    passes: float = 1.0
    """Epochs."""
    held_out: list[Sequences] = []
    held_out_count: int = 0
    new: tuple[int, int] = (0, 0)
    """Sampling: expected and largest number of tokens of an answer."""
    teacher: str = ""
    """Divergence: which of the models stays in memory."""
    batch_key: str = "batch_size"
    """What sets ``batch_size`` on the command line."""
    longest: int | None = None
    """Tokens that a sequence may have; None: the rows are known."""


class Cost(NamedTuple):
    """What a stage takes, all devices together."""

    tokens: float
    """Read or made, padding included."""
    filled: float
    """Without padding."""
    flops: float
    streamed: float
    """Bytes of weights and cache that sampling reads, token after token."""


def moments_of(work: Work) -> Moments:
    """Memory on a device, moment by moment."""
    if work.kind == "sampling":
        longest = max(row.prompt for row in work.rows)
        return sampling_moments(work.models, min(work.batch_size, work.count), longest, work.new[1], work.cuda)
    largest = largest_batch(work)
    if work.policy is not None:
        return training_moments(work.policy, largest, list(work.models.values()))
    if work.kind == "divergence":
        students = {name: model for name, model in work.models.items() if name != work.teacher}
        return divergence_moments(work.models[work.teacher], students, largest, work.vocabulary, work.cuda)
    return scoring_moments(work.models, largest, work.vocabulary, work.cuda)


def passing_through(work: Work) -> float:
    """Bytes that pass through the allocator's hands in a step: a layer's activations times the layers, kept or not."""
    if work.policy is not None:
        return work.policy.shape.layers * layer_bytes(work.policy.shape, largest_batch(work), work.policy.precision)
    if work.kind == "sampling":
        batch = Batch(min(work.batch_size, work.count), max(row.prompt for row in work.rows), 0)
    else:
        batch = largest_batch(work)
    return max(passing_bytes(model.shape, batch, model.bytes_a_weight) for model in work.models.values())


def largest_batch(work: Work) -> Batch:
    """The micro-batch that needs most; of answers still to be sampled, as long as they may become."""
    largest = reads_of(work).largest
    if work.longest is None:
        return largest
    shortest = min(row.prompt for row in work.rows)
    return largest._replace(length=work.longest, predicted=largest.rows * (work.longest - shortest), padded=True)


def reads_of(work: Work) -> Reads:
    """One pass over the stage's rows."""
    return padded(work.rows, work.count, work.batch_size, by_length=work.kind == "scoring")


def cost_of(work: Work) -> Cost:
    """Operations and tokens of the whole stage."""
    if work.kind == "sampling":
        return _sampling_cost(work)
    reads = reads_of(work)
    if work.policy is not None:
        return _training_cost(work, reads.times(work.passes))
    rounds = max(1, len(work.models) - 1) if work.kind == "divergence" else 1
    flops = 0.0
    for name, model in work.models.items():
        times = rounds if name == work.teacher else 1
        flops += times * frozen_flops(model.shape, reads.tokens, reads.scores, reads.predicted, work.vocabulary)
    passes = 2 * rounds if work.kind == "divergence" else len(work.models)
    return Cost(passes * reads.tokens, passes * reads.filled, flops, 0.0)


def _training_cost(work: Work, reads: Reads) -> Cost:
    policy = work.policy
    assert policy is not None
    batches = max(1.0, work.passes * work.count / work.batch_size)
    kept = kept_logit_bytes(round(reads.predicted / batches), policy.vocabulary, policy.cuda) > 0
    flops = training_flops(
        policy.shape, reads.tokens, reads.scores, reads.predicted, policy.vocabulary, policy.checkpointing, kept
    )
    checked = padded(work.held_out, work.held_out_count, work.batch_size).times(work.passes) if work.held_out else None
    passes = [(reads, False), *([(checked, True)] if checked else [])]
    for some, by_policy in passes:
        shapes = [model.shape for model in work.models.values()] + ([policy.shape] if by_policy else [])
        flops += sum(frozen_flops(s, some.tokens, some.scores, some.predicted, policy.vocabulary) for s in shapes)
    tokens, filled = reads.tokens, reads.filled
    return Cost(tokens + (checked.tokens if checked else 0), filled + (checked.filled if checked else 0), flops, 0.0)


def _sampling_cost(work: Work) -> Cost:
    new, longest = work.new
    # a batch goes on until its last answer ends: near the largest number for batches of more than a few
    steps = new if work.batch_size == 1 else longest
    prompts = sum(row.prompt for row in work.rows) / len(work.rows)
    batches = work.count / min(work.batch_size, work.count)
    flops = streamed = 0.0
    for model in work.models.values():
        flops += sampling_flops(model.shape, work.count, prompts, steps)
        cache = cache_bytes(model.shape, work.batch_size, round(prompts + steps / 2), model.bytes_a_weight)
        streamed += batches * steps * (model.weights + cache)
    made = len(work.models) * work.count
    return Cost(made * (prompts + steps), made * (prompts + new), flops, streamed)
