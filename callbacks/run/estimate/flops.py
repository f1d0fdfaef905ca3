"""Floating-point operations of a dense decoder.  Pure.

A product of (m, k) and (k, n) counts 2·m·k·n, as ``torch.utils.flop_counter`` counts; attention counts the whole
square of the length, masked or not. With the backward pass a product counts three times: once for the result, once for
each factor's gradient (Kaplan et al. 2020, arXiv 2001.08361, section 2.1; Korthikanti et al. 2022, arXiv 2205.05198,
appendix A).
"""

from callbacks.run.estimate.adapter import Adapter
from callbacks.run.estimate.shape import ModelShape


def body_flops(shape: ModelShape, tokens: float, scores: float) -> float:
    """One forward pass through the layers, without the head: 2·(linear weights)·tokens + 4·(query width)·scores·layers.

    Args:
        shape: Of the model.
        tokens: All that the pass reads, padding included.
        scores: Pairs of query and key: Σ L² over rows of length L.
    """
    return 2.0 * shape.linear * tokens + 4.0 * shape.query * scores * shape.layers


def head_flops(shape: ModelShape, tokens: float, vocabulary: int) -> float:
    """Logits of ``tokens`` positions over ``vocabulary`` rows: 2·h·V a position."""
    return 2.0 * shape.hidden * vocabulary * tokens


def training_flops(
    shape: ModelShape,
    tokens: float,
    scores: float,
    predicted: float,
    vocabulary: int,
    checkpointing: bool,
    logits_kept: bool = False,
    adapter: Adapter | None = None,
) -> float:
    """Forward and backward pass of the policy.

    The layers count three times, and once more with gradient checkpointing, which repeats their forward pass up to the
    last product, whose result nothing needs (the feed-forward's output: h·f weights a layer). The head counts four
    times, since the backward pass makes the logits again, or three times where ``logprobs.py`` keeps them.

    Args:
        shape: Of the policy.
        tokens: All that the pass reads, padding included.
        scores: Σ L² over rows.
        predicted: Response tokens, which alone reach the head.
        vocabulary: Rows of the softmax.
        checkpointing: Whether the layers' activations are made again.
        logits_kept: Whether the backward pass finds the logits there (``kept_logit_bytes``).
        adapter: What is trained in place of all weights: then frozen products count twice, those of the adapter three
            times, and nothing needs the gradient of the head's weight, nor, without checkpointing (for which
            transformers asks it), of the embeddings.
    """
    once = body_flops(shape, tokens, scores)
    if adapter is not None:
        beside = 2.0 * adapter.parameters * tokens
        unneeded = 0.0 if checkpointing else 2.0 * shape.hidden * (shape.query + 2 * shape.key_value) * tokens
        frozen = 2.0 * shape.linear * tokens
        again = once + beside if checkpointing else 0.0
        head = (2 if logits_kept else 3) * head_flops(shape, predicted, vocabulary)
        return 3 * (once + beside) - frozen - unneeded + again + head
    again = once - 2.0 * shape.hidden * shape.intermediate * shape.layers * tokens if checkpointing else 0.0
    return 3 * once + again + (3 if logits_kept else 4) * head_flops(shape, predicted, vocabulary)


def frozen_flops(shape: ModelShape, tokens: float, scores: float, predicted: float, vocabulary: int) -> float:
    """One forward pass of a frozen model with the head on response tokens. Arguments: see ``training_flops``."""
    return body_flops(shape, tokens, scores) + head_flops(shape, predicted, vocabulary)


def sampling_flops(shape: ModelShape, rows: float, prompt: float, new: float) -> float:
    """Answers of ``new`` tokens to prompts of ``prompt``, with a cache of keys and values.

    All rows of a batch go on until the longest has ended, so both lengths are of the padded batch.
    """
    # Token t of an answer looks at prompt + t positions.
    scores = prompt * prompt + new * prompt + new * (new + 1) / 2
    return body_flops(shape, rows * (prompt + new), rows * scores) + head_flops(shape, rows * new, shape.vocabulary)
