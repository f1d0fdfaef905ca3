"""What does not fit is scored in parts, with the same numbers; a device's memory is played by a limit on tokens."""

import pytest
import torch

from datamodules.batches import PackedTokenBatch, TokenBatch
from datamodules.packing import pack
from datamodules.wrong_input import WrongInput
from lightning_modules import ScoringModule, scoring
from lightning_modules.halving import Halving, halves

LENGTHS = [(5, 7, 3), (2, 1, 9), (8, 4, 1), (1, 6, 6), (3, 2, 2)]


def packed(token_budget=None, lengths=LENGTHS):
    sides = [(i, [5 + i + side] * pair[side]) for i, pair in enumerate(lengths) for side in (1, 2)]
    return pack(
        [[9 + i] * pair[0] for i, pair in enumerate(lengths)],
        sides,
        [f"r{i}" for i in range(len(sides))],
        0,
        token_budget,
    )


@pytest.fixture
def limited(monkeypatch):
    """``limited(tokens)``: forward passes over more run out of memory; gives the sizes of those that went through."""

    def set_to(most):
        through, real = [], scoring.response_logps

        def logps(model, batch, **settings):
            if batch.input_ids.numel() > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            through.append(len(batch.row_ids))
            return real(model, batch, **settings)

        monkeypatch.setattr(scoring, "response_logps", logps)
        return through

    return set_to


@pytest.mark.parametrize("token_budget", [None, 30])
@pytest.mark.parametrize("most", [10_000, 40, 18, 13])
def test_scores_are_the_same_in_parts(most, token_budget, tokenizer, model_folder, limited):
    module = ScoringModule({"teacher": model_folder(seed=1, initializer_range=0.3)}, tokenizer)
    batch = packed(token_budget)
    expected = module.predict_step(batch, 0)
    through = limited(most)
    found = module.predict_step(batch, 0)
    assert found.row_ids == expected.row_ids
    torch.testing.assert_close(torch.tensor(found.logps), torch.tensor(expected.logps), rtol=1e-5, atol=1e-5)
    assert sum(through) == 10
    assert (len(through) > 1) is (most < batch.input_ids.numel())
    padded = module.predict_step(batch.padded(), 1)
    torch.testing.assert_close(torch.tensor(padded.logps), torch.tensor(expected.logps), rtol=1e-5, atol=1e-5)


def test_what_did_not_fit_is_not_tried_again():
    tried = []

    def score(part):
        tried.append(len(part.row_ids))
        if tried[-1] > 4:
            raise torch.OutOfMemoryError("out of memory")
        return [float(name[1:]) for name in part.row_ids]

    halving = Halving("the teacher")
    assert halving(score, packed()) == [float(i) for i in range(10)]
    assert tried == [10, 4, 6, 2, 4]
    tried.clear()
    assert halving(score, packed()) == [float(i) for i in range(10)]
    assert tried == [4, 2, 4]


def test_a_response_that_does_not_fit_alone(tokenizer, model_folder, limited):
    module = ScoringModule({"teacher": model_folder(seed=1)}, tokenizer)
    limited(11)
    with pytest.raises(WrongInput, match="does not fit into memory.*max_length") as error:
        module.predict_step(packed(), 0)
    assert "the teacher, r" in str(error.value)


def test_halves_hold_each_response_once_behind_its_prompt():
    whole = packed(30)
    alone = whole.padded()
    for part, places in halves(whole):
        assert isinstance(part, PackedTokenBatch)
        mine = part.padded()
        assert mine.row_ids == [whole.row_ids[place] for place in places]
        for row, place in enumerate(places):
            length = int(mine.attention_mask[row].sum())
            assert mine.input_ids[row, :length].tolist() == alone.input_ids[place, :length].tolist()
            assert mine.response_mask[row, :length].tolist() == alone.response_mask[place, :length].tolist()
    single = halves(packed(lengths=LENGTHS[:1]))
    assert [(type(part), places) for part, places in single] == [(TokenBatch, [0]), (TokenBatch, [1])]
