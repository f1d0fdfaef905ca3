"""Packed rows without sharing, for attention that knows sequences end to end and nothing else.  Pure."""

import torch

from datamodules.batches import PackedPrompt, PackedTokenBatch


def unshared(batch: PackedTokenBatch) -> PackedTokenBatch:
    """The same responses by number, each behind its own copy of its prompt, end to end in one row without padding.

    Args:
        batch: Of N responses of n tokens behind prompts of p.

    Returns:
        One row of Σ (p + n) tokens; each response's prompt is one of its own, with the response's number.
    """
    width = batch.input_ids.shape[1]
    spans: list[tuple[int, int, int, int]] = [(0, 0, 0, 0)] * len(batch.row_ids)  # a prompt, a response: place, tokens
    for row, start, length, held in batch.layout:
        at = row * width + start + length
        for number, tokens in held:
            spans[number] = (row * width + start, length, at, tokens)
            at += tokens
    source, states, layout, end = [], [], [], 0
    for number, (prompt, length, response, tokens) in enumerate(spans):
        source += [torch.arange(prompt, prompt + length), torch.arange(response, response + tokens)]
        states.append(torch.arange(end + length - 1, end + length - 1 + tokens))
        layout.append(PackedPrompt(0, end, length, [(number, tokens)]))
        end += length + tokens
    device = batch.input_ids.device
    taken = torch.cat(source).to(device)
    ids, positions, responses = (
        field.flatten()[taken][None] for field in (batch.input_ids, batch.position_ids, batch.responses)
    )
    sizes = torch.tensor([length + tokens for _, length, _, tokens in spans])
    prompts = torch.arange(len(spans), dtype=torch.int32).repeat_interleave(sizes)[None].to(device)
    return batch._replace(
        input_ids=ids,
        position_ids=positions,
        prompts=prompts,
        responses=responses,
        states=torch.cat(states).to(device),
        layout=layout,
    )
