"""QLoRA: adapters on a base in fewer bits, by bitsandbytes, which has a CPU backend."""

import logging

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from datamodules.wrong_input import WrongInput
from lightning_modules import DaDPOModule, FineTuningModule
from lightning_modules.adapters import switched_off
from lightning_modules.language_model import build_language_model
from lightning_modules.packing import Packing
from lightning_modules.response_logps import response_logps
from tests.lightning_modules.test_adapters import LORA, adapted, logits
from tests.lightning_modules.test_packing import packed_pairs

bitsandbytes = pytest.importorskip("bitsandbytes", reason="quantized bases need bitsandbytes")
KINDS = ("int8", "nf4")
WIDE = {"initializer_range": 0.2, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def bits(model):
    """Bytes of the layers' frozen weights, by their storage."""
    return sum(
        p.untyped_storage().nbytes()
        for name, p in model.named_parameters()
        if name.endswith("_proj.weight") or name.endswith("base_layer.weight")
    )


@pytest.mark.parametrize(("kind", "part"), [("int8", 1 / 4), ("nf4", 1 / 8)])
def test_the_base_takes_its_bits_and_stays_near(kind, part, model_folder, tokenizer):
    folder = model_folder(**WIDE)
    full = build_language_model(folder)
    module = adapted(folder, tokenizer, moved=False, quantization=kind)
    assert bits(module.policy) == pytest.approx(part * bits(full), rel=1e-3)
    near, theirs = logits(module.policy), logits(full)
    error = (near - theirs).norm() / theirs.norm()
    assert 0 < error < {"int8": 0.06, "nf4": 0.5}[kind]  # random weights have the least room
    assert module.policy.lm_head.weight.dtype == torch.float32
    trained = {name for name, p in module.policy.named_parameters() if p.requires_grad}
    layers = {name.partition(".lora_")[0] for name in trained}
    assert {name.rpartition(".")[2] for name in layers} == set(LAYERS)
    assert len(trained) == 2 * len(layers) == 4 * len(LAYERS)


@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_the_adapter_alone_and_goes_on_from_a_checkpoint(
    kind, model_folder, tokenizer, token_batch, trainer, tmp_path
):
    loader = DataLoader([token_batch([(3, 4), (2, 6)], seed=seed) for seed in range(3)], batch_size=None)
    settings = {"quantization": kind, "optimizer": lambda groups: torch.optim.AdamW(groups, lr=0.01), "moved": False}
    whole = adapted(model_folder(**WIDE), tokenizer, gradient_checkpointing=True, **settings)
    before = {name: p.clone() for name, p in whole.policy.named_parameters()}
    fit = trainer(max_epochs=2)
    fit.fit(whole, loader)
    moved = {name for name, p in whole.policy.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    fit.save_checkpoint(tmp_path / "two.ckpt")
    assert all("lora_" in name for name in torch.load(tmp_path / "two.ckpt", weights_only=True)["state_dict"])
    trainer(max_epochs=3).fit(whole, loader, ckpt_path=str(tmp_path / "two.ckpt"), weights_only=True)
    resumed = adapted(model_folder(**WIDE), tokenizer, seed=7, gradient_checkpointing=True, **settings)
    trainer(max_epochs=3).fit(resumed, loader, ckpt_path=str(tmp_path / "two.ckpt"), weights_only=True)
    for (name, p), q in zip(whole.policy.named_parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["qwen2", "t5"])
def test_it_is_merged_into_the_full_base_and_that_is_said(
    family, kind, model_folder, t5_folder, tokenizer, tmp_path, caplog
):
    folder = t5_folder() if family == "t5" else model_folder(**WIDE)
    module = adapted(folder, tokenizer, quantization=kind)
    with caplog.at_level(logging.INFO):
        module.export(tmp_path / "student")
    assert f"merged into the base in torch.float32, not in {kind}" in caplog.text
    auto = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
    plain = auto.from_pretrained(tmp_path / "student")
    assert not hasattr(plain.config, "quantization_config")
    expected = adapted(folder, tokenizer, moved=False)  # the same adapter on the full base
    state = {name: p for name, p in module.policy.named_parameters() if "lora_" in name}
    expected.policy.load_state_dict(state, strict=False)
    torch.testing.assert_close(logits(plain), logits(expected.policy), rtol=1e-4, atol=1e-5)


def test_packed_rows_say_what_padded_rows_say(model_folder, tokenizer, caplog):
    for kind, tolerance in (("nf4", 1e-4), ("int8", 0.05)):  # int8 rounds activations too: a row's last bit may turn
        module, batch = adapted(model_folder(**WIDE), tokenizer, quantization=kind), packed_pairs()
        with caplog.at_level(logging.INFO), torch.no_grad():
            packed, padded = (response_logps(module.policy, batch, packing=Packing(how)) for how in ("auto", "off"))
        torch.testing.assert_close(packed, padded, rtol=tolerance, atol=tolerance)
    assert "rows are packed" in caplog.text
    assert "rows are padded" not in caplog.text


def test_the_reference_is_the_quantized_base(model_folder, tokenizer, pair_batch):
    module = DaDPOModule(
        model_folder(**WIDE), tokenizer, mode="live", teacher=model_folder(seed=2), lora=LORA, quantization="nf4"
    )
    module.configure_model()
    assert len(module._frozen) == 1
    assert not getattr(module._frozen[0], "is_quantized", False)  # the teacher is as it was
    result = module.losses(pair_batch(3))
    torch.testing.assert_close(result.loss, torch.nn.functional.softplus(result.target_margin))


def test_what_cannot_be_quantized_is_refused(model_folder, tokenizer, tmp_path, monkeypatch):
    with pytest.raises(WrongInput, match="a base in nf4 cannot be trained"):
        FineTuningModule("sft", model_folder(), tokenizer, quantization="nf4")
    adapted(model_folder(), tokenizer, export_as="adapter").export(tmp_path / "first")
    with pytest.raises(WrongInput, match="an adapter is not quantised"):
        adapted(tmp_path / "first", tokenizer, quantization="nf4")
    with pytest.raises(WrongInput, match="a new model is not quantised"):
        build_language_model({"model_type": "qwen2"}, tokenizer, quantization="int8")
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(WrongInput, match=r"nf4 needs bitsandbytes.*smoothtalk\[quantized\]"):
        FineTuningModule("sft", model_folder(), tokenizer, quantization="nf4", lora=LORA)


def test_evaluated_in_between_it_still_has_its_gradients(model_folder, tokenizer):
    module = adapted(model_folder(**WIDE), tokenizer, quantization="nf4")
    gradients = []
    for _ in range(2):
        module.train()
        module.policy.zero_grad()
        module.policy(input_ids=torch.tensor([[3, 9, 4, 7]])).logits.pow(2).sum().backward()
        gradients.append([p.grad.clone() for p in module.policy.parameters() if p.requires_grad])
        logits(module.policy)  # in eval mode
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])
    for first, second in zip(*gradients, strict=True):
        assert torch.equal(first, second)


def test_switched_off_it_is_the_quantized_start(model_folder, tokenizer):
    fresh, moved = (
        adapted(model_folder(**WIDE), tokenizer, moved, quantization="nf4").policy for moved in (False, True)
    )
    with switched_off(moved):
        assert torch.equal(logits(moved), logits(fresh))
    assert not torch.equal(logits(moved), logits(fresh))
