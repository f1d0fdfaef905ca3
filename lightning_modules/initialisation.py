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


SAME_TOKEN = 8.0
"""Attention (before the softmax) of a binding start's third head to another place of the same token."""
FARTHER = 0.5
"""What each bucket of distance takes from the attention of its fourth and fifth head."""
UNSEEN = -10.0
STARTS = ("copying", "binding")


def initialise(model: PreTrainedModel, start: str) -> None:
    """Set the weights of a new T5 anew, in place.

    ``copying``: a decoder that begins by repeating what it attends to. Values and outputs of cross-attention are the
    identity, so that a token's embedding reaches the output layer (which is the same embedding) as it is, and
    feed-forward outputs are small, so that it is not drowned. A small T5 learns to copy names with it, which it does
    not from T5's own start. And two heads of the encoder see a token's neighbours: the marks around an answer mean
    something only to whom they stand next to, and a small T5 else ignores them for a thousand steps.

    ``binding``: and three further heads of the encoder, for what belongs together across a passage. One looks for the
    same token elsewhere, in every layer: the name that a question asks about, in the passage. One looks at what stands
    shortly before, one at what stands shortly behind: whose year this is. Without them a small model learns by heart
    who asks for what in its training rows, and answers about other people no better than by chance.

    Raises:
        WrongInput: An unknown start, or one that the model's family or number of heads has no place for.
    """
    if start not in STARTS:
        raise WrongInput(f"unknown initialisation {start!r}", "model: initialisation", f"one of {', '.join(STARTS)}")
    crossing = [layer for layer in _linear(model) if re.search(r"EncDecAttention\.[vo]$", layer[0])]
    outputs = [layer for layer in _linear(model) if layer[0].endswith("DenseReluDense.wo")]
    if not crossing or not outputs:
        raise WrongInput(
            f"{type(model).__name__} has no {start} start",
            "model: initialisation",
            "use model_type: t5, or leave it out",
        )
    if start == "binding" and model.config.num_heads < 5:
        raise WrongInput(
            f"a binding start needs 5 heads, and the model has {model.config.num_heads}",
            "model: num_heads",
            "give it 5 or more (d_kv can be smaller), or initialisation: copying",
        )
    with torch.no_grad():
        for bias in _distance_biases(model):
            after, before = bias.shape[0] // 2 + 1, 1
            for head, bucket in zip(range(bias.shape[1]), (after, before), strict=False):
                bias[bucket, head] += NEIGHBOURS
        for _, layer in crossing:
            nn.init.eye_(layer.weight)
        for _, layer in outputs:
            layer.weight.mul_(FEED_FORWARD)
        if start == "binding":
            _bind(model)


def _bind(model: PreTrainedModel) -> None:
    size = model.config.d_kv
    rows = slice(2 * size, 3 * size)  # of the third head
    queries, keys = (
        [
            layer
            for name, layer in _linear(model)
            if name.startswith("encoder") and name.endswith(f"SelfAttention.{part}")
        ]
        for part in "qk"
    )
    for query, key in zip(queries, keys, strict=True):
        same = nn.init.orthogonal_(
            torch.empty(size, query.weight.shape[1])
        )  # |same · x|² is about d_kv where |x|² is d
        key.weight[rows] = same
        query.weight[rows] = same * (SAME_TOKEN / size)
    for bias in _distance_biases(model):
        bias[0, 2] = UNSEEN  # not itself
        half = bias.shape[0] // 2
        for head, nearest in ((3, 0), (4, half)):
            bias[:, head] = UNSEEN
            bias[nearest : nearest + half, head] = -FARTHER * torch.arange(half)


def _distance_biases(model: nn.Module) -> list[nn.Parameter]:
    """(buckets, heads) each; a half of the buckets is before, a half behind, and the nearest are one token."""
    return [
        parameter
        for name, parameter in model.named_parameters()
        if name.startswith("encoder") and name.endswith("relative_attention_bias.weight")
    ]


def _linear(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear)]
