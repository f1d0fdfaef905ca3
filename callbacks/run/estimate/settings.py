"""What a plan assumes, each by name."""

from dataclasses import dataclass

from datamodules.wrong_input import WrongInput


@dataclass(frozen=True)
class Settings:
    """Assumptions of a plan.

    Args:
        utilisation: Share of the rate of a plain matrix product that training and scoring reach.
        tflops: 10¹² operations a second of a matrix product; None: measured.
        gbps: 10⁹ bytes a second that are read from memory; None: measured. Sampling waits for it.
        memory_gib: What the device has; None: asked.
        allocator_slack: What the allocator holds beside what lies in it, as a share of what comes and goes; None: by
            device.
        process_gib: What a process takes in RAM before any model: libraries and their state.
        sample_rows: Rows whose lengths are counted; of larger files a sample, with the longest.
        rows: Of data that are not here.
        prompt_tokens: The same.
        response_tokens: Mean length of answers still to be sampled; None: half of ``max_new_tokens``.
    """

    utilisation: float = 0.5
    tflops: float | None = None
    gbps: float | None = None
    memory_gib: float | None = None
    allocator_slack: float | None = None
    process_gib: float = 0.53
    sample_rows: int = 1000
    rows: int = 10000
    prompt_tokens: int = 256
    response_tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        positive = [self.utilisation, self.sample_rows, self.rows, self.prompt_tokens]
        positive += [v for v in (self.tflops, self.gbps, self.memory_gib, self.response_tokens) if v is not None]
        if min(positive) <= 0 or self.process_gib < 0 or (self.allocator_slack or 0) < 0:
            raise WrongInput(f"no such assumptions: {self}", "estimate, plan_tflops", "give positive numbers")
