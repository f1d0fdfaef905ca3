"""What a judge answers to generated questions."""

import torch

from datamodules.batches import SourceBatch
from lightning_modules import AnsweringModule
from lightning_modules.language_model import build_seq2seq_model, freeze


def test_answers_are_the_models_own_and_padding_changes_none(folders, words_tokenizer):
    rows = [[7, 8, 9, 4, 6, 1], [10, 11, 4, 12, 13, 14, 15, 1]]
    module = AnsweringModule(folders["qa"], words_tokenizer, max_new_tokens=5)
    ids = torch.zeros(2, 8, dtype=torch.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    found = module.predict_step(SourceBatch(ids, (ids != 0).long(), ["a#0", "b#1"]), 0)
    model = freeze(build_seq2seq_model(folders["qa"], words_tokenizer))
    alone = [model.generate(input_ids=torch.tensor([row]), max_new_tokens=5, do_sample=False)[0] for row in rows]
    assert found.row_ids == ["a#0", "b#1"]
    assert found.texts == [words_tokenizer.decode(made, skip_special_tokens=True).strip() for made in alone]
