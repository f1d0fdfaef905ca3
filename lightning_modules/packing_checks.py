"""What an attention that is asked for by name needs, and what a model's own attention is like."""

import torch
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from datamodules.wrong_input import WrongInput

FLEX = "flex_attention"
FLASH = ("flash_attention_3", "flash_attention_2")
"""transformers' names of them; of several that are installed the first is taken."""
FORCED = {"flex": "FlexAttention", "flash": "FlashAttention"}
"""Settings of ``packing`` that name an attention on CUDA."""


def attention_dropout(model: PreTrainedModel) -> float:
    """Of a family's config."""
    config = model.config.get_text_config()
    return max(float(getattr(config, name, 0.0) or 0.0) for name in ("attention_dropout", "attn_pdrop"))


def installed_flash(model: PreTrainedModel | None) -> str | None:
    """FlashAttention's name, if there is one here that this model can train with; kernels from the Hub are left alone.

    Version 3 has no dropout.
    """
    third, second = FLASH
    if is_flash_attn_3_available() and not (model is not None and attention_dropout(model)):
        return third
    return second if is_flash_attn_2_available() else None


def window_of(model: PreTrainedModel, *, sliding: bool = True) -> float:
    """Tokens of the shortest sliding window or chunk among the layers.

    Args:
        model: Only its config is looked at.
        sliding: False: of the chunks alone.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and set(kinds) == {"full_attention"}:
        return float("inf")
    windows = [getattr(config, name, None) for name in ("attention_chunk_size", *["sliding_window"] * sliding)]
    return min((window for window in windows if window), default=float("inf"))


def refused(setting: str, why: str) -> WrongInput:
    """That an attention was asked for and cannot be."""
    return WrongInput(why, f"packing={setting}", "set auto, or sdpa")


def check_forced(setting: str, model: PreTrainedModel | None, *, cuda: bool) -> None:
    """Refuse an attention that is asked for and cannot be.

    Args:
        setting: Of ``packing``; those that name no attention pass.
        model: What trains with it; its weights are not looked at. None: not known yet.
        cuda: Whether it will be on CUDA.

    Raises:
        WrongInput: It will not; or FlashAttention would have to be here, and is not; or FlexAttention is asked for, and
            the model's attention has dropout.
    """
    if setting not in FORCED:
        return
    if not cuda:
        raise refused(setting, f"{FORCED[setting]} trains on CUDA only")
    if setting == "flash" and torch.cuda.is_available() and installed_flash(model) is None:
        raise refused(setting, "FlashAttention is not installed: flash-attn 2.3.3, or 3 for attention without dropout")
    if setting == "flex" and model is not None and (dropout := attention_dropout(model)):
        what = f"FlexAttention has no dropout, and the attention of {type(model).__name__} has one of {dropout}"
        raise refused(setting, what)
