import numpy as np
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device

from datamodules.batches import PairBatch, PairScores, PromptBatch, TokenBatch
from datamodules.collate import collate_responses


def side(name: str, *lengths: int, length: int) -> TokenBatch:
    rows = [np.arange(1, n + 1) for n in lengths]
    return collate_responses(rows, [1] * len(rows), [f"{name}:{n}" for n in lengths], 0, length)


def test_stacked_is_chosen_over_rejected():
    batch = PairBatch(side("c", 3, 4, length=6), side("r", 6, 2, length=6), None)
    both = batch.stacked()
    assert both.row_ids == ["c:3", "c:4", "r:6", "r:2"]
    for field in range(3):
        assert torch.equal(both[field][:2], batch.chosen[field])
        assert torch.equal(both[field][2:], batch.rejected[field])


def test_stacking_two_padded_lengths_is_refused():
    with pytest.raises(RuntimeError):
        PairBatch(side("c", 3, length=3), side("r", 4, length=4), None).stacked()


def test_moving_keeps_types_names_and_absent_scores():
    scores = PairScores(*(torch.zeros(1) for _ in range(4)))
    for given in (None, scores):
        moved = move_data_to_device(PairBatch(side("c", 3, length=3), side("r", 3, length=3), given), "meta")
        assert isinstance(moved, PairBatch)
        assert isinstance(moved.chosen, TokenBatch)
        assert moved.chosen.input_ids.device.type == "meta"
        assert moved.chosen.row_ids == ["c:3"]
        assert (moved.scores is None) == (given is None)
    prompts = move_data_to_device(PromptBatch(torch.ones(1, 2), torch.ones(1, 2), ["a"], 7), "meta")
    assert isinstance(prompts, PromptBatch)
    assert prompts.seed == 7
