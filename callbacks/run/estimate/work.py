"""What a stage does, by numbers alone: from shapes and tokens to operations, bytes and hours.  Pure."""

from typing import NamedTuple

from callbacks.run.estimate.flops import frozen_flops, sampling_flops, training_flops
from callbacks.run.estimate.memory import Batch, cache_bytes, kept_logit_bytes, layer_bytes, passing_bytes
from callbacks.run.estimate.models import PADDED, Frozen, Policy, Reading
from callbacks.run.estimate.moments import Moments, divergence_moments, sampling_moments, scoring_moments
from callbacks.run.estimate.packed import packed
from callbacks.run.estimate.tokens import Reads, Sequences, padded
from callbacks.run.estimate.training import pruning_moments, training_moments


class Work(NamedTuple):
    """A stage. What makes it fit is found by replacing a field."""

    kind: str
    """``training``, ``pruning``, ``scoring``, ``divergence`` or ``sampling``."""
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
    continuous: bool = False
    """Sampling: an answer that ends makes room for the next; else a batch goes on until its last answer ends."""
    teacher: str = ""
    """Divergence: which of the models stays in memory."""
    batch_key: str = "batch_size"
    """What sets ``batch_size`` on the command line."""
    longest: int | None = None
    """Tokens that a sequence may have; None: the rows are known."""
    packing: bool = False
    """Batches come packed; each model reads them as it can."""
    token_budget: int | None = None
    """Tokens a packed row; None: one row a batch."""
    sort_window: int = 1
    """Batches whose rows are sorted by length among them."""
    sharing: int = 1
    """Of ``batch_size``, how many are of one row: it may count responses."""
    compared: dict[str, Frozen] = {}
    """Scoring: what runs over a few pairs besides, one a batch; its memory counts, its time does not."""
    adaptable: bool = False
    """The policy starts from weights that an adapter could stand beside, and is not sharded."""
    handed_on: bool = False
    """What is trained and the optimizer's states are left on disk, for a later round."""
    left: int = 0
    """Pruning: parameters of what is left."""
    leaves: float = 0.0
    """Pruning: bytes of what is written."""

    @property
    def rows_a_batch(self) -> int:
        """Rows a batch."""
        return max(1, self.batch_size // self.sharing)


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
    frozen = {name: (model, largest_batch(work, model.reading)) for name, model in work.models.items()}
    if work.policy is not None and work.kind == "pruning":
        return pruning_moments(work.policy, largest_batch(work) if work.passes else None)
    if work.policy is not None:
        return training_moments(work.policy, largest_batch(work, work.policy.reading), list(frozen.values()))
    if work.kind == "divergence":
        students = {name: model for name, model in work.models.items() if name != work.teacher}
        return divergence_moments(work.models[work.teacher], students, largest_batch(work), work.vocabulary, work.cuda)
    one = work._replace(batch_size=1, packing=False, sharing=1)
    frozen |= {name: (model, largest_batch(one)) for name, model in work.compared.items()}
    return scoring_moments(frozen, work.vocabulary, work.cuda)


def passing_through(work: Work) -> float:
    """Bytes that pass through the allocator's hands in a step: a layer's activations times the layers, kept or not."""
    if work.kind == "pruning" and not work.passes:
        return 0.0
    if (policy := work.policy) is not None:
        largest = largest_batch(work, policy.reading)
        return policy.shape.layers * layer_bytes(policy.shape, largest, policy.precision, policy.adapter)
    if work.kind == "sampling":
        prompts = Batch(min(work.batch_size, work.count), max(row.prompt for row in work.rows), 0)
        return max(passing_bytes(model.shape, prompts, model.bytes_a_weight) for model in work.models.values())
    return max(
        passing_bytes(model.shape, largest_batch(work, model.reading), model.bytes_a_weight)
        for model in work.models.values()
    )


def largest_batch(work: Work, reading: Reading = PADDED) -> Batch:
    """The micro-batch that needs most; of answers still to be sampled, as long as they may become."""
    if work.longest is None:
        return reads_of(work, reading).largest
    if work.packing:
        most = [Sequences(row.prompt, (work.longest - row.prompt,) * len(row.responses)) for row in work.rows]
        return reads_of(work._replace(rows=most), reading).largest
    largest = reads_of(work, reading).largest
    shortest = min(row.prompt for row in work.rows)
    return largest._replace(length=work.longest, predicted=largest.rows * (work.longest - shortest), padded=True)


def reads_of(work: Work, reading: Reading = PADDED, *, held_out: bool = False) -> Reads:
    """One pass over the stage's rows, or over those that it holds out, as a model reads them."""
    rows, count = (work.held_out, work.held_out_count) if held_out else (work.rows, work.count)
    by_length, window = work.kind == "scoring", 1 if held_out else work.sort_window
    if not work.packing:
        return padded(rows, count, work.rows_a_batch, by_length=by_length, window=window)
    budget = work.token_budget
    return packed(rows, count, work.rows_a_batch, reading, token_budget=budget, by_length=by_length, window=window)


def cost_of(work: Work) -> Cost:
    """Operations and tokens of the whole stage."""
    if work.kind == "sampling":
        return _sampling_cost(work)
    if work.policy is not None:
        return _training_cost(work, work.policy)
    rounds = max(1, len(work.models) - 1) if work.kind == "divergence" else 1
    tokens = filled = flops = 0.0
    for name, model in work.models.items():
        reads = reads_of(work, model.reading).times(rounds if name == work.teacher else 1)
        tokens, filled = tokens + reads.tokens, filled + reads.filled
        flops += frozen_flops(model.shape, reads.tokens, reads.scores, reads.predicted, work.vocabulary)
    return Cost(tokens, filled, flops, 0.0)


def _training_cost(work: Work, policy: Policy) -> Cost:
    reads = reads_of(work, policy.reading).times(work.passes)
    batches = max(1.0, work.passes * work.count / work.batch_size)
    kept = kept_logit_bytes(round(reads.predicted / batches), policy.vocabulary, policy.cuda) > 0
    flops = training_flops(
        policy.shape,
        reads.tokens,
        reads.scores,
        reads.predicted,
        policy.vocabulary,
        policy.checkpointing,
        kept,
        policy.adapter,
    )
    tokens, filled = reads.tokens, reads.filled
    forward = [(model, False) for model in work.models.values()]
    if work.held_out:
        checked = reads_of(work, policy.reading, held_out=True).times(work.passes)
        tokens, filled = tokens + checked.tokens, filled + checked.filled
        forward += [(model, True) for model in (policy, *work.models.values())]
    for model, held_out in forward:
        seen = reads_of(work, model.reading, held_out=held_out).times(work.passes)
        flops += frozen_flops(model.shape, seen.tokens, seen.scores, seen.predicted, policy.vocabulary)
    return Cost(tokens, filled, flops, 0.0)


def _sampling_cost(work: Work) -> Cost:
    new, longest = work.new
    # the last answer of a batch ends near the largest number, where there are more than a few
    steps = new if work.continuous or work.batch_size == 1 else longest
    prompts = sum(row.prompt for row in work.rows) / len(work.rows)
    batches = work.count / min(work.batch_size, work.count)
    flops = streamed = 0.0
    for model in work.models.values():
        flops += sampling_flops(model.shape, work.count, prompts, steps)
        cache = cache_bytes(model.shape, work.batch_size, round(prompts + steps / 2), model.bytes_a_weight)
        streamed += batches * steps * (model.weights + cache)
    made = len(work.models) * work.count
    return Cost(made * (prompts + steps), made * (prompts + new), flops, streamed)
