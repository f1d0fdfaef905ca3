"""Whether a stage's memory suffices, and which setting would make it.  Pure."""

from collections.abc import Iterator

from callbacks.run.estimate.moments import Moments, peak
from callbacks.run.estimate.work import Work, moments_of

GIB = 2**30
SLACK = {"CPU": 1.3, "GPU": 1.1}
"""What the allocator holds over what lies in it, where it is not set: glibc's as measured (benchmarks/plan.md), CUDA's
caching allocator assumed."""
STANDING = ("weights", "frozen weights", "optimizer", "gradient buckets")
"""What is allocated once and stays."""


def peak_bytes(moments: Moments, slack: float, process: float) -> tuple[str, float]:
    """The worst moment and what the device holds then: what stands, what comes and goes with slack, and the process."""
    held = {
        moment: {name: size * (1 if name in STANDING else slack) for name, size in parts.items()}
        for moment, parts in moments.items()
    }
    name, size = peak(held)
    return name, size + process


def mend(work: Work, memory: float, slack: float, process: float) -> str:
    """What would make a stage fit that does not: one setting, or several together, tried and found to do."""
    said: list[str] = []
    for changed, how in _leaner(work):
        said = [*[old for old in said if old.partition("=")[0] != how.partition("=")[0]], how]
        if peak_bytes(moments_of(changed), slack, process)[1] <= memory:
            return " ".join(said)
    least = peak_bytes(moments_of(changed), slack, process)[1] if said else 0.0  # type: ignore[possibly-undefined]
    return f"a smaller model, or {least / GIB:.1f} GiB: {' '.join(said) or 'nothing'} is not enough (LoRA is not there yet)"


def _leaner(work: Work) -> Iterator[tuple[Work, str]]:
    """Ever leaner settings, each on top of those before: first what costs no time, then what costs some."""
    if work.policy is not None and work.models:
        work = work._replace(models={})
        yield work, "mode=cached"
    key = {"training": "batch_size", "sampling": "sample_batch_size"}.get(work.kind, "sample_batch_size")
    size = min(work.batch_size, work.count)
    if work.policy is not None and size > 1:
        for smaller in _halves(size, 1 + (size > 4) * (size // 4 - 1)):
            yield work._replace(batch_size=smaller), _sized(key, smaller, size)
    if work.policy is not None and not work.policy.checkpointing:
        work = work._replace(policy=work.policy._replace(checkpointing=True))
        yield work, "gradient_checkpointing=true"
    for smaller in _halves(size, 1):
        changed = work._replace(batch_size=smaller)
        yield changed, _sized(key, smaller, size if work.policy is not None else 0)


def _halves(size: int, least: int) -> Iterator[int]:
    while size > least:
        size //= 2
        yield size


def _sized(key: str, smaller: int, before: int) -> str:
    return f"{key}={smaller}" + (f" (and trainer.accumulate_grad_batches × {before // smaller})" if before else "")
