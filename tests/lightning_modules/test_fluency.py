"""Likelihoods under a language model are those of a plain forward pass."""

import torch
from transformers import AutoModelForCausalLM

from datamodules.almanac import almanac_question_tokenizer
from datamodules.collate import collate_responses
from datamodules.question_texts import question_text_ids
from lightning_modules import FluencyModule
from lightning_modules.language_model import build_language_model

TOKENIZER = almanac_question_tokenizer()
TEXTS = ["Who founded the bakery ?", "", "When ?"]
TINY = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}


def test_each_text_alone_gives_the_same(tmp_path):
    torch.manual_seed(0)
    build_language_model(TINY, TOKENIZER).save_pretrained(tmp_path)
    ids = [question_text_ids(TOKENIZER, text) for text in TEXTS]
    module = FluencyModule(str(tmp_path), TOKENIZER)
    found = module.predict_step(collate_responses(ids, [1] * 3, list("abc"), 0), 0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    for row, logp, tokens in zip(ids, found.logps, found.tokens, strict=True):
        one = torch.tensor([row])
        with torch.no_grad():
            # -> (L-1, V), of which the tokens' own
            each = model(one).logits[0, :-1, : len(TOKENIZER)].log_softmax(-1).gather(1, one[0, 1:, None])
        torch.testing.assert_close(torch.tensor(logp), each.sum(), rtol=1e-5, atol=1e-5)
        assert tokens == len(row) - 1
    assert found.row_ids == list("abc")
