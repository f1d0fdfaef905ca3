"""Packed rows: nothing lost, nothing doubled, and each token in the company that its response alone would have."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities import move_data_to_device

from datamodules.batches import PackedPairBatch, PackedPrompt, PackedTokenBatch
from datamodules.packing import fill_rows, pack

IDS = st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=9)
GROUPS = st.lists(st.tuples(IDS, st.lists(IDS, min_size=1, max_size=3)), min_size=1, max_size=6)


@st.composite
def packed(draw) -> tuple[list, list, PackedTokenBatch, int | None]:
    """Prompts, responses in any order, and what ``pack`` makes of them."""
    groups, budget = draw(GROUPS), draw(st.none() | st.integers(1, 80))
    answers = [(prompt, ids) for prompt, (_, responses) in enumerate(groups) for ids in responses]
    answers = draw(st.permutations(answers))
    prompts = [prompt for prompt, _ in groups]
    names = [f"r{i}" for i in range(len(answers))]
    return prompts, answers, pack(prompts, answers, names, 0, budget), budget


@settings(max_examples=80, deadline=None)
@given(packed())
def test_the_layout_is_invertible(case):
    prompts, answers, batch, _ = case
    rows = batch.padded()
    assert rows.row_ids == batch.row_ids
    for i, (prompt, ids) in enumerate(answers):
        seen = rows.attention_mask[i].bool()
        assert rows.input_ids[i][seen].tolist() == prompts[prompt] + ids
        assert rows.input_ids[i][rows.response_mask[i]].tolist() == ids
        assert batch.targets[batch.owners == i].tolist() == ids
    used = batch.prompts >= 0
    assert used.sum() == sum(map(len, prompts)) + sum(len(ids) for _, ids in answers)  # each prompt once
    assert (batch.input_ids[~used] == 0).all()
    assert (batch.owners.diff() >= 0).all()


@settings(max_examples=80, deadline=None)
@given(packed())
def test_a_response_stands_where_it_would_stand_alone(case):
    """Its positions, the tokens it may see and the place it is predicted at: a loop over the tokens says the same."""
    prompts, answers, batch, _ = case
    flat = [field.flatten().tolist() for field in batch[:4]]
    for i, (prompt, ids) in enumerate(answers):
        own = [at for at, response in enumerate(flat[3]) if response == i]
        before = [at for at, (p, r) in enumerate(zip(*flat[2:], strict=True)) if p == prompt and r == -1]
        assert [flat[1][at] for at in before + own] == list(range(len(prompts[prompt]) + len(ids)))
        assert batch.states[batch.owners == i].tolist() == [before[-1], *own[:-1]]
        assert before + own == sorted(before + own)  # causal order is the rows' order
        assert len({at // batch.input_ids.shape[1] for at in before + own}) == 1


@settings(max_examples=80, deadline=None)
@given(packed())
def test_no_row_is_longer_than_the_budget_unless_one_prompt_is(case):
    prompts, answers, batch, budget = case
    groups = [len(ids) + sum(len(a) for p, a in answers if p == prompt) for prompt, ids in enumerate(prompts)]
    assert batch.input_ids.shape[1] <= max(budget or sum(groups), max(groups))
    if budget is None:
        assert batch.input_ids.shape == (1, sum(groups))
    assert batch.longest == max(len(prompts[prompt]) + len(ids) for prompt, ids in answers)


@settings(max_examples=80, deadline=None)
@given(packed())
def test_apart_is_packing_with_one_prompt_a_row(case):
    prompts, answers, batch, _ = case
    apart = batch.apart()
    alone = [len(ids) + sum(len(a) for p, a in answers if p == prompt) for prompt, ids in enumerate(prompts)]
    assert apart.input_ids.shape == (len(prompts), max(alone))
    assert apart.row_ids == batch.row_ids
    for field, again in zip(apart.padded()[:3], batch.padded()[:3], strict=True):
        assert torch.equal(field, again)
    for row, size in enumerate(alone):
        assert (apart.prompts[row, :size] == row).all()
        assert (apart.prompts[row, size:] == -1).all()
    rows = [batch.input_ids.flatten()[batch.states], apart.input_ids.flatten()[apart.states]]
    assert torch.equal(*rows)
    places = [b.position_ids.flatten()[b.states] for b in (batch, apart)]
    assert torch.equal(*places)
    assert [b.dtype for b in apart[:7]] == [b.dtype for b in batch[:7]]


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30), capacity=st.integers(1, 80))
def test_rows_hold_each_item_once_and_are_few(lengths, capacity):
    rows = fill_rows(lengths, capacity)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    filled = [sum(lengths[item] for item in row) for row in rows]
    assert all(total <= capacity or len(row) == 1 for total, row in zip(filled, rows, strict=True))
    if max(lengths) <= capacity:
        assert sum(2 * total <= capacity for total in filled) <= 1  # no two rows would go into one
        assert len(rows) <= 11 / 9 * len(lengths) + 1


def test_a_pair_by_hand():
    batch = pack([[5, 6], [7]], [(0, [1, 2]), (1, [3]), (0, [4]), (1, [8, 9])], list("abcd"), 0, 9)
    assert batch.input_ids.tolist() == [[5, 6, 1, 2, 4, 7, 3, 8, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2, 0, 1, 1, 2]]
    assert batch.prompts.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 1]]
    assert batch.responses.tolist() == [[-1, -1, 0, 0, 2, -1, 1, 3, 3]]
    assert batch.states.tolist() == [1, 2, 5, 1, 5, 7]
    assert batch.targets.tolist() == [1, 2, 3, 4, 8, 9]
    assert batch.layout == [PackedPrompt(0, 0, 2, [(0, 2), (2, 1)]), PackedPrompt(0, 5, 1, [(1, 1), (3, 2)])]
    assert PackedPairBatch(batch, None).row_ids == ["a", "b"]


def test_moving_keeps_types_and_layout():
    batch = PackedPairBatch(pack([[5]], [(0, [1]), (0, [2])], ["a", "a"], 0), None)
    moved = move_data_to_device(batch, "meta")
    assert isinstance(moved, PackedPairBatch)
    assert moved.tokens.states.device.type == "meta"
    assert moved.stacked().layout == batch.tokens.layout
    assert isinstance(moved.tokens.layout[0], PackedPrompt)


@pytest.mark.parametrize(
    ("prompts", "responses"), [([], []), ([[1], [2]], [(0, [3])]), ([[]], [(0, [3])]), ([[1]], [(0, [])])]
)
def test_what_cannot_be_packed_is_refused(prompts, responses):
    with pytest.raises(ValueError, match="at least one token"):
        pack(prompts, responses, [""] * len(responses), 0)
