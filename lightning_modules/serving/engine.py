"""The serving engine's settings."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from transformers.generation.configuration_utils import ContinuousBatchingConfig

from datamodules.wrong_input import WrongInput

Scheduler = Literal["fifo", "prefill_first"]


@dataclass(frozen=True)
class Engine:
    """The serving engine's limits, and how it decodes.

    Args:
        max_batch_tokens: Tokens of one forward pass, prompts and answers together: longer prompts go in by chunks.
        max_requests: Requests in one forward pass; further ones wait.
        cache_tokens: Tokens whose keys and values have room.
        page_tokens: Tokens in a page of that room.
        prefix_sharing: Prompts that begin alike share what was computed for their beginning.
        temperature: 1 samples from the model's own distribution, 0 decodes greedily.
        ignore_eos: Every answer is as long as it may be: a load that does not depend on what the model says.
        time_limit_s: Requests still open then are cancelled (None: none are).
    """

    max_batch_tokens: int = 512
    max_requests: int = 64
    cache_tokens: int = 32768
    page_tokens: int = 16
    prefix_sharing: bool = False
    temperature: float = 1.0
    ignore_eos: bool = False
    time_limit_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no engine can be run with."""
        counts = (self.max_batch_tokens, self.max_requests, self.cache_tokens)
        limit = self.time_limit_s
        if min(counts) < 1 or self.page_tokens < 4 or self.temperature < 0 or (limit is not None and limit <= 0):
            mend = "sizes ≥ 1, page_tokens ≥ 4, temperature ≥ 0, time_limit_s above 0 or null"
            raise WrongInput(f"no such engine: {self}", "engine", mend)

    def batching(self, scheduler: str, seed: int) -> ContinuousBatchingConfig:
        """In transformers' words; neither memory nor kernels are looked for beyond what is set here."""
        return ContinuousBatchingConfig(
            scheduler_type=scheduler,
            page_size=self.page_tokens,
            num_blocks=-(-self.cache_tokens // self.page_tokens),
            max_batch_tokens=self.max_batch_tokens,
            max_requests_per_batch=self.max_requests,
            allow_block_sharing=self.prefix_sharing,
            seed=seed,
            auto_switch_to_flash=False,  # it would ask the Hub for kernels
        )


def check_schedulers(schedulers: Iterable[str]) -> None:
    """Refuse a name that is none of a scheduler.

    Raises:
        WrongInput: It is not.
    """
    known = get_args(Scheduler)
    for name in schedulers:
        if name not in known:
            raise WrongInput(f"unknown scheduler {name!r}", "schedulers", f"one of {', '.join(known)}")
