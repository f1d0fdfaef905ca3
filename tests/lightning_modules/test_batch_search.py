"""Batch sizes found by trying; a device's memory is played by a limit on tokens."""

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks.score_writer import ScoreWriter
from datamodules.preference_pairs import PreferencePairsDataModule
from datamodules.wrong_input import WrongInput
from lightning_modules import ScoringModule, batch_search, scoring
from lightning_modules.batch_search import check_score_batch_size, largest_that_fits, tokens_for_cpu


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 3000))
def test_what_is_found_fits_and_is_near_the_most_that_does(limit, most):
    tried = []

    def run(size):
        tried.append(size)
        if size > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    found = largest_that_fits(run, most)
    assert 1 <= found <= most
    assert all(1 <= size <= most for size in tried)
    assert len(tried) == len(set(tried)) <= 2 + np.log2(most) + 4
    if limit >= most:
        assert found == most
    elif limit:
        assert found <= limit
        assert found >= int(0.9 * 8 / 9 * limit)
        assert found < limit or limit == 1  # the margin
    else:
        assert found == 1


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def run(size):
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        largest_that_fits(run, 4)


def test_a_cpu_takes_a_share_of_what_is_free():
    assert tokens_for_cpu(2**40, 1000) == batch_search.CPU_TOKENS
    assert tokens_for_cpu(4_000_000, 1000) == 1000
    assert tokens_for_cpu(0, 1000) == 1


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, None, "all"])
def test_no_batch_size(wrong):
    with pytest.raises(WrongInput, match="score_batch_size"):
        check_score_batch_size(wrong)
    check_score_batch_size("auto")
    check_score_batch_size(1)


@pytest.fixture
def scored(pairs_file, tokenizer, model_folder, trainer, tmp_path):
    """Scores of 24 pairs, by key, with the sizes of the forward passes that scored them."""
    folders = {"reference": str(model_folder(seed=1)), "teacher": str(model_folder(seed=2))}

    def run(size, cache, packing="auto", **more):
        data = PreferencePairsDataModule(
            str(pairs_file), tokenizer, cache_dir=tmp_path / cache, score_batch_size=size, packing=packing, **folders
        )
        module = ScoringModule(folders, tokenizer, **more)
        trainer(callbacks=[ScoreWriter()]).predict(module, datamodule=data, return_predictions=False)
        keys = [data._index("reference").key(place) for place in data._index("reference").places]
        return {name: data.cache(name).read(keys) for name in folders}

    return run


@pytest.mark.parametrize("packing", ["auto", "off"])
@pytest.mark.parametrize("most", [150, 400, 10**6])
def test_a_gpu_is_filled_and_not_overrun(scored, most, packing, monkeypatch, caplog):
    expected = scored(4, "four", packing)
    through, refused, real = [], [], scoring.response_logps

    def logps(model, batch, **settings):
        size = batch.input_ids.numel()
        (refused if size > most else through).append((size, len(set(batch.row_ids)) < len(batch.row_ids)))
        if size > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(model, batch, **settings)

    monkeypatch.setattr(scoring, "response_logps", logps)
    monkeypatch.setattr(scoring, "RULED", ())
    with caplog.at_level(logging.INFO):
        found = scored("auto", "auto", packing)
    for name, scores in expected.items():
        assert found[name] == pytest.approx(scores, abs=1e-4)
    (said,) = {r.getMessage().partition(" have ")[2] for r in caplog.records if "batches of the" in r.getMessage()}
    tokens = int(said.split()[0].replace(",", ""))
    assert "by trying on cpu" in said
    assert tokens <= most
    in_earnest = [size for size, trial in through if not trial]
    assert max(in_earnest) <= tokens
    assert len(in_earnest) < 2 * 24 or most == 150  # several pairs at one time
    assert bool(refused) is (most < 10**6)
    assert all(trial for _, trial in refused)  # what was found fits: nothing had to be halved


def test_on_a_cpu_it_is_the_rule(scored, monkeypatch, caplog):
    expected = scored(4, "four")
    with caplog.at_level(logging.INFO):
        assert scored("auto", "auto")["teacher"] == pytest.approx(expected["teacher"], abs=1e-4)
    assert "batches of the reference have" in caplog.text
    assert "by the rule for a CPU" in caplog.text
    caplog.clear()
    monkeypatch.setattr(scoring, "free_memory", lambda device: 0)
    with caplog.at_level(logging.INFO):
        assert scored("auto", "again")["teacher"] == pytest.approx(expected["teacher"], abs=1e-4)
    said = [r.getMessage() for r in caplog.records if "batches of the teacher" in r.getMessage()]
    assert int(said[0].split()[5]) < 200  # one prompt at a time


def test_a_server_gets_several_times_what_it_does_at_once(tokenizer, token_batch):
    scorer: Any = SimpleNamespace(at_once=16)
    module = ScoringModule({"teacher": "nowhere"}, tokenizer, scorers={"teacher": scorer})
    pair = token_batch([(2, 3), (2, 4)])
    assert module.tokens_a_batch("teacher", lambda n: pair, 7, 100) == 8 * 7
    assert module.tokens_a_batch("teacher", lambda n: pair, 7, 3) == 3 * 7


def test_without_a_trainer_nobody_knows(pairs_file, tokenizer, model_folder, tmp_path):
    folders = {"reference": str(model_folder(seed=1)), "teacher": str(model_folder(seed=2))}
    data = PreferencePairsDataModule(str(pairs_file), tokenizer, cache_dir=tmp_path, score_batch_size="auto", **folders)
    data.setup("predict")
    with pytest.raises(WrongInput, match="auto asks the module of a Trainer"):
        data.predict_dataloader()
