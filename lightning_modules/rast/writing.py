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
from lightning_modules.rast.like_lengths import groups_of_like_length, pass_tokens
from lightning_modules.rast.token_by_token import write_tokens
from lightning_modules.sampling import Sampling
from lightning_modules.seq2seq import IGNORED, encoder_states, label_states
from lightning_modules.token_draws import TokenDraws


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

    def chosen(self, rows: Sequence[int]) -> "Encoded":
        """Some of the rows, no wider than they need."""
        places = torch.tensor(rows, device=self.states.device)
        width = int(self.attention_mask[places].sum(1).max())
        return Encoded(*(part[places, :width] for part in self))


class Written(NamedTuple):
    """N decoded sequences."""

    labels: Tensor
    """(N, T) int64, the end token included where there is one; -100 behind it."""
    texts: list[str]
    """Without special tokens and outer white space."""
    finished: Tensor
    """(N,) bool: ended within ``max_new_tokens``."""


def encode(model: PreTrainedModel, rows: Sequence[Sequence[int]], pad_id: int) -> Encoded:
    """Pad N rows of token ids and run the encoder over them, with gradient where there is one."""
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    ids = pad_sequence(tensors, batch_first=True, padding_value=pad_id).to(model.device)
    mask = pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True).to(model.device)
    return Encoded(ids, mask, encoder_states(model, ids, mask))


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Encoded, how: Sampling) -> Written:
    """Decode all rows in one batch, from torch's own random state where ``how`` samples."""
    return write_ways(model, tokenizer, encoded, [how])[0]


def write_ways(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Encoded, ways: Sequence[Sampling]
) -> list[Written]:
    """Decode all rows once in each of the ways; what is the same in several is computed once.

    Raises:
        RuntimeError: Dropout is on.
    """
    _check_dropout(model)
    draws = [TokenDraws(way.temperature, way.top_p, way.top_k, len(tokenizer)) for way in ways]
    stops, most = stop_token_ids(model, tokenizer), max(way.max_new_tokens for way in ways)
    made = write_tokens(model, encoded.states, encoded.attention_mask, draws, stops, most)
    return [_written(labels[:, : way.max_new_tokens], tokenizer, stops) for labels, way in zip(made, ways, strict=True)]


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Encoded,
    config: GenerationConfig,
    processors: Sequence[LogitsProcessor] = (),
) -> Written:
    """What transformers' ``generate`` makes of it as it is told to; rows of one input stand together."""
    _check_dropout(model)
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
    return _written(made.masked_fill(ends.cumsum(1) - ends.int() > 0, IGNORED), tokenizer, stops)


def _check_dropout(model: PreTrainedModel) -> None:
    if model.training:
        raise RuntimeError("dropout is on: what is sampled would not be the policy's")


def _written(labels: Tensor, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int]) -> Written:
    """Of labels (N, T), which may be wider than the longest row."""
    labels = labels[:, : int((labels != IGNORED).sum(1).max())]
    rows = [row[row != IGNORED] for row in labels.cpu()]
    texts = [str(tokenizer.decode(row, skip_special_tokens=True)).strip() for row in rows]
    return Written(labels, texts, torch.isin(labels, torch.tensor(stops, device=labels.device)).any(1))


def target(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """(T,) int64: what a model that writes this text is taught, its end token included."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return torch.tensor([*ids, tokenizer.eos_token_id], dtype=torch.int64)


@torch.no_grad()
def answer_nlls(
    qa: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    answers: Sequence[str],
    pad_id: int,
) -> Tensor:
    """(N,) float32: ``mean_nlls`` of each answer given N rows of token ids; rows of like length go together."""
    nlls = torch.zeros(len(rows), device=qa.device)
    for group in groups_of_like_length([len(row) for row in rows], pass_tokens(qa.device)):
        encoded = encode(qa, [rows[row] for row in group], pad_id)
        nlls[group] = mean_nlls(qa, tokenizer, encoded, [answers[row] for row in group])
    return nlls


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
