"""What of a model's architecture decides how much it computes and keeps.  Pure: numbers from a built model."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

IN_A_LAYER = re.compile(r"\.\d+\.")
"""In the name of what repeats with the layers; embeddings, the last norm and the head have no number."""


class Product(NamedTuple):
    """A linear layer within the layers."""

    name: str
    """The last of its names, e.g. ``q_proj``."""
    inputs: int
    outputs: int


class ModelShape(NamedTuple):
    """A dense decoder. Widths are elements a token and layer, counts are of elements where not said otherwise."""

    parameters: int
    """All of them; tied ones once."""
    linear: int
    """Weights of the layers' matrix products."""
    largest: int
    """Of the largest parameter: the embedding, as a rule."""
    layers: int
    hidden: int
    heads: int
    query: int
    """Heads times their width."""
    key_value: int
    """Key heads times their width; the values are as many."""
    intermediate: int
    """Inside the feed-forward."""
    gated: bool
    """The feed-forward multiplies two branches (SwiGLU, GeGLU)."""
    norms: int
    """Sum of the widths of a layer's root-mean-square norms."""
    norms_fused: int
    """Sum of the widths of a layer's ``nn.LayerNorm``, which keep their input only."""
    norm_rows: int
    """Means or variances that a layer keeps a token: heads count one each where queries and keys are normalised."""
    vocabulary: int
    """Rows of the head, padded ones included."""
    eager: bool
    """Attention as plain products, which keep their scores."""
    softcap: bool
    """Attention scores are bounded by a tanh, which is kept too."""
    outside: int = 0
    """Parameters in no layer: embeddings, last norm, head; tied ones once."""
    products: tuple[Product, ...] = ()
    """All of the layers' linear layers, one by one."""


def shape_of(model: nn.Module) -> ModelShape:
    """The shape of a causal language model as transformers builds it; its weights are not looked at (meta will do).

    Raises:
        ValueError: It is no dense decoder: an encoder–decoder, a mixture of experts, a state-space model.
    """
    config: Any = model.config
    config = config.get_text_config()
    matrices = {name: p for name, p in model.named_parameters() if IN_A_LAYER.search(name) and p.ndim > 1}
    heads = getattr(config, "num_attention_heads", None)
    layers = getattr(config, "num_hidden_layers", None)
    stacked = any(p.ndim > 2 for p in matrices.values()) or getattr(config, "num_experts", None)
    if (
        not isinstance(heads, int)
        or not isinstance(layers, int)
        or stacked
        or config.is_encoder_decoder
        or not matrices
    ):
        raise ValueError("it is no dense decoder")
    hidden: int = config.hidden_size
    width: int = getattr(config, "head_dim", None) or hidden // heads
    key_value = (getattr(config, "num_key_value_heads", None) or heads) * width
    linear = sum(p.numel() for p in matrices.values())
    intermediate = _intermediate(config)
    feed_forward = linear // layers - 2 * hidden * (heads * width + key_value)
    norms = list(_norms(model, heads, key_value // width))
    return ModelShape(
        parameters=sum(p.numel() for p in model.parameters()),
        linear=linear,
        largest=max(p.numel() for p in model.parameters()),
        layers=layers,
        hidden=hidden,
        heads=heads,
        query=heads * width,
        key_value=key_value,
        intermediate=intermediate,
        gated=feed_forward > 2.5 * hidden * intermediate,
        norms=sum(norm.width for norm in norms if not norm.fused) // layers,
        norms_fused=sum(norm.width for norm in norms if norm.fused) // layers,
        norm_rows=sum(norm.rows for norm in norms) // layers,
        vocabulary=config.vocab_size,
        eager=config._attn_implementation == "eager",
        softcap=bool(getattr(config, "attn_logit_softcapping", None)),
        outside=sum(p.numel() for name, p in model.named_parameters() if not IN_A_LAYER.search(name)),
        products=tuple(_product(model, name, p) for name, p in matrices.items()),
    )


def _product(model: nn.Module, name: str, weight: nn.Parameter) -> Product:
    part = name.removesuffix(".weight")
    turned = type(model.get_submodule(part)).__name__ == "Conv1D"  # GPT-2's, whose weight is (in, out)
    outputs, inputs = reversed(weight.shape) if turned else weight.shape
    return Product(part.rpartition(".")[2], inputs, outputs)


def _intermediate(config: Any) -> int:
    for name in ("intermediate_size", "n_inner", "ffn_dim"):
        if isinstance(size := getattr(config, name, None), int):
            return size
    return 4 * config.hidden_size


class _Norm(NamedTuple):
    width: int
    rows: int
    fused: bool


def _norms(model: nn.Module, heads: int, key_heads: int) -> Iterator[_Norm]:
    """The norms of all layers; those of queries and keys stand for as many as there are heads."""
    for name, part in model.named_modules():
        weight = getattr(part, "weight", None)
        if not IN_A_LAYER.search(f"{name}.") or "norm" not in f"{name} {type(part).__name__}".lower() or weight is None:
            continue
        times = {"q_norm": heads, "k_norm": key_heads}.get(name.rpartition(".")[2], 1)
        fused = isinstance(part, nn.LayerNorm)
        yield _Norm(times * weight.numel(), times * (2 if fused else 1), fused)
