"""Every batch as a typed record: field, shape, dtype, meaning.

N = rows of a batch, L = padded length in tokens; of packed rows, R = rows, T = response tokens. Lightning moves named
tuples between devices by itself.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

PackingSetting = Literal["auto", "sdpa", "flex", "flash", "off"]
"""Whether pairs come in packed rows, and with which attention they are read; see ``lightning_modules/packing.py``."""

SamplerSetting = Literal["auto", "continuous", "batched", "vllm"]
"""How prompts are answered; see ``lightning_modules/sampling.py``."""


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

    @property
    def row_ids(self) -> list[str]:
        """B names of the pairs."""
        return self.chosen.row_ids

    def tokens_needed(self) -> Tensor:
        """(), int64: of prompts, each once, and responses."""
        return self.chosen.attention_mask.sum() + self.rejected.response_mask.sum()


class PackedPrompt(NamedTuple):
    """Where a prompt lies in packed rows; its responses follow it."""

    row: int
    start: int
    """Its first column."""
    length: int
    responses: list[tuple[int, int]]
    """Number and tokens of each response, in the order they lie in."""


class PackedTokenBatch(NamedTuple):
    """Prompts, each once, with one or several responses, several prompts a row (``datamodules/packing.py``).

    A token sees what lies before it of its own prompt and of its own response, and nothing else. A response's positions
    go on from the end of its prompt, whatever lies between the two. Padding sees padding, so that nobody sees nothing.
    """

    input_ids: Tensor
    """(R, L) int64."""
    position_ids: Tensor
    """(R, L) int64: 0 at the start of each prompt; 0 on padding."""
    prompts: Tensor
    """(R, L) int32: the number of the prompt that the token is of or answers; −1 on padding."""
    responses: Tensor
    """(R, L) int32: the number of the response that the token is of; −1 on prompts and padding."""
    states: Tensor
    """(T,) int64: where in the flattened rows each response token is predicted; a first token: at its prompt's end."""
    targets: Tensor
    """(T,) int64: the response tokens, end to end by number, their end-of-turn tokens included."""
    owners: Tensor
    """(T,) int64, ascending: the number of the response that each of them is of."""
    layout: list[PackedPrompt]
    """The same for loops, by the prompts' numbers."""
    row_ids: list[str]
    """N names of the responses."""

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with one response: what a model's window must hold."""
        return max(prompt.length + tokens for prompt in self.layout for _, tokens in prompt.responses)

    def padded(self) -> TokenBatch:
        """The same responses, each in a row of its own behind its prompt, padded with token 0."""
        shape = len(self.row_ids), self.longest
        ids, attention = self.input_ids.new_zeros((2, *shape))
        response = torch.zeros(shape, dtype=torch.bool, device=ids.device)
        for row, start, length, responses in self.layout:
            at = start + length
            for number, tokens in responses:
                ids[number, :length] = self.input_ids[row, start : start + length]
                ids[number, length : length + tokens] = self.input_ids[row, at : at + tokens]
                attention[number, : length + tokens] = 1
                response[number, length : length + tokens] = True
                at += tokens
        return TokenBatch(ids, attention, response, self.row_ids)

    def apart(self) -> "PackedTokenBatch":
        """The same with one prompt a row, for attention that costs a row's length squared."""
        sizes = [length + sum(tokens for _, tokens in held) for _, _, length, held in self.layout]
        device, old_width, width = self.input_ids.device, self.input_ids.shape[1], max(sizes)
        source = torch.full((len(sizes), width), -1, device=device)  # where each token was, in the flattened rows
        for (row, start, *_), size, places in zip(self.layout, sizes, source, strict=True):
            places[:size] = torch.arange(size, device=device) + row * old_width + start
        used, filled = source >= 0, []
        for field, padding in zip(self[:4], (0, 0, -1, -1), strict=True):
            filled.append(field.flatten()[source.clamp(min=0)].masked_fill(~used, padding))
        moved = source.new_zeros(self.input_ids.numel())
        moved[source[used]] = used.flatten().nonzero()[:, 0]
        layout = [PackedPrompt(row, 0, prompt.length, prompt.responses) for row, prompt in enumerate(self.layout)]
        return self._replace(**dict(zip(self._fields, filled, strict=False)), states=moved[self.states], layout=layout)


class PackedPairBatch(NamedTuple):
    """Preference pairs in packed rows: of each, prompt, chosen and rejected response, once and in this order."""

    tokens: PackedTokenBatch
    """2B responses: those of the B pairs chosen, then those rejected; prompt i is that of pair i."""
    scores: PairScores | None
    """What reference and teacher say, from the score cache; None in live mode."""

    def stacked(self) -> PackedTokenBatch:
        """Chosen over rejected, as ``PairBatch.stacked``."""
        return self.tokens

    @property
    def row_ids(self) -> list[str]:
        """B names of the pairs."""
        return self.tokens.row_ids[: len(self.tokens.row_ids) // 2]

    def tokens_needed(self) -> Tensor:
        """(), int64: of prompts and responses."""
        return (self.tokens.prompts >= 0).sum()


class PromptBatch(NamedTuple):
    """Prompts to be answered, left-padded so that generation starts in one column."""

    input_ids: Tensor
    """(N, L) int64: padding, prompt."""
    attention_mask: Tensor
    """(N, L) int64."""
    row_ids: list[str]
    """N names that lead back to the data."""
    seed: int
    """Of the sampling, together with a row's name: a prompt gets the same response in whatever batch it comes."""


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
