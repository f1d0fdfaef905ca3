"""DaDPOModule on packed pairs: what it learns, logs, names and serves is what it does on padded ones."""

import math

import pytest
import torch

from datamodules.batches import PackedPairBatch
from datamodules.packing import pack
from datamodules.wrong_input import WrongInput
from lightning_modules.trainable import PolicyModule
from tests.lightning_modules.dadpo.distilling import Batches, assert_same_weights, cached, live, with_scores


def packed_of(batch, budget=None):
    """The same pairs in packed rows."""
    prompts, responses = [], []
    for side in (batch.chosen, batch.rejected):
        for i, (ids, attention, response) in enumerate(zip(*side[:3], strict=True)):
            if side is batch.chosen:
                prompts.append(ids[(attention == 1) & ~response])
            responses.append((i, ids[response]))
    return PackedPairBatch(pack(prompts, responses, batch.row_ids * 2, 0, budget), batch.scores)


@pytest.mark.parametrize("mode", ["live", "cached"])
@pytest.mark.parametrize("packing", ["auto", "off"])
def test_packed_pairs_train_like_padded_ones(mode, packing, folders, tokenizer, batches, trainer):
    """Packed, shared, chunked and cached, against padded, separate, unchunked and live; scores packed or padded too."""
    packed = with_scores([packed_of(batch, 40) for batch in batches], folders, tokenizer, trainer)
    make = live if mode == "live" else cached
    ours, theirs = make(folders, tokenizer, packing=packing, logits_chunk=5), live(folders, tokenizer)
    for module, data in ((ours, packed), (theirs, batches)):
        trainer(max_epochs=2).fit(module, datamodule=Batches(data))
    assert_same_weights(ours, theirs, rtol=1e-4, atol=1e-5)
    scored = with_scores(batches, folders, tokenizer, trainer)
    for batch, other in zip(packed, scored, strict=True):
        for ours_of, theirs_of in zip(batch.scores, other.scores, strict=True):
            torch.testing.assert_close(ours_of, theirs_of, rtol=1e-5, atol=1e-5)


def test_the_useful_share_counts_each_prompt_once(folders, tokenizer, batches, trainer):
    useful = sum(int(field.sum()) for field in (batches[0].chosen.attention_mask, batches[0].rejected.response_mask))
    packed = packed_of(batches[0], 30)
    apart = len(packed.tokens.row_ids) * packed.tokens.longest
    for batch, packing, computed in (
        (packed_of(batches[0]), "auto", useful),
        (packed, "sdpa", packed.tokens.input_ids.numel()),
        (packed, "off", apart),
        (batches[0], "auto", batches[0].stacked().input_ids.numel()),
    ):
        fit = trainer(max_steps=1)
        fit.fit(live(folders, tokenizer, packing=packing), datamodule=Batches([batch]))
        assert fit.logged_metrics["dadpo/train/useful_token_share"] == pytest.approx(useful / computed)
    assert useful < packed.tokens.input_ids.numel() < apart


def test_packed_rows_with_a_loss_that_is_no_number_name_each_pair_once(folders, tokenizer, batches, trainer):
    batch = packed_of(with_scores(batches[:1], folders, tokenizer, trainer)[0])
    batch.scores.ref_rejected_logps[1] = math.nan
    with pytest.raises(WrongInput, match="rows data.jsonl:1, data.jsonl:2, data.jsonl:3, data.jsonl:4\\)"):
        trainer().fit(cached(folders, tokenizer), datamodule=Batches([batch]))


def test_a_policy_serves_with_the_attention_it_came_with(folders, tokenizer, batches, monkeypatch):
    seen = []
    monkeypatch.setattr(PolicyModule, "serve", lambda self, *_: seen.append(self.policy.config._attn_implementation))
    module = live(folders, tokenizer)
    module.configure_model()
    own = module.policy.config._attn_implementation
    module.losses(packed_of(batches[0]))
    assert module.policy.config._attn_implementation != own
    module.serve(None, None)
    assert seen == [own]
