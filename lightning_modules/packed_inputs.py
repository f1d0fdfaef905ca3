"""Packed rows as each kind of attention takes them: blocks, a block mask, sequences end to end, or a dense mask."""

from typing import Any

import torch
from transformers import PreTrainedModel

from datamodules.batches import PackedTokenBatch
from lightning_modules.packed_attention import BLOCKS, blocks_of, dense_mask, flex_mask
from lightning_modules.packing_checks import FLASH, FLEX
from lightning_modules.unshared import unshared


def prepared(
    model: PreTrainedModel, batch: PackedTokenBatch, attention: str
) -> tuple[PackedTokenBatch, dict[str, Any]]:
    """The rows laid out for an attention, and what the forward pass takes beside the token ids.

    Args:
        model: It has this attention already.
        batch: Packed, with shared prompts.
        attention: ``BLOCKS``, ``FLEX``, of ``FLASH``, or a model's own, which takes a dense mask.
    """
    if attention in FLASH:
        batch = unshared(batch)
        return batch, {"position_ids": batch.position_ids, "attention_mask": None, **_sequences(batch)}
    device = batch.input_ids.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype
    if attention == FLEX:
        mask: Any = flex_mask(batch)
    elif attention == BLOCKS:
        # Four dimensions, so that transformers hands it on as it is; what is seen is said by the blocks.
        placeholder = torch.zeros((1, 1, 1, 1), dtype=dtype, device=batch.input_ids.device)
        placed = {"attention_mask": placeholder, "blocks": blocks_of(batch, dtype)}
        return batch, {"position_ids": batch.position_ids, **placed}
    else:
        batch = batch.apart()
        mask = dense_mask(batch, dtype)
    return batch, {"position_ids": batch.position_ids, "attention_mask": mask}


def _sequences(batch: PackedTokenBatch) -> dict[str, Any]:
    """Where each begins, as transformers hands it on to FlashAttention; else it would look for it in every layer."""
    sizes = [prompt.length + tokens for prompt in batch.layout for _, tokens in prompt.responses]
    starts = torch.tensor([0, *sizes]).cumsum(0, dtype=torch.int32).to(batch.input_ids.device)
    longest = max(sizes)
    return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}
