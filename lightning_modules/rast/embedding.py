"""One vector for a text: what queries and templates are compared by."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def embedded(
    encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> Tensor:
    """(n, h): tokens' last states averaged under the mask, at length 1; zeros of a text without a token.

    Args:
        encoder: Gradients reach it.
        tokenizer: Its own.
        texts: n of them.
        max_length: Tokens of a text that are read.
    """
    encoded = tokenizer(list(texts), padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    ids, mask = (encoded[key].long().to(encoder.device) for key in ("input_ids", "attention_mask"))
    if ids.shape[1] == 0:  # texts without a token, and a tokenizer that adds none
        return torch.zeros(len(texts), encoder.config.hidden_size, device=encoder.device)
    states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    weights = mask[:, :, None].to(states.dtype)
    mean = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
    return nn.functional.normalize(mean, dim=-1)
