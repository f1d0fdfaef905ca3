"""Build, load and freeze language models: the only place that touches transformers' model classes."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from datamodules.wrong_input import WrongInput
from lightning_modules.logprobs import OutputHead, logits_of

ModelSource = str | Path | Mapping[str, Any]
"""A Hugging Face folder or Hub id to load, or the fields of a new model's config (``model_type`` among them)."""

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}


def build_language_model(
    source: ModelSource,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    gradient_checkpointing: bool = False,
) -> PreTrainedModel:
    """Load a pretrained causal language model, or make a new one from a config.

    Args:
        source: Where from; see ``ModelSource``.
        tokenizer: Gives a new model its vocabulary size and special tokens. Not needed to load.
        dtype: Of the weights; one of ``DTYPES``.
        attn_implementation: As transformers names it (None: the best that the family has here).
        gradient_checkpointing: Recompute activations in the backward pass (in ``train()`` mode only).

    Raises:
        WrongInput: The source is no model or lacks weights, or a new model's config is not accepted.
    """
    if dtype not in DTYPES:
        raise WrongInput(f"unknown dtype {dtype!r}", "dtype", f"one of {', '.join(DTYPES)}")
    if isinstance(source, Mapping):
        model = _new_model(source, tokenizer, DTYPES[dtype], attn_implementation)
    else:
        model = _load_model(str(source), DTYPES[dtype], attn_implementation)
    _check_head(model)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def freeze(model: PreTrainedModel) -> PreTrainedModel:
    """The same model in eval mode (no dropout), without gradients."""
    return model.eval().requires_grad_(False)


def hidden_states(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, **settings: Any) -> Tensor:
    """Last hidden states (N, L, h), the output head left out so that no logits are made."""
    settings |= {"attention_mask": attention_mask, "use_cache": False}
    return model.base_model(input_ids=input_ids, **settings).last_hidden_state


def output_head(model: PreTrainedModel, vocabulary: int | None = None) -> OutputHead:
    """The model's head, cut to the first ``vocabulary`` rows (None: all rows).

    Sizes of one family pad their vocabulary differently (Qwen2.5: 151936 rows, or 152064); the padded rows stand for
    no token, so the softmax runs over the tokenizer's real vocabulary by default.

    Raises:
        WrongInput: The model has fewer rows than the vocabulary.
    """
    layer = model.get_output_embeddings()
    if not isinstance(layer, nn.Linear):
        raise WrongInput(
            f"{type(model).__name__} has no linear output head", "the model", "use a causal language model"
        )
    weight, bias = layer.weight, layer.bias
    if vocabulary is not None and vocabulary != weight.shape[0]:
        if vocabulary > weight.shape[0]:
            raise WrongInput(
                f"the tokenizer has {vocabulary} tokens but the model only {weight.shape[0]} vocabulary rows",
                str(model.config.name_or_path or type(model).__name__),
                "use the tokenizer that belongs to the model",
            )
        weight, bias = weight[:vocabulary], None if bias is None else bias[:vocabulary]
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    return OutputHead(weight, bias, scale / divisor, getattr(config, "final_logit_softcapping", None))


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a turn: the tokenizer's, and those of the model's generation config."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in [tokenizer.eos_token_id, *listed] if i is not None})


def _new_model(
    fields: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None, dtype: torch.dtype, attn: str | None
) -> PreTrainedModel:
    settings = dict(fields)
    if "model_type" not in settings:
        raise WrongInput("a new model's config has no model_type", "model", "name a family, e.g. model_type: qwen2")
    if tokenizer is not None:
        settings.setdefault("vocab_size", len(tokenizer))
        settings["eos_token_id"], settings["pad_token_id"] = tokenizer.eos_token_id, tokenizer.pad_token_id
        settings.setdefault("bos_token_id", tokenizer.bos_token_id)
    try:
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attn)
    except Exception as error:  # transformers checks little itself: whatever the wrong field leads to comes out
        raise WrongInput(
            f"no model can be made of it: {_reason(error)}", "model", "see transformers' config fields"
        ) from error


def _load_model(source: str, dtype: torch.dtype, attn: str | None) -> PreTrainedModel:
    path = Path(source)
    if not path.is_dir() and (path.is_absolute() or path.is_file() or source.startswith(".")):
        raise WrongInput("there is no such folder", source, "name a Hugging Face model folder or a Hub id")
    try:
        settings: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn, "output_loading_info": True}
        model, info = AutoModelForCausalLM.from_pretrained(source, **settings)  # type: ignore[misc]
    except Exception as error:  # a dozen kinds, from the config's checks to safetensors'
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise  # the disk's own trouble, told as such
        raise WrongInput(
            f"no model can be loaded: {_reason(error)}", source, "name a Hugging Face model folder or a Hub id"
        ) from error
    if missing := sorted(info["missing_keys"]):
        # transformers fills them with random numbers and goes on
        raise WrongInput(
            f"{len(missing)} weights are missing, {missing[0]} first", source, "download or export it again"
        )
    return model


@torch.no_grad()
def _check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose logits ``output_head`` does not reproduce: every log-probability would be wrong."""
    ids, training = torch.zeros((1, 2), dtype=torch.int64), model.training
    model.eval()
    theirs = model(input_ids=ids, use_cache=False).logits[0].float()
    ours = logits_of(hidden_states(model, ids, torch.ones_like(ids))[0], output_head(model)).float()
    model.train(training)
    tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.05  # half precision rounds its logits
    if (ours - theirs).abs().max() > tolerance * theirs.abs().max():
        raise WrongInput(
            f"{type(model).__name__} scales its logits in a way that is not known here",
            str(model.config.name_or_path or "the model"),
            "use another family, or teach it to output_head in lightning_modules/language_model.py",
        )


def _reason(error: Exception) -> str:
    return textwrap.shorten(str(error), 240, placeholder=" …") or type(error).__name__
