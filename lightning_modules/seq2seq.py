"""Encoder–decoders run in two parts, so that what the encoder made can serve several decodings."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from lightning_modules.logprobs import OutputHead, chunk_tokens, logits_of

IGNORED = -100
"""The label of padding."""


class LabelStates(NamedTuple):
    """What predicts each label; T = labels of all rows, end to end."""

    hidden: Tensor
    """(T, h)."""
    targets: Tensor
    """(T,) int64."""
    rows: Tensor
    """(T,) int64, the row of the batch each belongs to."""


def encoder_states(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states (N, L, h) of the encoder."""
    return model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def decoder_states(model: PreTrainedModel, encoded: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
    """Last hidden states (N, T, h) of the decoder, fed with the labels (N, T) shifted right: row t predicts label t.

    Args:
        model: The encoder–decoder.
        encoded: (N, L, h), of ``encoder_states``.
        attention_mask: (N, L), of the encoder's input.
        labels: (N, T), -100 on padding.
    """
    start = torch.full_like(labels[:, :1], model.config.decoder_start_token_id)
    # What stands on padding is seen by later padding only: the decoder looks back.
    shifted = torch.cat([start, labels[:, :-1].clamp(min=0)], 1)
    return model.get_decoder()(
        input_ids=shifted, encoder_hidden_states=encoded, encoder_attention_mask=attention_mask, use_cache=False
    ).last_hidden_state


def label_states(model: PreTrainedModel, encoded: Tensor, attention_mask: Tensor, labels: Tensor) -> LabelStates:
    """Decoder states of the labels that are not padding: nothing is computed over the head for the others."""
    mask = labels != IGNORED
    hidden = decoder_states(model, encoded, attention_mask, labels)
    return LabelStates(hidden[mask], labels[mask], mask.nonzero()[:, 0])


def label_logits(states: LabelStates, head: OutputHead) -> Tensor:
    """Logits (T, V) of the labels' distributions, differentiable, all at once: what a divergence is made from."""
    logits = F.linear(states.hidden, head.weight.to(states.hidden.dtype), head.bias) * head.scale
    return logits if head.softcap is None else head.softcap * (logits / head.softcap).tanh()


@torch.no_grad()
def hits(states: LabelStates, head: OutputHead, chunk: int | None = None) -> Tensor:
    """Number of labels that are the likeliest token, an int64 scalar."""
    size = chunk_tokens(head.weight.shape[0], states.hidden.device, chunk)
    pieces = zip(states.hidden.split(size), states.targets.split(size), strict=True)
    found = [(logits_of(hidden, head).argmax(-1) == targets).sum() for hidden, targets in pieces]
    return torch.stack([states.targets.new_zeros(()), *found]).sum()
