"""Packed rows: each prompt once with all of its responses, several prompts a row.  Pure: token ids in, shapes out.

A pair is laid out as prompt, chosen, rejected. Positions start at 0 with each prompt, and each response's go on from
the end of its prompt, as if no other response were there; who sees whom follows from ``prompts`` and ``responses`` (see
``PackedTokenBatch``). So each response's log-probability is that of the response alone behind its prompt.
"""

from collections.abc import Sequence
from typing import Any

import torch

from datamodules.batches import PackedPrompt, PackedTokenBatch


def fill_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which items go into which row: first fit, longest first, at most 11/9 of the fewest rows (Johnson, 1973).

    Args:
        lengths: Of the items; one that is longer than the capacity gets a row of its own.
        capacity: Of a row.

    Returns:
        The item numbers of each row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        place = next((row for row, free in enumerate(room) if free >= lengths[item]), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(capacity)
        rows[place].append(item)
        room[place] -= lengths[item]
    return rows


def pack(
    prompts: Sequence[Any],
    responses: Sequence[tuple[int, Any]],
    row_ids: Sequence[str],
    pad_id: int,
    token_budget: int | None = None,
) -> PackedTokenBatch:
    """Packed batch of prompts and their responses.

    Args:
        prompts: Rows of token ids (lists or arrays), each at least one.
        responses: N times the number of a prompt and the token ids of one response to it, at least one. A prompt's
            responses follow it in this order.
        row_ids: N names.
        pad_id: Fills up the rows.
        token_budget: Tokens a row; a prompt that needs more with its responses gets a row of its own. None: one row
            for all, without any padding.

    Raises:
        ValueError: No responses, an empty one, or a prompt without tokens or without response.
    """
    layout = _layout(prompts, responses, token_budget)
    width = max(start + length + sum(tokens for _, tokens in held) for _, start, length, held in layout)
    rows = 1 + max(prompt.row for prompt in layout)
    ids = torch.full((rows, width), pad_id)
    positions = torch.zeros((rows, width), dtype=torch.int64)
    of_prompt, of_response = torch.full((2, rows, width), -1, dtype=torch.int32)
    states = [torch.empty(0)] * len(responses)
    for which, (row, start, length, held) in enumerate(layout):
        at = start + length
        ids[row, start:at] = torch.as_tensor(prompts[which], dtype=torch.int64)
        positions[row, start:at] = torch.arange(length)
        for number, tokens in held:
            states[number] = row * width + torch.tensor([start + length - 1, *range(at, at + tokens - 1)])
            ids[row, at : at + tokens] = torch.as_tensor(responses[number][1], dtype=torch.int64)
            positions[row, at : at + tokens] = torch.arange(length, length + tokens)
            of_response[row, at : at + tokens] = number
            at += tokens
        of_prompt[row, start:at] = which
    targets = [torch.as_tensor(tokens, dtype=torch.int64) for _, tokens in responses]
    owners = torch.arange(len(responses)).repeat_interleave(torch.tensor([len(each) for each in targets]))
    return PackedTokenBatch(
        ids, positions, of_prompt, of_response, torch.cat(states), torch.cat(targets), owners, layout, list(row_ids)
    )


def _layout(
    prompts: Sequence[Any], responses: Sequence[tuple[int, Any]], token_budget: int | None
) -> list[PackedPrompt]:
    answers: list[list[tuple[int, int]]] = [[] for _ in prompts]
    for number, (prompt, tokens) in enumerate(responses):
        answers[prompt].append((number, len(tokens)))
    if not prompts or not all(answers) or not all(len(ids) for ids in (*prompts, *(ids for _, ids in responses))):
        raise ValueError("a packed batch needs prompts and responses of at least one token, and a response a prompt")
    lengths = [len(ids) + sum(tokens for _, tokens in held) for ids, held in zip(prompts, answers, strict=True)]
    layout: list[PackedPrompt] = [PackedPrompt(0, 0, 0, [])] * len(prompts)
    for row, held in enumerate(fill_rows(lengths, sum(lengths) if token_budget is None else token_budget)):
        start = 0
        for prompt in held:
            layout[prompt] = PackedPrompt(row, start, len(prompts[prompt]), answers[prompt])
            start += lengths[prompt]
    return layout
