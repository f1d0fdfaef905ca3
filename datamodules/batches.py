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


class Example(NamedTuple):
    """A passage with the answer that a question is wanted for."""

    id: str
    """Leads back to the data: ``"FILE:ROW"`` or the data set's own id."""
    context: str
    """The passage."""
    answer: str
    """A span of the passage."""
    answer_start: int
    """Its first character in the passage; 0 is a place like any other."""
    question: str
    """The annotated question."""


class QuestionBatch(NamedTuple):
    """Passages to be asked about, right-padded. B = passages."""

    input_ids: Tensor
    """(B, L) int64: the marked passage, without template."""
    attention_mask: Tensor
    """(B, L) int64."""
    own_template: Tensor
    """(B,) int64: where the annotated question's own template stands in the bank, -1 if it does not."""
    examples: list[Example]
    """B examples: what rewards, templates and tables are made from."""


class Seq2SeqBatch(NamedTuple):
    """Inputs with what is to be written, both right-padded: what an encoder–decoder is fine-tuned from."""

    input_ids: Tensor
    """(B, L) int64."""
    attention_mask: Tensor
    """(B, L) int64."""
    labels: Tensor
    """(B, T) int64, the end token included; -100 on padding."""
