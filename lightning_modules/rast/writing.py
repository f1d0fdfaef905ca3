"""What an encoder–decoder writes from what its encoder has made, once for several decodings."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutput

from lightning_modules.language_model import output_head, stop_token_ids
from lightning_modules.logprobs import token_logps
from lightning_modules.sampling import Sampling, generation_config
from lightning_modules.seq2seq import IGNORED, encoder_states, label_states


class Encoded(NamedTuple):
    """Inputs, and what the encoder made of them."""

    input_ids: Tensor
    """(N, L) int64, right-padded."""
    attention_mask: Tensor
    """(N, L) int64."""
    states: Tensor
    """(N, L, h)."""

    def detached(self) -> "Encoded":
        """The same without gradient, to decode from."""
        return self._replace(states=self.states.detach())

    def repeated(self, count: int) -> "Encoded":
        """Each row ``count`` times, one below the other."""
        return Encoded(*(part.repeat_interleave(count, 0) for part in self))


class Written(NamedTuple):
    """N decoded sequences."""

    labels: Tensor
    """(N, T) int64, the end token included where there is one; -100 behind it."""
    texts: list[str]
    """Without special tokens and outer white space."""
    finished: Tensor
    """(N,) bool: ended within ``max_new_tokens``."""

    def rows(self, start: int, end: int | None) -> "Written":
        """Some of them, no wider than they need: others of the batch may have gone on."""
        labels = self.labels[start:end]
        width = int((labels != IGNORED).sum(1).max())
        return Written(labels[:, :width], self.texts[start:end], self.finished[start:end])


def encode(model: PreTrainedModel, rows: Sequence[Sequence[int]], pad_id: int) -> Encoded:
    """Pad N rows of token ids and run the encoder over them, with gradient where there is one."""
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    ids = pad_sequence(tensors, batch_first=True, padding_value=pad_id).to(model.device)
    mask = pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True).to(model.device)
    return Encoded(ids, mask, encoder_states(model, ids, mask))


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Encoded, how: Sampling) -> Written:
    """Decode all rows in one batch, from torch's own random state where ``how`` samples."""
    return decode(model, tokenizer, encoded, generation_config(model, tokenizer, how))


def write_twice(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Encoded, how: Sampling
) -> tuple[Written, Written]:
    """Decode all rows as ``how`` says and greedily, in one batch: most of what a step of decoding costs is shared."""
    twice, first_greedy = Encoded(*(torch.cat([part, part]) for part in encoded)), len(encoded.states)
    config = generation_config(model, tokenizer, how)
    both = decode(model, tokenizer, twice, config, [_OnlyLikeliest(first_greedy)])
    return both.rows(0, first_greedy), both.rows(first_greedy, None)


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Encoded,
    config: GenerationConfig,
    processors: Sequence[LogitsProcessor] = (),
) -> Written:
    """The same as transformers' ``generate`` is told to; rows of one input stand together where it gives several."""
    if model.training:
        raise RuntimeError("dropout is on: what is sampled would not be the policy's")
    stops, before = stop_token_ids(model, tokenizer), model.generation_config
    try:
        # `generate` fills what we leave open from the model's own (beams, penalties, …)
        model.generation_config = GenerationConfig(eos_token_id=stops)
        made: Tensor = model.generate(  # type: ignore[operator]
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded.states),  # type: ignore[arg-type]
            attention_mask=encoded.attention_mask,
            generation_config=config,
            logits_processor=LogitsProcessorList(processors),
        )[:, 1:]
    finally:
        model.generation_config = before
    ends = torch.isin(made, torch.tensor(stops, device=made.device))
    behind = ends.cumsum(1) - ends.int() > 0
    labels = made.masked_fill(behind, IGNORED)
    rows = [row[row != IGNORED] for row in labels.cpu()]
    texts = [str(tokenizer.decode(row, skip_special_tokens=True)).strip() for row in rows]
    return Written(labels, texts, ends.any(1))


class _OnlyLikeliest(LogitsProcessor):
    """Leaves rows from a given one on nothing but their likeliest token, so that sampling from them is greedy."""

    def __init__(self, first: int):
        self.first = first

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        rows = scores[self.first :]
        best = rows.argmax(-1, keepdim=True)
        only = torch.full_like(rows, -torch.inf).scatter(1, best, rows.gather(1, best))
        return torch.cat([scores[: self.first], only])


def target(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """(T,) int64: what a model that writes this text is taught, its end token included."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return torch.tensor([*ids, tokenizer.eos_token_id], dtype=torch.int64)


@torch.no_grad()
def mean_nlls(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Encoded, texts: Sequence[str]
) -> Tensor:
    """(N,) float32: mean token cross-entropy of each text given its row, nats."""
    labels = pad_sequence([target(tokenizer, text) for text in texts], batch_first=True, padding_value=IGNORED)
    return -mean_logps(model, tokenizer, encoded, labels.to(model.device))


@torch.no_grad()
def mean_logps(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Encoded, labels: Tensor) -> Tensor:
    """(N,) float32: mean token log-probability of each row of labels (N, T), nats; at temperature 1, nothing cut."""
    states = label_states(model, encoded.states, encoded.attention_mask, labels)
    logps = token_logps(states.hidden, output_head(model, len(tokenizer)), states.targets)
    return sum_by_row(logps, states.rows, len(labels)) / (labels != IGNORED).sum(1)


def sum_by_row(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """(count,): the sums of the (T,) values of each row."""
    return values.new_zeros(count).index_add(0, rows, values)
