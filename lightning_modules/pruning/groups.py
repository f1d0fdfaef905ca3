"""Which layers of a decoder share a width, what each unit of it is worth, and how units are taken out."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from transformers import PreTrainedModel

from datamodules.wrong_input import WrongInput
from lightning_modules.pruning.plan import Widths

IMPORTANCES = ("taylor", "magnitude", "random")
"""Σ|weight · gradient| of the loss (Molchanov et al. 2019, arXiv 1906.10771), Σ weight², or chance."""


class Coupled(NamedTuple):
    """Layers that share one width: what goes from one of them goes from all.

    Torch-Pruning would find them by tracing; but its tracer (1.6) couples heads of queries with those of keys and
    values that several of them share, and does not come to an end on some of them. So they are named here.
    """

    width: str
    """``heads``, ``intermediate`` or ``hidden``."""
    size: int
    """Channels: units times the width of a unit."""
    outputs: Sequence[nn.Module]
    """Linear layers that lose rows, or embeddings that lose columns."""
    inputs: Sequence[nn.Linear]
    """Those that lose columns."""
    norms: Sequence[nn.Module] = ()
    """Those that lose scales."""


def torch_pruning() -> Any:
    """The library, which is an extra.

    Raises:
        WrongInput: It is not installed.
    """
    try:
        import torch_pruning as library
    except ImportError as error:
        raise WrongInput(
            "Torch-Pruning is not installed", "lightning_modules.pruning", "pip install smoothtalk[pruning]"
        ) from error
    return library


def coupled_layers(model: PreTrainedModel, pruned: Collection[str]) -> list[Coupled]:
    """The groups of a Llama-like decoder whose width is one of ``pruned``."""
    return [group for group in _all_groups(model) if group.width in pruned]


@torch.no_grad()
def channel_scores(group: Coupled, importance: str) -> Tensor:
    """(size,) float32, on the CPU: what each channel is worth, summed over the matrices of the group.

    Args:
        group: Under ``taylor`` its matrices hold gradients.
        importance: One of ``IMPORTANCES``.
    """
    library = torch_pruning()
    how = {
        "taylor": lambda: library.importance.GroupTaylorImportance(group_reduction="sum", normalizer=None),
        "magnitude": lambda: library.importance.GroupMagnitudeImportance(group_reduction="sum", normalizer=None),
        "random": library.importance.RandomImportance,
    }[importance]()
    return how(_as_library_group(group)).float().cpu()


def kept_channels(scores: Tensor, group: Coupled, before: Widths, after: Widths, head_dim: int) -> list[int]:
    """The channels that stay, in order: the units worth most; of shared keys, as many queries of each.

    Args:
        scores: (size,), as of ``channel_scores``.
        group: What they belong to.
        before: The widths that the model has.
        after: Those that it shall have.
        head_dim: Channels of a head.
    """
    if group.width == "heads":
        shared = before.num_attention_heads != before.num_key_value_heads
        rows = before.num_key_value_heads if shared else 1
        units, keep = scores.view(rows, -1, head_dim), after.num_attention_heads // rows
    else:
        units = scores.view(1, -1, 1)
        keep = after.hidden_size if group.width == "hidden" else after.intermediate_size
    best = units.sum(-1).topk(keep, dim=-1).indices
    channels = torch.arange(len(scores)).view(units.shape)
    return torch.cat([row[of_row] for row, of_row in zip(channels, best, strict=True)]).flatten().sort().values.tolist()


@torch.no_grad()
def keep_only(group: Coupled, channels: Sequence[int]) -> None:
    """Take all other channels out of the group's layers, in place."""
    library = torch_pruning()
    removed = sorted(set(range(group.size)) - set(channels))
    if not removed:
        return
    for layer in group.outputs:
        _of_outputs(library, layer)(layer, removed)
    for layer in group.inputs:
        library.prune_linear_in_channels(layer, removed)
    for norm in group.norms:
        norm.weight = library.prune_parameter_out_channels(norm.weight, removed)


def seeded(seed: int, function: Callable[[], Any]) -> Any:
    """What the function gives with the process's random state at ``seed``, which is afterwards as it was."""
    with isolate_rng():
        torch.manual_seed(seed)
        return function()


def _all_groups(model: PreTrainedModel) -> Iterator[Coupled]:
    """The hidden width, then of each layer its heads and its intermediate width."""
    body: Any = model.base_model
    head: Any = model.get_output_embeddings()
    attentions, mlps = [layer.self_attn for layer in body.layers], [layer.mlp for layer in body.layers]
    yield Coupled(
        "hidden",
        body.embed_tokens.embedding_dim,
        [body.embed_tokens, *(a.o_proj for a in attentions), *(m.down_proj for m in mlps)],
        [
            *(getattr(a, f"{name}_proj") for a in attentions for name in "qkv"),
            *(getattr(m, f"{name}_proj") for m in mlps for name in ("gate", "up")),
            head,
        ],
        [body.norm, *(getattr(b, f"{at}_layernorm") for b in body.layers for at in ("input", "post_attention"))],
    )
    shared = model.config.num_attention_heads != model.config.num_key_value_heads
    for attention, mlp in zip(attentions, mlps, strict=True):
        queries = [attention.q_proj] if shared else [attention.q_proj, attention.k_proj, attention.v_proj]
        yield Coupled("heads", attention.o_proj.in_features, queries, [attention.o_proj])
        yield Coupled("intermediate", mlp.down_proj.in_features, [mlp.gate_proj, mlp.up_proj], [mlp.down_proj])


def _of_outputs(library: Any, layer: nn.Module) -> Callable[[nn.Module, list[int]], Any]:
    embedding = isinstance(layer, nn.Embedding)
    return library.prune_embedding_out_channels if embedding else library.prune_linear_out_channels


def _as_library_group(group: Coupled) -> Any:
    """The group as Torch-Pruning's importances take it: all channels of each layer, mapped one to one."""
    library, channels = torch_pruning(), list(range(group.size))
    found = library.dependency.Group()
    functions = [(layer, _of_outputs(library, layer)) for layer in group.outputs]
    functions += [(layer, library.prune_linear_in_channels) for layer in group.inputs]
    for layer, function in functions:
        node = library.dependency.Node(layer, None)
        found.add_dep(library.dependency.Dependency(function, function, node, node), channels)
        found[-1].root_idxs = channels
    return found
