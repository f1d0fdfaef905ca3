"""Tokens a second and the time left, by a clock that the test moves."""

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from callbacks.scoring_progress import ScoringProgress
from datamodules.encoding import EncodedResponse
from datamodules.pairs import EncodedPair
from datamodules.response_index import ResponseIndex
from datamodules.unscored import Unscored, UnscoredBatches, batches_of, collator, unscored_loader


def pairs(count):
    """A prompt of 6 tokens, responses of 10 and 4."""
    made = []
    for i in range(count):
        both = (np.array([i + 1] * 6 + [7] * size, dtype=np.int32) for size in (10, 4))
        made.append(EncodedPair(*(EncodedResponse(f"row {i}", ids, 6, False) for ids in both)))
    return made


@pytest.mark.parametrize(("packed", "tokens"), [(True, 20), (False, 26)])
def test_rate_and_time_left(packed, tokens, caplog):
    now = [0.0]
    callback = ScoringProgress(every_s=2.0, clock=lambda: now[0])
    index, sharing = ResponseIndex(pairs(8), "reference"), 2 if packed else 1
    rows = Unscored(index, index.groups(sharing), np.zeros(16, dtype=bool))
    batches = batches_of(rows, groups=4 // sharing)
    loader = unscored_loader(UnscoredBatches(rows, batches, collator(0, packed=packed)))
    trainer: Any = SimpleNamespace(predict_dataloaders=[loader, loader], is_global_zero=True)
    module: Any = None
    with caplog.at_level(logging.INFO):
        for model, name in enumerate(("reference", "teacher")):
            for i, batch in enumerate(loader):
                callback.on_predict_batch_start(trainer, module, batch, i, model)
                now[0] += 1.5
                callback.on_predict_batch_end(trainer, module, SimpleNamespace(model=name), batch, i, model)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 4  # after 3 s and at the end, of each model
    total = 8 * tokens
    rate = total / 6 if packed else None  # batches of like tokens
    if rate:
        assert said[0] == f"scores of the reference: 50%, {rate:,.0f} tokens/s, 0:00:03 left"
    assert said[1] == f"scores of the reference: 100%, {total / 6:,.0f} tokens/s, 0:00:00 left"
    assert said[3].startswith("scores of the teacher: 100%")
