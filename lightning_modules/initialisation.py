"""Starts for new models that transformers' own does not give."""

import re

import torch
from torch import nn
from transformers import PreTrainedModel

from datamodules.wrong_input import WrongInput

FEED_FORWARD = 0.1
"""What a copying start multiplies the outputs of feed-forward layers by."""
NEIGHBOURS = 3.0
"""What it adds to the attention (before the softmax) of the encoder's first head to the next token, and of its second
head to the one before."""


def initialise(model: PreTrainedModel, start: str) -> None:
    """Set the weights of a new model anew, in place.

    ``copying``: a decoder that begins by repeating what it attends to. Values and outputs of cross-attention are the
    identity, so that a token's embedding reaches the output layer (which is the same embedding) as it is, and
    feed-forward outputs are small, so that it is not drowned. A small T5 learns to copy names with it, which it does
    not from T5's own start. And two heads of the encoder see a token's neighbours: the marks around an answer mean
    something only to whom they stand next to, and a small T5 else ignores them for a thousand steps.

    Raises:
        WrongInput: An unknown start, or one that the model's family has no place for.
    """
    if start != "copying":
        raise WrongInput(f"unknown initialisation {start!r}", "model: initialisation", "copying, or leave it out")
    crossing = [layer for layer in _linear(model) if re.search(r"EncDecAttention\.[vo]$", layer[0])]
    outputs = [layer for layer in _linear(model) if layer[0].endswith("DenseReluDense.wo")]
    if not crossing or not outputs:
        raise WrongInput(
            f"{type(model).__name__} has no copying start",
            "model: initialisation",
            "use model_type: t5, or leave it out",
        )
    heads = [  # (buckets, heads) each; a half of the buckets is before, a half behind, and the nearest are one token
        parameter
        for name, parameter in model.named_parameters()
        if name.startswith("encoder") and name.endswith("relative_attention_bias.weight")
    ]
    with torch.no_grad():
        for bias in heads:
            after, before = bias.shape[0] // 2 + 1, 1
            for head, bucket in zip(range(bias.shape[1]), (after, before), strict=False):
                bias[bucket, head] += NEIGHBOURS
        for _, layer in crossing:
            nn.init.eye_(layer.weight)
        for _, layer in outputs:
            layer.weight.mul_(FEED_FORWARD)


def _linear(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear)]
