"""Rows of token ids into padded batches.  Pure: shapes in, shapes out."""

from collections.abc import Sequence
from typing import Any

import torch

from datamodules.batches import Example, PromptBatch, QuestionBatch, Seq2SeqBatch, TokenBatch

UNCOUNTED = -100
"""The label that no loss counts."""


def collate_responses(
    ids: Sequence[Any], prompt_lengths: Sequence[int], row_ids: Sequence[str], pad_id: int, length: int = 0
) -> TokenBatch:
    """Right-padded batch.

    Args:
        ids: N rows of token ids (lists or arrays), prompt then response.
        prompt_lengths: N numbers of prompt tokens, each at least 1.
        row_ids: N names.
        pad_id: Fills up the rows; masked everywhere.
        length: Pad at least to this length, so that two batches can be stacked.

    Raises:
        ValueError: No rows, or a row without prompt: its first token would have no context.
    """
    if not ids or min(prompt_lengths) < 1:
        raise ValueError("a batch needs rows, and each row a prompt of at least one token")
    longest = max(length, *(len(row) for row in ids))
    input_ids = torch.full((len(ids), longest), pad_id, dtype=torch.int64)
    attention = torch.zeros((len(ids), longest), dtype=torch.int64)
    response = torch.zeros((len(ids), longest), dtype=torch.bool)
    for i, (row, prompt_length) in enumerate(zip(ids, prompt_lengths, strict=True)):
        input_ids[i, : len(row)] = torch.as_tensor(row, dtype=torch.int64)
        attention[i, : len(row)] = 1
        response[i, prompt_length : len(row)] = True
    return TokenBatch(input_ids, attention, response, list(row_ids))


def collate_prompts(ids: Sequence[Sequence[int]], row_ids: Sequence[str], pad_id: int, seed: int) -> PromptBatch:
    """Left-padded batch of prompts.

    Raises:
        ValueError: No rows.
    """
    if not ids:
        raise ValueError("a batch needs rows")
    longest = max(len(row) for row in ids)
    input_ids = torch.full((len(ids), longest), pad_id, dtype=torch.int64)
    attention = torch.zeros((len(ids), longest), dtype=torch.int64)
    for i, row in enumerate(ids):
        input_ids[i, longest - len(row) :] = torch.as_tensor(row, dtype=torch.int64)
        attention[i, longest - len(row) :] = 1
    return PromptBatch(input_ids, attention, list(row_ids), seed)


def collate_sequences(ids: Sequence[Any], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their attention mask, both (B, L) int64.

    Raises:
        ValueError: No rows.
    """
    if not len(ids):
        raise ValueError("a batch needs rows")
    longest = max(len(row) for row in ids)
    input_ids = torch.full((len(ids), longest), pad_id, dtype=torch.int64)
    attention = torch.zeros((len(ids), longest), dtype=torch.int64)
    for i, row in enumerate(ids):
        input_ids[i, : len(row)] = torch.as_tensor(row, dtype=torch.int64)
        attention[i, : len(row)] = 1
    return input_ids, attention


def collate_seq2seq(sources: Sequence[Any], targets: Sequence[Any], pad_id: int) -> Seq2SeqBatch:
    """Sources and targets, each padded to its longest; padding of targets is ``UNCOUNTED``.

    Args:
        sources: B rows of token ids.
        targets: B rows of token ids.
        pad_id: Fills up the sources.

    Raises:
        ValueError: No rows, or not as many targets as sources.
    """
    if len(sources) != len(targets):
        raise ValueError(f"{len(sources)} sources and {len(targets)} targets")
    labels, _ = collate_sequences(targets, UNCOUNTED)
    return Seq2SeqBatch(*collate_sequences(sources, pad_id), labels)


def collate_questions(
    ids: Sequence[Any], own_templates: Sequence[int], examples: Sequence[Example], pad_id: int
) -> QuestionBatch:
    """Marked passages with what is needed to write them anew; see ``QuestionBatch``.

    Raises:
        ValueError: No rows, or not as many own templates or examples as rows.
    """
    if not len(ids) == len(own_templates) == len(examples):
        raise ValueError(f"{len(ids)} passages, {len(own_templates)} own templates and {len(examples)} examples")
    own = torch.tensor(list(own_templates), dtype=torch.int64)
    return QuestionBatch(*collate_sequences(ids, pad_id), own, list(examples))
