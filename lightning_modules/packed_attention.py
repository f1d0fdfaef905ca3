"""Attention over packed rows, in three ways that give one result: a dense mask, blocks, and FlexAttention.

A token sees what lies before it of its own prompt and of its own response (``PackedTokenBatch``).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from datamodules.batches import PackedTokenBatch

BLOCKS = "packed_blocks"
"""The name that ``block_attention`` has in transformers; without packed rows it is ``sdpa``."""
SIDE = 128
"""Of FlexAttention's blocks, in tokens."""
NOT_IN_BLOCKS = ("softcap", "s_aux", "position_bias")
"""What some families' attention does beside scores, mask and softmax."""


class Block(NamedTuple):
    """A prompt in its row, and what follows it."""

    row: int
    prompt: int
    """Tokens."""
    responses: list[int]
    """Tokens of each; none: padding, which nobody looks at."""
    masks: list[Tensor]
    """Of each response but the first, additive, (tokens, prompt + tokens): causal from the end of the prompt on."""


class Blocks:
    """Blocks, row by row and from left to right.

    No list: torch.compile would look into it, and compile a layer anew for each batch that is laid out otherwise.
    """

    def __init__(self, blocks: list[Block]):
        self._blocks = blocks

    def __iter__(self) -> Iterator[Block]:
        return iter(self._blocks)


def visible(batch: PackedTokenBatch) -> Tensor:
    """(R, L, L) bool: whether the token in column i (of dimension 1) sees that in column j (of dimension 2)."""
    prompts, responses = batch.prompts, batch.responses
    length = prompts.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=prompts.device).tril()
    same_prompt = prompts[:, :, None] == prompts[:, None, :]
    same_response = (responses[:, None, :] < 0) | (responses[:, :, None] == responses[:, None, :])
    return before & same_prompt & same_response


def dense_mask(batch: PackedTokenBatch, dtype: torch.dtype) -> Tensor:
    """(R, 1, L, L) additive, made once for all layers: 0 where ``visible``, else the dtype's least number."""
    allowed = visible(batch)[:, None]
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)


def flex_mask(batch: PackedTokenBatch) -> BlockMask:
    """The same for FlexAttention, which skips blocks of 128 × 128 that are empty.

    What ``create_block_mask`` gives, which makes the whole (R, L, L) mask first: here 128 of its rows exist at a time.
    """
    prompts, responses = batch.prompts, batch.responses

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same_prompt = prompts[row, query] == prompts[row, key]
        theirs = responses[row, key]
        return (key <= query) & same_prompt & ((theirs < 0) | (theirs == responses[row, query]))

    rows, length = prompts.shape
    count = -(-length // SIDE)
    row = torch.arange(rows, device=prompts.device)[:, None, None]
    places = torch.arange(length, device=prompts.device)
    pairs = torch.zeros((rows, 1, count, count), dtype=torch.int32, device=prompts.device)
    for block in range(count):
        query, key = places[block * SIDE : (block + 1) * SIDE, None], places[: (block + 1) * SIDE]  # none sees ahead
        seen = sees(row, row, query, key)
        seen = pad(seen, (0, -len(key) % SIDE, 0, SIDE - len(query))).view(rows, SIDE, block + 1, SIDE)
        pairs[:, 0, block, : block + 1] = seen.sum((1, 3))
    whole = pairs == SIDE**2
    partial = _ordered((pairs > 0) & ~whole)
    return BlockMask.from_kv_blocks(
        *partial, *_ordered(whole), BLOCK_SIZE=SIDE, mask_mod=sees, seq_lengths=(length, length)
    )


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries has, and which: those first, in their order."""
    which = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32), which.to(torch.int32)


def blocks_of(batch: PackedTokenBatch, dtype: torch.dtype) -> Blocks:
    """The rows as blocks, padding included."""
    rows, length = batch.input_ids.shape
    blocks: list[Block] = []
    ends = [0] * rows
    for row, start, prompt, held in sorted(batch.layout):
        tokens = [count for _, count in held]
        masks = [_causal_from(prompt, count, dtype, batch.input_ids.device) for count in tokens[1:]]
        blocks.append(Block(row, prompt, tokens, masks))
        ends[row] = start + prompt + sum(tokens)
    blocks += [Block(row, length - end, [], []) for row, end in enumerate(ends) if end < length]
    return Blocks(sorted(blocks, key=lambda block: block.row))  # stable: padding comes last in its row


def block_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    blocks: Blocks | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attention that touches no pair of tokens of different prompts: exact work, whatever the rows' length.

    Args:
        module: The attention layer.
        query: (R, heads, L, d).
        key: (R, key heads, L, d).
        value: (R, key heads, L, d).
        attention_mask: Not looked at in packed rows.
        dropout: Of the attention weights.
        scaling: Of the scores; default: 1/√d.
        blocks: What lies in the rows (``blocks_of``). None: rows of any other kind, left to transformers' ``sdpa``.
        **settings: For the latter.

    Returns:
        (R, L, heads, d), and no weights.

    Raises:
        ValueError: The layer asks for more than scores, mask and softmax.
    """
    if blocks is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **settings)
    if others := [name for name in NOT_IN_BLOCKS if settings.get(name) is not None]:
        raise ValueError(f"attention in blocks knows no {', '.join(others)}")
    return _in_blocks(query, key, value, blocks, dropout, scaling), None


@torch.compiler.disable()  # its graph would be of these blocks alone, and the next batch has others
def _in_blocks(
    query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, dropout: float, scale: float | None
) -> Tensor:
    repeats = query.shape[1] // key.shape[1]
    rows = zip(*(x.split(1) for x in (query, repeat_kv(key, repeats), repeat_kv(value, repeats))), strict=True)
    held: list[list[Block]] = [[] for _ in range(query.shape[0])]
    for block in blocks:
        held[block.row].append(block)
    done = [_row(q, k, v, here, dropout, scale) for (q, k, v), here in zip(rows, held, strict=True)]
    return torch.cat(done)


def _row(query: Tensor, key: Tensor, value: Tensor, blocks: list[Block], dropout: float, scale: float | None) -> Tensor:
    """Attention of one row, (1, L, heads, d)."""
    # Split, not sliced: the gradient of n slices is n tensors of the whole length.
    sizes = [block.prompt + sum(block.responses) for block in blocks]
    pieces = []
    for block, q, k, v in zip(blocks, *(x.split(sizes, dim=2) for x in (query, key, value)), strict=True):
        if not block.responses:
            pieces.append(torch.zeros_like(q))
            continue
        parts = [block.prompt + block.responses[0], *block.responses[1:]]
        queries, keys, values = (x.split(parts, dim=2) for x in (q, k, v))
        pieces.append(scaled_dot_product_attention(queries[0], keys[0], values[0], None, dropout, True, scale=scale))
        for mask, own_q, own_k, own_v in zip(block.masks, queries[1:], keys[1:], values[1:], strict=True):
            all_k = torch.cat([keys[0][:, :, : block.prompt], own_k], dim=2)
            all_v = torch.cat([values[0][:, :, : block.prompt], own_v], dim=2)
            pieces.append(scaled_dot_product_attention(own_q, all_k, all_v, mask, dropout, scale=scale))
    return torch.cat([piece.transpose(1, 2) for piece in pieces], dim=1)


def _causal_from(before: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    full = torch.full((count, before + count), torch.finfo(dtype).min, dtype=dtype, device=device)
    return full.triu_(before + 1)


AttentionInterface.register(BLOCKS, block_attention)
AttentionMaskInterface.register(BLOCKS, sdpa_mask)
