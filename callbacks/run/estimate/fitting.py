"""Whether a stage's memory suffices, and which setting would make it.  Pure."""

from collections.abc import Iterator

from callbacks.run.estimate.adapter import adapter_of
from callbacks.run.estimate.moments import peak
from callbacks.run.estimate.work import Work, moments_of, passing_through

GIB = 2**30
RANK = 16
"""Of ``conf/lora/all_linear.yaml``, which a test holds."""
SLACK = {"CPU": 0.5, "GPU": 0.1}
"""What the allocator holds beside what lies in it, as a share of what comes and goes, where it is not set. glibc's: the
mean of six runs (``python -m benchmarks.plan --fit``: 0.27 to 0.69), none of which is among those that
benchmarks/plan.md holds it against: holes in its heap, as many with gradient checkpointing as without. A fixed
``MALLOC_MMAP_THRESHOLD_`` in the environment leaves none. That of CUDA's caching allocator is assumed."""


def peak_bytes(work: Work, slack: float, process: float) -> tuple[str, float]:
    """The worst moment, and what the device holds then, with the allocator's holes and the process itself."""
    name, size = peak(moments_of(work))
    return name, size + slack * passing_through(work) + process


def mend(work: Work, memory: float, slack: float, process: float) -> str:
    """What would make a stage fit that does not: one setting, or several together, tried and found to do."""
    said: list[str] = []
    least = peak_bytes(work, slack, process)[1]
    for changed, how in _leaner(work):
        said = [*[old for old in said if old.partition("=")[0] != how.partition("=")[0]], how]
        least = peak_bytes(changed, slack, process)[1]
        if least <= memory:
            return f"set {' '.join(said)}"
    tried = f" even with {' '.join(said)}" if said else ""
    return f"needs {least / GIB:.1f} GiB{tried}: take a smaller model or a larger device"


def _leaner(work: Work) -> Iterator[tuple[Work, str]]:
    """Ever leaner settings, each on top of those before: first what costs no time, then what costs some."""
    if work.policy is not None and work.models:
        work = work._replace(models={})
        yield work, "mode=cached"
    key, size = work.batch_key, min(work.batch_size, work.count)
    if work.policy is not None and size > 1:
        for smaller in _halves(size, 1 + (size > 4) * (size // 4 - 1)):
            yield work._replace(batch_size=smaller), _sized(key, smaller, size)
    if work.policy is not None and not work.policy.checkpointing:
        work = work._replace(policy=work.policy._replace(checkpointing=True))
        yield work, "gradient_checkpointing=true"
    if work.policy is not None and work.kind == "training" and work.cuda and not work.policy.offload:
        work = work._replace(policy=work.policy._replace(offload=True))
        yield work, "activation_offload=true"
    if work.policy is not None and work.policy.adapter is None and work.adaptable:
        adapter = adapter_of(work.policy.shape, RANK, "all-linear")
        work = work._replace(policy=work.policy._replace(adapter=adapter))
        yield work, "lora=all_linear"
    for smaller in _halves(size, 1):
        changed = work._replace(batch_size=smaller)
        yield changed, _sized(key, smaller, size if work.policy is not None else 0)


def _halves(size: int, least: int) -> Iterator[int]:
    while size > least:
        size //= 2
        yield size


def _sized(key: str, smaller: int, before: int) -> str:
    return f"{key}={smaller}" + (f" (and trainer.accumulate_grad_batches × {before // smaller})" if before else "")
