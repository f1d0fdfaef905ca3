"""FineTuningModule against transformers' own loss."""

import math

import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.batches import TokenBatch
from datamodules.wrong_input import WrongInput
from lightning_modules import FineTuningModule
from lightning_modules.language_model import build_language_model

LENGTHS = [(3, 5), (9, 1), (1, 12), (4, 7), (6, 2)]


def some(batch: TokenBatch, rows: list[int]) -> TokenBatch:
    return TokenBatch(*(t[rows] for t in batch[:3]), [batch.row_ids[row] for row in rows])


def built(folder, tokenizer, **settings) -> FineTuningModule:
    module = FineTuningModule("sft", folder, tokenizer, **settings)
    module.configure_model()
    return module


def test_loss_and_gradients_are_transformers_own(model_folder, tokenizer, token_batch, trainer):
    folder, batch = model_folder(initializer_range=0.3), token_batch(LENGTHS)
    module, theirs = built(folder, tokenizer), build_language_model(folder)
    fit = trainer(max_steps=1)
    fit.fit(module, DataLoader([batch], batch_size=None))
    labels = batch.input_ids.masked_fill(~batch.response_mask, -100)
    expected = theirs(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
    torch.testing.assert_close(fit.logged_metrics["sft/train/loss"], expected.detach(), rtol=1e-5, atol=1e-5)
    module = built(folder, tokenizer)
    module._loss(batch).loss.backward()
    expected.backward()
    for p, q in zip(module.policy.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)


def test_it_overfits_a_tiny_batch(model_folder, tokenizer, token_batch, trainer):
    batch = token_batch([(3, 4), (4, 3), (2, 5)], vocabulary=50)
    module = built(model_folder(), tokenizer, warmup=0.0, optimizer=lambda groups: torch.optim.AdamW(groups, lr=3e-2))
    start = module._loss(batch)[0].item()
    assert start == pytest.approx(math.log(len(tokenizer)), rel=0.02)
    trainer(max_epochs=80).fit(module, DataLoader([batch], batch_size=None))
    assert module._loss(batch)[0] < 0.1


def test_validation_adds_up_over_any_split(model_folder, tokenizer, token_batch, trainer):
    batch = token_batch(LENGTHS)
    module = built(model_folder(initializer_range=0.3), tokenizer)
    whole = module._loss(batch)[0].item()
    for split in ([[0, 1, 2, 3, 4]], [[0], [1], [2], [3], [4]], [[1, 2], [0, 3, 4]], [[2, 4, 1], [3], [0]]):
        loader = DataLoader([some(batch, rows) for rows in split], batch_size=None)
        (logged,) = trainer().validate(module, loader, verbose=False)
        assert logged == {"sft/val/loss": pytest.approx(whole, rel=1e-5)}
    means = [module._loss(some(batch, [row]))[0].item() for row in range(5)]
    assert abs(sum(means) / 5 - whole) > 1e-3 * whole  # the plain mean over batches would have been another number


def test_it_logs_exactly_what_is_documented(model_folder, tokenizer, token_batch, trainer):
    loader = DataLoader([token_batch(LENGTHS)], batch_size=None)
    fit = trainer(log_every_n_steps=1)
    fit.fit(FineTuningModule("teacher", model_folder(), tokenizer), loader, loader)
    train = {f"teacher/train/{key}" for key in ("loss", "response_tokens", "lr")}
    assert set(fit.logged_metrics) == train | {"teacher/val/loss"}
    assert fit.logged_metrics["teacher/train/response_tokens"] == pytest.approx(27 / 5)


def test_the_softmax_runs_over_the_real_vocabulary(model_folder, tokenizer, token_batch):
    folder, batch = model_folder(rows=len(tokenizer) + 100), token_batch(LENGTHS)
    real, padded = built(folder, tokenizer), built(folder, tokenizer, padded_vocabulary=True)
    assert real._loss(batch)[0] < padded._loss(batch)[0]
    real._loss(batch)[0].backward()
    assert not real.policy.lm_head.weight.grad[len(tokenizer) :].any()
    assert real.policy.lm_head.weight.grad[: len(tokenizer)].any(-1).all()


def test_a_loss_that_is_no_number_names_the_rows(model_folder, tokenizer, token_batch, trainer):
    module = built(model_folder(), tokenizer)
    torch.nn.init.constant_(module.policy.model.norm.weight, math.nan)
    with pytest.raises(WrongInput, match="the loss is nan at step 0") as error:
        trainer().fit(module, DataLoader([token_batch(LENGTHS)], batch_size=None))
    assert "stage sft, rows data.jsonl:1, data.jsonl:2" in str(error.value)
