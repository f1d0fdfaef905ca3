"""Log-probabilities of responses under one model: a batch of token ids with a response mask in, sums out."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from datamodules.batches import PackedTokenBatch, TokenBatch
from lightning_modules.language_model import hidden_states, output_head
from lightning_modules.logprobs import token_logps
from lightning_modules.packing import Packing
from lightning_modules.sharding import whole

PACKING = Packing()


class ResponseStates(NamedTuple):
    """What predicts each response token; T = response tokens of all rows, end to end."""

    hidden: Tensor
    """(T, h), the state one position before each token."""
    targets: Tensor
    """(T,) int64, the tokens."""
    rows: Tensor
    """(T,) int64, the row of the batch each belongs to."""


def response_states(
    model: PreTrainedModel, batch: TokenBatch | PackedTokenBatch, packing: Packing = PACKING
) -> ResponseStates:
    """Hidden states of the response tokens only: nothing is computed over the head for prompt and padding."""
    batch, settings = packing.ready(model, batch)
    hidden = hidden_states(model, batch.input_ids, **settings)
    if isinstance(batch, PackedTokenBatch):
        return ResponseStates(hidden.flatten(0, 1)[batch.states], batch.targets, batch.owners)
    mask = batch.response_mask[:, 1:]
    return ResponseStates(hidden[:, :-1][mask], batch.input_ids[:, 1:][mask], mask.nonzero()[:, 0])


def response_logps(
    model: PreTrainedModel,
    batch: TokenBatch | PackedTokenBatch,
    *,
    vocabulary: int | None = None,
    chunk: int | None = None,
    packing: Packing = PACKING,
) -> Tensor:
    """Log-probability of each response given its prompt, summed over its tokens.

    Args:
        model: A causal language model; gradients reach it unless it is frozen.
        batch: N responses, in rows of their own or packed.
        vocabulary: Rows of the head that the softmax runs over (see ``output_head``).
        chunk: Response tokens whose logits exist at one time; the result does not depend on it.
        packing: How packed rows are read.

    Returns:
        (N,) float32, nats. A row without response tokens gives 0.
    """

    def summed(model: PreTrainedModel) -> Tensor:
        head, states = output_head(model, vocabulary), response_states(model, batch, packing)
        per_token = token_logps(states.hidden, head, states.targets, chunk)
        return per_token.new_zeros(len(batch.row_ids)).index_add(0, states.rows, per_token)

    return whole(model, summed)


def response_lengths(batch: TokenBatch | PackedTokenBatch) -> Tensor:
    """(N,) float32: tokens of each response."""
    if isinstance(batch, PackedTokenBatch):
        return torch.bincount(batch.owners, minlength=len(batch.row_ids)).to(torch.float32)
    return batch.response_mask.sum(-1).to(torch.float32)
