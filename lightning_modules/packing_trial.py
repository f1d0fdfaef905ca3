"""How a model would read packed rows, and whether it can, before any weights are there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from datamodules.batches import PackingSetting
from lightning_modules.devices import asks_for_cuda
from lightning_modules.language_model import build_language_model, build_skeleton
from lightning_modules.loading import ModelSource
from lightning_modules.packed_attention import BLOCKS
from lightning_modules.packing import Packing
from lightning_modules.packing_checks import FLEX, FORCED, attention_dropout, check_forced, installed_flash, window_of

SMALL: dict[str, int] = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "head_dim": 8,
    "vocab_size": 64,
    "n_layer": 2,
    "n_embd": 32,
    "n_head": 4,
}
"""Sizes of the small model; those that its family has."""
MOST_WEIGHTS = 10_000_000
NAMES = {BLOCKS: "blocks", FLEX: "flex"}
"""How a plan names them; a model's own attention is ``dense``: it takes a dense mask."""


def planned_reading(skeleton: PreTrainedModel, packing: PackingSetting, cuda: bool) -> tuple[str | None, float]:
    """The attention by which packed rows will be read, and the longest sequence that can be.

    A small model of the same family, random and on the CPU, is put to ``Packing``'s own trial. A family that cannot be
    made small is taken for one that passes it.

    Args:
        skeleton: A model without weights.
        packing: The setting.
        cuda: FlexAttention and FlashAttention are for CUDA; without a GPU here they are taken to work where the family
            names them, the latter where it is asked for or installed.

    Returns:
        ``blocks``, ``flex``, ``flash`` or ``dense``; None: rows will be padded. And the model's window in tokens.
    """
    if packing == "off":
        return None, 0
    window = window_of(skeleton)
    wants_flex = cuda and packing in ("auto", "flex") and attention_dropout(skeleton) == 0
    if wants_flex and getattr(skeleton, "_supports_flex_attn", False):
        return "flex", window
    wants_flash = cuda and (packing == "flash" or (packing == "auto" and installed_flash(skeleton) is not None))
    if wants_flash and getattr(skeleton, "_supports_flash_attn", False):
        return "flash", window_of(skeleton, sliding=False)
    own = str(skeleton.config._attn_implementation)
    try:
        choice = Packing("sdpa").choose(_small(skeleton))
    except Exception:  # fields that only fit the model's own sizes
        return "dense" if own == "eager" else "blocks", window
    if choice.attention is None:
        return None, 0
    return NAMES.get(choice.attention, "dense"), window


def check_packing(*, packing: str, accelerator: str, model: ModelSource | None = None) -> None:
    """Refuse a setting before any stage runs, as far as settings and a config tell.

    Args:
        packing: The setting.
        accelerator: The trainer's.
        model: What reads packed rows, if its folder is here.

    Raises:
        WrongInput: Another setting, or FlexAttention or FlashAttention where it cannot be.
    """
    Packing(packing)  # type: ignore[arg-type]
    if packing in FORCED:
        here = isinstance(model, Mapping) or (model is not None and Path(model).is_dir())
        check_forced(packing, build_skeleton(model) if here else None, cuda=asks_for_cuda(accelerator))  # type: ignore[arg-type]


def _small(skeleton: PreTrainedModel) -> PreTrainedModel:
    fields: dict[str, Any] = skeleton.config.get_text_config().to_dict()
    shared = (fields.get("num_key_value_heads") or 0) != (fields.get("num_attention_heads") or 0)
    fields |= {name: size for name, size in SMALL.items() if name in fields}
    if "num_key_value_heads" in fields:
        fields["num_key_value_heads"] = 2 if shared else fields["num_attention_heads"]
    if fields.get("layer_types"):
        fields["layer_types"] = fields["layer_types"][: SMALL["num_hidden_layers"]]
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        fields[name] = 0
    if sum(p.numel() for p in build_skeleton(fields).parameters()) > MOST_WEIGHTS:
        raise ValueError("its sizes go by other names")
    return build_language_model(fields)
