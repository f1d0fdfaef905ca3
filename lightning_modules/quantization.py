"""Frozen weights in fewer bits, by bitsandbytes: int8 (arXiv 2208.07339) and nf4 (QLoRA, arXiv 2305.14314)."""

from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from datamodules.wrong_input import WrongInput

KINDS = ("int8", "nf4")
"""nf4: NormalFloat of 4 bits a weight, one scale a block of 64, the scales in 8 bits (double quantization)."""


def check_quantization(kind: str | None, key: str = "quantization") -> None:
    """Refuse another kind, or one that cannot be had.

    Args:
        kind: None, or one of ``KINDS``.
        key: What sets it, for messages.

    Raises:
        WrongInput: Unknown, or bitsandbytes is not installed.
    """
    if kind is None:
        return
    if kind not in KINDS:
        raise WrongInput(f"unknown quantization {kind!r}", key, f"null, or one of {', '.join(KINDS)}")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise WrongInput(f"{kind} needs bitsandbytes", key, "pip install smoothtalk[quantized]") from error


def quantization_settings(kind: str | None, dtype: torch.dtype) -> dict[str, Any]:
    """What ``from_pretrained`` takes to quantise linear layers but the head; products are made in ``dtype``."""
    check_quantization(kind)
    if kind is None:
        return {}
    if kind == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    nf4: dict[str, Any] = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype, **nf4)}


def keep_differentiable(model: nn.Module) -> None:
    """Let no layer in 4 bits repack its weights when it is evaluated on a CPU: its gradients would be lost for good."""
    for part in model.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
