"""A small distillation, as several tests have it: batches as they are, a module in each mode, and scores."""

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.batches import PairScores
from lightning_modules import DaDPOModule, ScoringModule

BETAS = {"beta_ref": 0.2, "beta_teacher": 0.4}
WIDE = {"initializer_range": 0.2}


class Batches(LightningDataModule):
    """Batches as they are, in order."""

    def __init__(self, train, val=(), predict=()):
        super().__init__()
        self.train, self.val, self.predict = train, val, predict

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=None)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=None) if self.val else []

    def predict_dataloader(self):
        return [DataLoader(self.predict, batch_size=None) for _ in range(2)]


def adam(groups):
    return torch.optim.AdamW(groups, lr=3e-3)


def with_scores(batches, folders, tokenizer, trainer):
    """The batches with what ScoringModule says of them."""
    scoring = ScoringModule({"reference": folders["student"], "teacher": folders["teacher"]}, tokenizer)
    results = trainer().predict(scoring, datamodule=Batches([], predict=[batch.stacked() for batch in batches]))
    columns = [[torch.tensor(scores.logps).chunk(2) for scores in loader] for loader in results]
    return [
        batch._replace(scores=PairScores(*reference, *teacher))
        for batch, reference, teacher in zip(batches, *columns, strict=True)
    ]


def live(folders, tokenizer, **settings):
    return DaDPOModule(
        folders["student"], tokenizer, mode="live", teacher=folders["teacher"], optimizer=adam, **{**BETAS, **settings}
    )


def cached(folders, tokenizer, **settings):
    return DaDPOModule(folders["student"], tokenizer, optimizer=adam, **{**BETAS, **settings})


def assert_same_weights(module, other, **tolerance):
    for (name, p), q in zip(module.policy.named_parameters(), other.policy.named_parameters(), strict=True):
        torch.testing.assert_close(p, q[1], msg=name, **tolerance)
