"""Every batch as a typed record: field, shape, dtype, meaning.

N = rows of a batch, L = padded length in tokens. Lightning moves named tuples between devices by itself.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class TokenBatch(NamedTuple):
    """Prompts with their responses, right-padded: what any sequence is trained or scored from."""

    input_ids: Tensor
    """(N, L) int64: prompt, response, padding."""
    attention_mask: Tensor
    """(N, L) int64: 1 on prompt and response, 0 on padding."""
    response_mask: Tensor
    """(N, L) bool: True on response tokens, the end-of-turn token included. Column 0 is never True."""
    row_ids: list[str]
    """N names that lead back to the data: ``"FILE:ROW"``."""


class PairScores(NamedTuple):
    """Log-probabilities of the frozen models, summed over response tokens (nats)."""

    ref_chosen_logps: Tensor
    """(N,) float32."""
    ref_rejected_logps: Tensor
    """(N,) float32."""
    teacher_chosen_logps: Tensor
    """(N,) float32."""
    teacher_rejected_logps: Tensor
    """(N,) float32."""


class PairBatch(NamedTuple):
    """Preference pairs. Row i of ``chosen`` and row i of ``rejected`` answer the same prompt."""

    chosen: TokenBatch
    """The teacher's responses (or the data's ``chosen``)."""
    rejected: TokenBatch
    """The student's responses (or the data's ``rejected``)."""
    scores: PairScores | None
    """What reference and teacher say, from the score cache; None in live mode."""

    def stacked(self) -> TokenBatch:
        """Chosen over rejected, (2B, L): one forward pass serves both. Needs one padded length (collate sees to it)."""
        ids, attention, response = (torch.cat(two) for two in zip(self.chosen[:3], self.rejected[:3], strict=True))
        return TokenBatch(ids, attention, response, self.chosen.row_ids + self.rejected.row_ids)


class PromptBatch(NamedTuple):
    """Prompts to be answered, left-padded so that generation starts in one column."""

    input_ids: Tensor
    """(N, L) int64: padding, prompt."""
    attention_mask: Tensor
    """(N, L) int64."""
    row_ids: list[str]
    """N names that lead back to the data."""
    seed: int
    """Of this batch's sampling: the same prompts get the same responses wherever a run was interrupted."""


class LoadRequest(NamedTuple):
    """One request of a workload."""

    request_id: str
    arrival_s: float
    """When it is sent, in seconds since the workload began, whatever has become of those before it."""
    input_ids: list[int]
    max_new_tokens: int
    measured: bool
    """False: of the warm-up, which is no part of the measurement."""


class Workload(NamedTuple):
    """Requests to one served model, sent by the clock (open loop)."""

    name: str
    """No two alike; of the log that it leaves."""
    model: str
    scheduler: str
    load: float | None
    """Its rate as a multiple of the capacity that was measured; None where it was given as a rate."""
    rate_rps: float
    """Mean arrivals a second; infinite where all come at once."""
    seed: int
    time_scale: float | None
    """By what a trace's times were multiplied; None without a trace."""
    requests: list[LoadRequest]
    """By arrival."""
    measured_s: float | None = None
    """How long the measured ones arrive, in seconds; None where all come at once."""


class Example(NamedTuple):
    """A passage with a marked answer, and the question that was asked about it."""

    id: str
    """Leads back to the data: ``"FILE:ROW"``, or a row's own id."""
    context: str
    """The passage."""
    answer: str
    """Always ``context[answer_start : answer_start + len(answer)]``."""
    answer_start: int
    """Offset in characters; 0 is a place like any other."""
    question: str
    """What was asked; empty where only the passage is given."""


class Seq2SeqBatch(NamedTuple):
    """Sources with their targets, right-padded: what every encoder-decoder stage learns from."""

    input_ids: Tensor
    """(B, L) int64: source, end of text, padding."""
    attention_mask: Tensor
    """(B, L) int64: 1 on the source."""
    labels: Tensor
    """(B, T) int64: target, end of text, then −100, which no loss counts."""


class QuestionBatch(NamedTuple):
    """Passages to ask about with retrieved templates: reinforcement learning and generation."""

    input_ids: Tensor
    """(B, L) int64: the marked passage, with no template."""
    attention_mask: Tensor
    """(B, L) int64: 1 on the passage."""
    own_template: Tensor
    """(B,) int64: number in the bank of the true question's template, never to be retrieved; −1 where it has none."""
    examples: list[Example]
    """B, for what is written anew for each template, and for rewards."""


class SourceBatch(NamedTuple):
    """Sources without targets, right-padded: what an encoder-decoder is to answer."""

    input_ids: Tensor
    """(B, L) int64: source, end of text, padding."""
    attention_mask: Tensor
    """(B, L) int64: 1 on the source."""
    row_ids: list[str]
    """B names that lead back to the data."""
