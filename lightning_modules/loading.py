"""Any family's model from a folder, the Hub or nothing, or a refusal in one line."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from datamodules.wrong_input import WrongInput
from lightning_modules.adapter_folders import adapter_base, load_into
from lightning_modules.initialisation import initialise
from lightning_modules.quantization import keep_differentiable, quantization_settings

ModelSource = str | Path | Mapping[str, Any]
"""A Hugging Face folder or Hub id to load, or the fields of a new model's config (``model_type`` among them).

The folder may be an adapter's, as peft writes it: it is merged into its base model.

A new model's fields may also hold ``initialisation``: see ``lightning_modules/initialisation.py``.
"""

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}


def check_dtype(dtype: str, key: str = "dtype") -> None:
    """Refuse what no weights are held in.

    Args:
        dtype: Its name.
        key: What sets it.

    Raises:
        WrongInput: It is none of ``DTYPES``.
    """
    if dtype not in DTYPES:
        raise WrongInput(f"unknown dtype {dtype!r}", key, f"one of {', '.join(DTYPES)}")


def config_of(source: ModelSource) -> PreTrainedConfig | None:
    """The source's config; None where it has none that can be read, which building it will tell."""
    try:
        if isinstance(source, Mapping):
            return AutoConfig.for_model(source["model_type"])
        return AutoConfig.from_pretrained(str(adapter_base(source) or source))
    except Exception:  # a dozen kinds; whatever it is comes out again when the model is built
        return None


def read_config(source: str) -> PreTrainedConfig:
    """A folder's or Hub id's config; an adapter's is its base's.

    Raises:
        WrongInput: There is none that can be read.
    """
    try:
        return AutoConfig.from_pretrained(adapter_base(source) or source)
    except Exception as error:  # a dozen kinds, as when a model is loaded
        mend = "name a Hugging Face model folder or a Hub id (and check the network)"
        raise WrongInput(f"no model's config can be loaded: {_reason(error)}", source, mend) from error


def build_from(
    source: ModelSource,
    tokenizer: PreTrainedTokenizerBase | None,
    kind: Any,
    dtype: str,
    attn: str | None,
    quantization: str | None = None,
    weights: bool = True,
) -> PreTrainedModel:
    """The model by one of transformers' auto classes, ``kind``; arguments and errors: see ``build_language_model``."""
    check_dtype(dtype)
    base = adapter_base(source)
    if not weights:
        with torch.device("meta"):
            if isinstance(source, Mapping):
                return _new_model(source, tokenizer, kind, DTYPES[dtype], attn)
            return _made(kind, read_config(str(source)), DTYPES[dtype], attn)
    if quantization is not None and (isinstance(source, Mapping) or base is not None):
        what = "a new model" if base is None else "an adapter"
        raise WrongInput(f"{what} is not quantised", "quantization", "name a trained model, merged, or set it to null")
    if isinstance(source, Mapping):
        return _new_model(source, tokenizer, kind, DTYPES[dtype], attn)
    if base is not None:
        return load_into(build_from(base, tokenizer, kind, dtype, attn), str(source))
    return _load_model(str(source), kind, DTYPES[dtype], attn, quantization)


def _new_model(
    fields: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase | None,
    kind: Any,
    dtype: torch.dtype,
    attn: str | None,
) -> PreTrainedModel:
    settings = dict(fields)
    if "model_type" not in settings:
        raise WrongInput("a new model's config has no model_type", "model", "name a family, e.g. model_type: qwen2")
    start = settings.pop("initialisation", None)
    if tokenizer is not None:
        settings.setdefault("vocab_size", len(tokenizer))
        settings["eos_token_id"], settings["pad_token_id"] = tokenizer.eos_token_id, tokenizer.pad_token_id
        settings.setdefault("bos_token_id", tokenizer.bos_token_id)
    try:
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
            config.decoder_start_token_id = config.pad_token_id
    except Exception as error:  # transformers checks little itself: whatever the wrong field leads to comes out
        raise _no_model(error) from error
    model = _made(kind, config, dtype, attn)
    if start is not None:
        initialise(model, start)
    return model


def _made(kind: Any, config: PreTrainedConfig, dtype: torch.dtype, attn: str | None) -> PreTrainedModel:
    try:
        return kind.from_config(config, dtype=dtype, attn_implementation=attn)
    except Exception as error:  # the same
        raise _no_model(error) from error


def _no_model(error: Exception) -> WrongInput:
    return WrongInput(f"no model can be made of it: {_reason(error)}", "model", "see transformers' config fields")


def _load_model(
    source: str, kind: Any, dtype: torch.dtype, attn: str | None, quantization: str | None
) -> PreTrainedModel:
    path = Path(source)
    if not path.is_dir() and (path.is_absolute() or path.is_file() or source.startswith(".")):
        raise WrongInput("there is no such folder", source, "name a Hugging Face model folder or a Hub id")
    quantized = quantization_settings(quantization, dtype)
    try:
        settings: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn, "output_loading_info": True}
        model, info = kind.from_pretrained(source, **settings, **quantized)
    except Exception as error:  # a dozen kinds, from the config's checks to safetensors'
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise  # the disk's own trouble, told as such
        raise WrongInput(
            f"no model can be loaded: {_reason(error)}", source, "name a Hugging Face model folder or a Hub id"
        ) from error
    keep_differentiable(model)
    if missing := sorted(key for key in info["missing_keys"] if "pooler" not in key):
        # transformers fills them with random numbers and goes on
        raise WrongInput(
            f"{len(missing)} weights are missing, {missing[0]} first", source, "download or export it again"
        )
    return model


def _reason(error: Exception) -> str:
    return textwrap.shorten(str(error), 240, placeholder=" …") or type(error).__name__
