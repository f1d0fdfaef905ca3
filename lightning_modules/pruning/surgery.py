"""Planning for a model at hand, and pruning it so that its config tells the truth."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from datamodules.wrong_input import WrongInput
from lightning_modules.pruning.groups import Coupled, keep_only, kept_channels
from lightning_modules.pruning.plan import Anatomy, Widths, ranked_widths

PRUNABLE = ("llama", "qwen2", "mistral")
"""Model types whose layers are known; others may hide what hangs on a width."""
PRUNED = ("heads", "intermediate", "hidden")


def check_prunable(model: PreTrainedModel) -> None:
    """Pass if the model's type is one of ``PRUNABLE``.

    Raises:
        WrongInput: It is not.
    """
    if model.config.model_type not in PRUNABLE:
        raise WrongInput(
            f"a model of type {model.config.model_type!r} cannot be pruned",
            str(model.config.name_or_path or "model"),
            f"take one of type {', '.join(PRUNABLE)}",
        )


def widths_of(model: PreTrainedModel) -> Widths:
    """The widths that the model's config states."""
    config: Any = model.config
    return Widths(**{name: getattr(config, name) for name in Widths.__dataclass_fields__})


def count_parameters(model: PreTrainedModel) -> int:
    """How many the model has; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """What pruning leaves of the model as it is."""
    body: Any = model.base_model
    layer, embedding = body.layers[0], body.embed_tokens.weight
    tied = model.get_output_embeddings().weight is embedding  # type: ignore[union-attr]
    anatomy = Anatomy(
        layers=len(body.layers),
        head_dim=layer.self_attn.head_dim,
        embedding_rows=len(embedding) * (1 if tied else 2),
        query_bias=layer.self_attn.q_proj.bias is not None,
        output_bias=layer.self_attn.o_proj.bias is not None,
        mlp_bias=layer.mlp.up_proj.bias is not None,
    )
    return replace(anatomy, others=count_parameters(model) - anatomy.parameters(widths_of(model)))


def check_widths(ratio: float, pruned: Collection[str], multiple_of: int) -> None:
    """Refuse what no model could be pruned to; arguments: see ``plan_widths``.

    Raises:
        WrongInput: No such ratio, no such width, or no such multiples.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1:
        raise WrongInput(f"the ratio is the share to take out, got {ratio}", "prune_ratio", "above 0 and below 1")
    named = [pruned] if isinstance(pruned, str) else [str(name) for name in pruned or ()]
    if not named or set(named) - set(PRUNED):
        said = ", ".join(named) or "none"
        raise WrongInput(f"no such widths: {said}", "prune_widths", f"a list of some of {', '.join(PRUNED)}")
    if isinstance(multiple_of, bool) or not isinstance(multiple_of, int) or multiple_of < 1:
        raise WrongInput(f"sizes cannot be multiples of {multiple_of}", "prune_multiple_of", "at least 1")


def plan_widths(model: PreTrainedModel, ratio: float, pruned: Collection[str], multiple_of: int = 1) -> Widths:
    """The most even widths for the ratio that the model's own config class accepts.

    Args:
        model: Of a type that can be pruned.
        ratio: Share of all parameters to take out.
        pruned: Which of ``PRUNED``.
        multiple_of: Of hidden and intermediate sizes.

    Raises:
        WrongInput: No such ratio, no such width, or no widths that come within 1 % of what is wanted.
    """
    check_widths(ratio, pruned, multiple_of)
    for widths in ranked_widths(widths_of(model), anatomy_of(model), ratio, pruned, multiple_of):
        if _accepted(model, widths):
            return widths
    raise WrongInput(
        f"no widths leave {1 - ratio:.4g} of {count_parameters(model)} parameters within 1 %",
        "prune_ratio",
        f"lower it, prune more of {', '.join(PRUNED)} (prune_widths=), or lower prune_multiple_of",
    )


def prune(model: PreTrainedModel, after: Widths, groups: Sequence[Coupled], scores: Sequence[Tensor]) -> None:
    """Prune the model to these widths, in place: its weights and its config.

    Args:
        model: Of a type that can be pruned, without gradients.
        after: As planned for it.
        groups: Its ``coupled_layers`` of the widths that change.
        scores: Of the channels of each of them.

    Raises:
        RuntimeError: See ``check_told``.
    """
    before, head_dim = widths_of(model), anatomy_of(model).head_dim
    for group, of_group in zip(groups, scores, strict=True):
        keep_only(group, kept_channels(of_group, group, before, after, head_dim))
    model.config = _pruned_config(model, after)
    body: Any = model.base_model
    body.config = model.config
    for layer in body.layers:
        layer.self_attn.config = model.config
        layer.self_attn.num_key_value_groups = after.num_attention_heads // after.num_key_value_heads
    model.tie_weights()
    check_told(model)


def with_widths(model: PreTrainedModel, after: Widths) -> PreTrainedModel:
    """An empty model, on torch's meta device, of the family and config of this one, at other widths."""
    with torch.device("meta"):
        return type(model)(_pruned_config(model, after))


def check_told(model: PreTrainedModel) -> None:
    """Pass if an empty model made from the config, as it will be read again, has the shapes that the model has.

    Raises:
        RuntimeError: It has not: a defect of ours.
    """
    config = type(model.config).from_dict(model.config.to_dict())
    with torch.device("meta"):
        told = {name: tensor.shape for name, tensor in type(model)(config).state_dict().items()}
    if told != (found := {name: tensor.shape for name, tensor in model.state_dict().items()}):
        wrong = sorted(name for name in told.keys() | found.keys() if told.get(name) != found.get(name))
        raise RuntimeError(f"the pruned config does not describe {wrong[0]}")


def _pruned_config(model: PreTrainedModel, widths: Widths) -> PreTrainedConfig:
    config: Any = copy.deepcopy(model.config)
    for name, value in asdict(widths).items():
        setattr(config, name, value)
    config.head_dim = anatomy_of(model).head_dim  # no longer hidden size ÷ heads
    return config


def _accepted(model: PreTrainedModel, widths: Widths) -> bool:
    """Whether the config class takes these widths: Llama's wants a hidden size that its heads divide."""
    try:
        type(model.config).from_dict(_pruned_config(model, widths).to_dict())
    except Exception:  # its validation raises kinds of its own
        return False
    return True
