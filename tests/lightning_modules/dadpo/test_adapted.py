"""daDPO on an adapter: the reference is the policy with the adapter switched off, and no copy of it is in memory."""

import gc

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from datamodules.batches import PackedPairBatch
from datamodules.wrong_input import WrongInput
from lightning_modules import DaDPOModule
from lightning_modules.language_model import build_language_model, freeze
from lightning_modules.response_logps import response_logps
from tests.lightning_modules.test_packing import packed_pairs

WIDE = {"initializer_range": 0.2}
LORA = {"rank": 4, "alpha": 16}


@pytest.fixture(scope="module")
def folders(model_folder):
    return {"student": model_folder(seed=1, **WIDE), "teacher": model_folder(seed=2, hidden_size=24, **WIDE)}


@pytest.fixture
def batches(pair_batch):
    return [pair_batch(4, seed) for seed in (0, 10, 20)]


def adapted(folders, tokenizer, **settings):
    torch.manual_seed(0)
    settings = {"optimizer": lambda groups: torch.optim.AdamW(groups, lr=0.02), "mode": "live", **settings}
    return DaDPOModule(folders["student"], tokenizer, teacher=folders["teacher"], lora=LORA, **settings)


def models_in_memory(shape):
    gc.collect()
    models = [x for x in gc.get_objects() if isinstance(x, PreTrainedModel) and hasattr(x, "lm_head")]
    return sum(model.lm_head.weight.shape == shape for model in models)


def test_no_second_copy_is_in_memory(folders, tokenizer, batches):
    shape = build_language_model(folders["student"]).lm_head.weight.shape
    before = models_in_memory(shape)
    module = adapted(folders, tokenizer)
    module.configure_model()
    module.losses(batches[0])
    assert models_in_memory(shape) - before == 1
    assert [model.config.hidden_size for model in module._frozen] == [24]
    copied = adapted(folders, tokenizer, reference=str(folders["teacher"]))  # one of its own has to be there
    copied.configure_model()
    assert [model.config.hidden_size for model in copied._frozen] == [24, 24]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_is_that_with_a_copied_reference(folders, tokenizer, batches, trainer, checkpointing, tmp_path):
    copy = tmp_path / "copy"  # the same weights under another name
    build_language_model(folders["student"]).save_pretrained(copy)
    weights, scores = [], []
    for reference in (None, copy):
        module = adapted(folders, tokenizer, reference=reference, gradient_checkpointing=checkpointing)
        fit = trainer(max_epochs=2)
        fit.fit(module, DataLoader(batches, batch_size=None), DataLoader(batches[:1], batch_size=None))
        assert module.reference_is_policy == (reference is None)
        assert len(module._frozen) == 1 + (reference is not None)
        weights.append([p for p in module.policy.parameters() if p.requires_grad])
        scores.append(module.frozen_scores(batches[0]))
        assert (module.policy_logps(batches[0])[0] - scores[-1].ref_chosen_logps).abs().max() > 0.1  # it has moved
    assert len(weights[0]) == 14
    for p, q in zip(*weights, strict=True):
        assert torch.equal(p, q)
    for now, copied in zip(*scores, strict=True):
        assert torch.equal(now, copied)
    start = response_logps(freeze(build_language_model(copy)), batches[0].chosen, vocabulary=len(tokenizer))
    torch.testing.assert_close(scores[0].ref_chosen_logps, start)


def test_under_autocast_too(folders, tokenizer, batches, trainer):
    module = adapted(folders, tokenizer, dtype="bfloat16")
    trainer(precision="bf16-mixed").fit(module, DataLoader(batches, batch_size=None))
    moved = [p for name, p in module.policy.named_parameters() if "lora_B" in name]
    assert all(p.dtype == torch.float32 and p.abs().max() > 0 for p in moved)


def test_packed_pairs_in_live_mode(folders, tokenizer):
    module = adapted(folders, tokenizer)
    module.configure_model()
    for name, p in module.policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.2)
    batch = packed_pairs()
    student, teacher = (freeze(build_language_model(folders[name])) for name in ("student", "teacher"))
    pairs = PackedPairBatch(batch, None)
    got = torch.stack(module.frozen_scores(pairs))
    expected = [
        response_logps(model, batch.padded(), vocabulary=len(tokenizer)).chunk(2) for model in (student, teacher)
    ]
    torch.testing.assert_close(got, torch.stack([*expected[0], *expected[1]]), rtol=1e-5, atol=1e-5)
    module.losses(pairs).loss.sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in module.policy.parameters())


def test_at_the_start_the_loss_is_that_of_the_target_margin(folders, tokenizer, batches):
    module = adapted(folders, tokenizer)
    module.configure_model()
    result = module.losses(batches[0])
    torch.testing.assert_close(result.loss, torch.nn.functional.softplus(result.target_margin))
    assert not result.ref_reward_margin.abs().max() > 1e-6


def test_cached_mode_is_as_before(folders, tokenizer, batches):
    module = adapted(folders, tokenizer, mode="cached")
    module.configure_model()
    assert module._frozen == ()
    with pytest.raises(WrongInput, match="the batch has no scores"):
        module.losses(batches[0])
