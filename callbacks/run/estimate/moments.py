"""When a stage needs most memory, and what for.  Pure.

Each function gives the moments of a stage by name, each a mapping from what is held to its bytes; the peak is the
moment with the largest sum. Those of a training are in ``training.py``.
"""

from collections.abc import Mapping

from callbacks.run.estimate.memory import FLOAT, Batch, cache_bytes, chunk_bytes, head_cast_bytes, passing_bytes
from callbacks.run.estimate.models import Frozen

Held = dict[str, float]
Moments = dict[str, Held]


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
