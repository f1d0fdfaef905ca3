import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.collate import collate_prompts, collate_questions, collate_responses, collate_seq2seq

TOKENS = st.integers(1, 2**31 - 1)
RESPONSES = st.lists(
    st.lists(TOKENS, min_size=2, max_size=12).flatmap(
        lambda ids: st.tuples(st.just(ids), st.integers(1, len(ids) - 1))
    ),
    min_size=1,
    max_size=6,
)
PROMPTS = st.lists(st.lists(TOKENS, min_size=1, max_size=12), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(rows=RESPONSES, pad=st.integers(0, 5), length=st.integers(0, 20), as_array=st.booleans())
def test_responses_lose_nothing_and_masks_say_what_is_what(rows, pad, length, as_array):
    ids = [np.asarray(row, dtype=np.int32) if as_array else row for row, _ in rows]
    batch = collate_responses(ids, [p for _, p in rows], [f"r{i}" for i in range(len(rows))], pad, length)
    assert batch.input_ids.shape == (len(rows), max(length, *(len(row) for row, _ in rows)))
    assert batch.input_ids.dtype == batch.attention_mask.dtype == torch.int64
    assert batch.response_mask.dtype == torch.bool
    assert not batch.response_mask[:, 0].any()
    for i, (row, prompt_length) in enumerate(rows):
        seen = batch.attention_mask[i].bool()
        assert batch.input_ids[i][seen].tolist() == row
        assert seen[: len(row)].all()  # right-padded
        assert (batch.input_ids[i][~seen] == pad).all()
        assert batch.input_ids[i][batch.response_mask[i]].tolist() == row[prompt_length:]
    assert batch.row_ids == [f"r{i}" for i in range(len(rows))]


@settings(max_examples=60, deadline=None)
@given(rows=PROMPTS, pad=st.integers(0, 5))
def test_prompts_are_left_padded_and_lose_nothing(rows, pad):
    batch = collate_prompts(rows, [str(i) for i in range(len(rows))], pad, 11)
    assert batch.input_ids.shape == (len(rows), max(map(len, rows)))
    for i, row in enumerate(rows):
        seen = batch.attention_mask[i].bool()
        assert batch.input_ids[i][seen].tolist() == row
        assert seen[-len(row) :].all()
        assert (batch.input_ids[i][~seen] == pad).all()
    assert batch.seed == 11


@pytest.mark.parametrize("prompt_lengths", [[0], []])
def test_a_response_without_context_is_refused(prompt_lengths):
    rows = [[1, 2, 3]] * len(prompt_lengths)
    with pytest.raises(ValueError, match="prompt of at least one token"):
        collate_responses(rows, prompt_lengths, ["a"] * len(rows), 0)


def test_no_prompts_are_no_batch():
    with pytest.raises(ValueError, match="needs rows"):
        collate_prompts([], [], 0, 0)


IDS = st.lists(st.lists(TOKENS, min_size=1, max_size=12), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(IDS, st.data())
def test_sources_and_targets_are_padded_each_to_its_longest(sources, data):
    targets = data.draw(
        st.lists(st.lists(TOKENS, min_size=1, max_size=9), min_size=len(sources), max_size=len(sources))
    )
    batch = collate_seq2seq(sources, targets, pad_id=0)
    assert batch.input_ids.shape == batch.attention_mask.shape == (len(sources), max(map(len, sources)))
    assert batch.labels.shape == (len(sources), max(map(len, targets)))
    for ids, mask, labels, source, target in zip(*batch, sources, targets, strict=True):
        assert ids[mask.bool()].tolist() == source
        assert not ids[len(source) :].any()
        assert labels.tolist() == target + [-100] * (len(labels) - len(target))


def test_batches_of_unequal_parts_or_of_nothing_are_refused():
    with pytest.raises(ValueError, match="2 sources and 1 targets"):
        collate_seq2seq([[1], [2]], [[1]], 0)
    with pytest.raises(ValueError, match="needs rows"):
        collate_seq2seq([], [], 0)
    with pytest.raises(ValueError, match="1 passages, 2 own templates"):
        collate_questions([[1]], [0, 1], [], 0)
