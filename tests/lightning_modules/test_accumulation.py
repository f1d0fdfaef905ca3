"""An update of several batches against the same rows in one: tokens count alike, and so do pairs."""

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from datamodules.batches import PairBatch, PairScores, TokenBatch
from lightning_modules import DaDPOModule, FineTuningModule

LENGTHS = [(3, 5), (9, 1), (1, 12), (4, 7), (6, 2)]
UPDATES = [[[0], [1, 2]], [[3, 4]]]
"""Rows of each batch of each update: of two batches, and of the one that is left at the epoch's end."""
CLIP = 1.0


def some(batch, rows):
    if isinstance(batch, PairBatch):
        scores = PairScores(*(score[rows] for score in batch.scores))
        return PairBatch(some(batch.chosen, rows), some(batch.rejected, rows), scores)
    return TokenBatch(*(t[rows] for t in batch[:3]), [batch.row_ids[row] for row in rows])


def trained(make, trainer, batches, accumulated):
    """Weights after an epoch of two updates, and the norms of their gradients before clipping."""
    module, norms = make(), []
    clip = module.configure_gradient_clipping

    def watched(optimizer, *limits, **named):
        grads = [p.grad.norm() for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.stack(grads).norm().item())
        clip(optimizer, *limits, **named)

    module.configure_gradient_clipping = watched
    loader = DataLoader(batches, batch_size=None)
    trainer(accumulate_grad_batches=accumulated, gradient_clip_val=CLIP).fit(module, loader)
    assert module.trainer.global_step == 2
    return dict(module.policy.named_parameters()), norms


def fine_tuning(folder, tokenizer, settings):
    return FineTuningModule("sft", folder, tokenizer, **settings)


def dadpo(folder, tokenizer, settings):
    return DaDPOModule(folder, tokenizer, mode="cached", **settings)


@pytest.mark.parametrize("kind", [fine_tuning, dadpo])
def test_an_update_is_a_step_on_all_its_rows(kind, model_folder, tokenizer, token_batch, pair_batch, trainer):
    folder = model_folder(initializer_range=0.3)
    scores = PairScores(*(torch.linspace(-3 - i, -9, 5) for i in range(4)))
    batch = token_batch(LENGTHS) if kind is fine_tuning else pair_batch(5)._replace(scores=scores)

    def make():
        settings = {"warmup": 0.0, "optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1)}
        built = kind(folder, tokenizer, settings)
        built.configure_model()
        return built

    parts = [some(batch, rows) for update in UPDATES for rows in update]
    wholes = [some(batch, sum(update, [])) for update in UPDATES]
    (found, norms), (expected, expected_norms) = trained(make, trainer, parts, 2), trained(make, trainer, wholes, 1)
    assert norms == pytest.approx(expected_norms, rel=1e-4)
    assert max(norms) > CLIP
    start = dict(make().policy.named_parameters())
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)
    assert max((found[name] - start[name]).abs().max() for name in found) > 1e-2


def test_a_training_that_broke_off_within_an_update_leaves_nothing(model_folder, tokenizer, token_batch, trainer):
    batch = token_batch(LENGTHS)

    def weights(broken_off):
        settings = {"warmup": 0.0, "optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1)}
        module = fine_tuning(model_folder(), tokenizer, settings)
        if broken_off:

            def breaks():
                yield some(batch, [0, 2, 4])
                yield some(batch, [1])  # which is fetched before the other is trained on
                raise InterruptedError

            with pytest.raises(InterruptedError):
                trainer(accumulate_grad_batches=2).fit(module, DataLoader(Rows(breaks), batch_size=None))
        loader = DataLoader([some(batch, [0]), some(batch, [1, 2])], batch_size=None)
        trainer(accumulate_grad_batches=2, max_steps=1).fit(module, loader)
        return dict(module.policy.named_parameters())

    fresh = weights(broken_off=False)
    for name, weight in weights(broken_off=True).items():
        torch.testing.assert_close(weight, fresh[name], msg=name)


class Rows(IterableDataset):
    """What a function yields."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return self.rows()
