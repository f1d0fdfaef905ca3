"""DivergenceModule against the definition over all logits."""

import pytest
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from lightning_modules.divergence import DivergenceModule
from lightning_modules.language_model import build_language_model, freeze

LENGTHS = [(3, 5), (9, 1), (1, 12)]


class OneLoaderAModel(LightningDataModule):
    def __init__(self, batches, models):
        super().__init__()
        self.batches, self.models = batches, models

    def predict_dataloader(self):
        return [DataLoader(self.batches, batch_size=None) for _ in range(self.models)]


@torch.no_grad()
def naive(teacher, student, batch, vocabulary):
    """Σ over response tokens of Σ over the vocabulary, row by row without padding."""
    nats = []
    for ids, attention, response in zip(*batch[:3], strict=True):
        n = int(attention.sum())
        p, q = (
            m(input_ids=ids[None, :n]).logits[0, :, :vocabulary].double().log_softmax(-1) for m in (teacher, student)
        )
        kl = (p.exp() * (p - q)).sum(-1)
        nats.append(sum(kl[t - 1].item() for t in range(1, n) if response[t]))
    return nats


def test_it_is_the_exact_kl_of_each_response(model_folder, tokenizer, token_batch, trainer):
    wide = {"initializer_range": 0.3}
    teacher = model_folder(seed=1, rows=len(tokenizer) + 30, hidden_size=24, **wide)
    students = {"dsft": model_folder(seed=2, **wide), "itself": teacher, "other": model_folder("llama", seed=3, **wide)}
    batches = [token_batch(LENGTHS, seed=1), token_batch(LENGTHS[:1], seed=2)]
    module = DivergenceModule(teacher, students, tokenizer)
    results = trainer().predict(module, datamodule=OneLoaderAModel(batches, len(students)))
    for (name, folder), loader in zip(students.items(), results, strict=True):
        models = [freeze(build_language_model(source)) for source in (teacher, folder)]
        for result, batch in zip(loader, batches, strict=True):
            assert result.model == name
            assert result.row_ids == batch.row_ids
            assert result.tokens == batch.response_mask.sum(-1).tolist()
            if name == "itself":
                assert result.nats == pytest.approx([0.0] * len(batch.row_ids), abs=1e-6)
            else:
                assert result.nats == pytest.approx(naive(*models, batch, len(tokenizer)), rel=1e-5)
                assert min(result.nats) > 0.05


def test_it_trains_nothing(model_folder, tokenizer, token_batch):
    module = DivergenceModule(model_folder(seed=1), {"student": model_folder(seed=2)}, tokenizer)
    module.predict_step(token_batch(LENGTHS), 0)
    assert not list(module.parameters())
    assert not module.state_dict()
