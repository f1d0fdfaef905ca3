"""What is counted of packed rows against the rows as they are packed, and what a model's family does with them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from callbacks.run.estimate.models import Reading
from callbacks.run.estimate.packed import lay_out, packed
from callbacks.run.estimate.tokens import Sequences, padded
from datamodules.packing import pack
from lightning_modules.language_model import build_skeleton
from lightning_modules.packed_attention import blocks_of
from lightning_modules.packing_trial import planned_reading
from lightning_modules.unshared import unshared

BLOCKS = Reading("blocks")
LENGTH = st.integers(1, 30)
PAIRS = st.lists(st.builds(Sequences, LENGTH, st.tuples(LENGTH, LENGTH)), min_size=1, max_size=12)
BUDGETS = st.one_of(st.none(), st.integers(1, 120))


def made(pairs, token_budget):
    sides = [(i, [5] * pair.responses[side]) for side in (0, 1) for i, pair in enumerate(pairs)]
    return pack([[5] * pair.prompt for pair in pairs], sides, [""] * len(sides), 0, token_budget)


@given(PAIRS, BUDGETS)
def test_blocks_and_flex_are_as_packed(pairs, token_budget):
    batch = made(pairs, token_budget)
    for attention in ("blocks", "flex"):
        laid = lay_out(pairs, Reading(attention), token_budget)
        assert (laid.batch.rows, laid.batch.length) == tuple(batch.input_ids.shape)
        assert laid.batch.predicted == len(batch.targets)
    blocks = [block for block in blocks_of(batch, torch.float32) if block.responses]
    found = lay_out(pairs, BLOCKS, token_budget)
    assert found.batch.masked == sum(mask.numel() for block in blocks for mask in block.masks)
    assert found.batch.copied == sum(mask.shape[1] for block in blocks for mask in block.masks)
    first = sum((block.prompt + block.responses[0]) ** 2 for block in blocks)
    assert found.scores == first + found.batch.masked


@given(PAIRS, BUDGETS)
def test_a_dense_mask_is_over_one_prompt_a_row(pairs, token_budget):
    laid, apart = lay_out(pairs, Reading("dense"), token_budget), made(pairs, token_budget).apart()
    assert (laid.batch.rows, laid.batch.length) == tuple(apart.input_ids.shape)
    assert laid.scores == laid.batch.rows * laid.batch.length**2


@given(PAIRS, BUDGETS)
def test_flash_reads_a_copy_of_the_prompt_for_each_response(pairs, token_budget):
    laid, alone = lay_out(pairs, Reading("flash"), token_budget), unshared(made(pairs, token_budget))
    assert (laid.batch.rows, laid.batch.length) == tuple(alone.input_ids.shape)
    assert laid.scores == sum((pair.prompt + response) ** 2 for pair in pairs for response in pair.responses)
    assert laid.batch.predicted == len(alone.targets)


@given(PAIRS, BUDGETS)
def test_what_cannot_be_read_packed_is_padded(pairs, token_budget):
    expected = tuple(made(pairs, token_budget).padded().input_ids.shape)
    longest = max(pair.longest for pair in pairs)
    for reading in (Reading(), Reading("blocks", window=longest - 1)):
        batch = lay_out(pairs, reading, token_budget).batch
        assert (batch.rows, batch.length, batch.packed) == (*expected, None)
    assert lay_out(pairs, Reading("blocks", window=longest), token_budget).batch.packed == "blocks"


@given(PAIRS, st.integers(1, 5), st.integers(1, 3))
def test_one_row_a_batch_has_no_padding_and_shares_prompts(pairs, batch_size, times):
    read = packed(pairs, times * len(pairs), batch_size, BLOCKS)
    needed = sum(pair.prompt + sum(pair.responses) for pair in pairs)
    assert read.tokens == read.filled == times * needed
    assert read.tokens <= padded(pairs, times * len(pairs), batch_size).tokens
    assert read.largest.tokens <= needed * times


@given(PAIRS, st.integers(1, 5))
def test_the_largest_batch(pairs, batch_size):
    by_size = sorted((pair.tokens for pair in pairs), reverse=True)
    most = sum(by_size[:batch_size])
    assert packed(pairs, len(pairs), batch_size, BLOCKS, by_length=True).largest.tokens == most
    assert packed(pairs, len(pairs), batch_size, BLOCKS, window=len(pairs)).largest.tokens == most
    assert packed(pairs, len(pairs), batch_size, BLOCKS).largest.tokens <= most


def test_families(tokenizer):
    def reading(family, packing="auto", cuda=False, **fields):
        model = build_skeleton({"model_type": family, "hidden_size": 4096, **fields}, tokenizer)
        return planned_reading(model, packing, cuda)

    infinite = float("inf")
    assert reading("qwen2") == ("blocks", infinite)
    assert reading("gemma2") == ("dense", 4096)
    assert reading("mistral", sliding_window=77) == ("blocks", 77)
    assert reading("bloom") == (None, 0)  # knows no positions
    assert reading("qwen2", packing="off") == (None, 0)
    assert reading("qwen2", cuda=True) == ("flex", infinite)
    assert reading("mistral", "flash", cuda=True, sliding_window=77) == ("flash", infinite)
    assert reading("qwen2", "sdpa", cuda=True) == ("blocks", infinite)
    assert reading("qwen2", cuda=True, attention_dropout=0.1) == ("blocks", infinite)  # flex has no dropout
    assert reading("phi3", rope_parameters=None) == ("blocks", infinite)


def test_a_family_that_cannot_be_made_small(tokenizer, monkeypatch):
    monkeypatch.setattr("lightning_modules.packing_trial.MOST_WEIGHTS", 10)
    for family, attention in (("qwen2", "blocks"), ("gemma2", "dense")):
        assert planned_reading(build_skeleton({"model_type": family}, tokenizer), "auto", False)[0] == attention
