"""LoRA: peft's own numbers, what is trained, kept and exported, and what it must not disturb."""

import copy
import json
import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from datamodules.batches import LoadRequest, Workload
from datamodules.digest import model_digest
from datamodules.wrong_input import WrongInput
from lightning_modules import FineTuningModule
from lightning_modules.adapters import check_settings, switched_off
from lightning_modules.language_model import build_language_model, build_model
from lightning_modules.packing import Packing
from lightning_modules.response_logps import response_logps
from lightning_modules.serving import Engine
from tests.lightning_modules.test_packing import packed_pairs

LORA = {"rank": 4, "alpha": 6}
WIDE = {"initializer_range": 0.2}
FAMILIES = {
    "qwen2": {"tie_word_embeddings": True},
    "llama": {"mlp_bias": True},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8},
    "gpt2": {},
}


def adapted(folder, tokenizer, moved=True, seed=0, lora=None, **settings):
    """A module with an adapter, which has learnt something if it is ``moved``: fresh ones change no number."""
    torch.manual_seed(seed)
    module = FineTuningModule("sft", folder, tokenizer, lora=lora or LORA, **settings)
    module.configure_model()
    if moved:
        for name, p in module.policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.1)
    return module


def sgd(groups):
    return torch.optim.SGD(groups, lr=0.5)


def logits(model, ids=((3, 9, 4, 7), (5, 8, 6, 3))):
    ids = torch.tensor(ids)
    labels = {"labels": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.eval()(input_ids=ids, **labels).logits


@pytest.fixture
def loader(token_batch):
    return DataLoader([token_batch([(3, 4), (2, 6)], seed=seed) for seed in range(6)], batch_size=None)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_pefts_own_model(family, rslora, model_folder, tokenizer):
    folder = model_folder(family, **WIDE, **FAMILIES[family])
    module = adapted(folder, tokenizer, lora={**LORA, "rslora": rslora})
    config = LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", use_rslora=rslora, task_type="CAUSAL_LM")
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    ours = {name: p for name, p in module.policy.named_parameters() if p.requires_grad}
    expected = {name.removeprefix("base_model.model."): p for name, p in theirs.named_parameters() if p.requires_grad}
    assert ours.keys() == expected.keys()
    assert not any("lm_head" in name for name in ours)
    for name, p in expected.items():
        p.data.copy_(ours[name])
    torch.testing.assert_close(logits(module.policy), logits(theirs), rtol=0, atol=0)
    assert (logits(module.policy) - logits(AutoModelForCausalLM.from_pretrained(folder))).abs().max() > 0.01


@pytest.mark.parametrize("family", [*FAMILIES, "t5"])
def test_the_merged_export_is_a_plain_model_with_the_same_logits(family, model_folder, t5_folder, tokenizer, tmp_path):
    folder = t5_folder() if family == "t5" else model_folder(family, **WIDE, **FAMILIES[family])
    module = adapted(folder, tokenizer)
    before = {name: p.clone() for name, p in module.policy.state_dict().items()}
    module.export(tmp_path / "student")
    kind = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
    plain, info = kind.from_pretrained(tmp_path / "student", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not (tmp_path / "student" / "adapter_config.json").exists()
    assert not any("lora" in name for name in plain.state_dict())
    torch.testing.assert_close(logits(plain), logits(module.policy), rtol=1e-4, atol=1e-5)
    for name, p in module.policy.state_dict().items():  # training could go on
        assert torch.equal(p, before[name])


@pytest.mark.parametrize(("rslora", "scale"), [(False, 6 / 4), (True, 6 / math.sqrt(4))])
def test_the_merged_weight_is_the_formula(rslora, scale, model_folder, tokenizer, tmp_path):
    folder = model_folder(**WIDE)
    module = adapted(folder, tokenizer, lora={**LORA, "rslora": rslora, "target_modules": ["q_proj", "down_proj"]})
    module.export(tmp_path / "student")
    start, merged = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (folder, tmp_path / "student"))
    changed = {name for name, w in start.items() if not torch.equal(w, merged[name])}
    layers = ("self_attn.q_proj", "mlp.down_proj")
    assert changed == {f"model.layers.0.{layer}.weight" for layer in layers}
    for layer in layers:
        part, name = module.policy.get_submodule(f"model.layers.0.{layer}"), f"model.layers.0.{layer}.weight"
        expected = start[name] + scale * part.lora_B["default"].weight @ part.lora_A["default"].weight
        torch.testing.assert_close(merged[name], expected)


@pytest.mark.parametrize("family", ["qwen2", "t5"])
def test_an_exported_adapter_is_loaded_by_peft_and_by_us(family, model_folder, t5_folder, tokenizer, tmp_path):
    folder = t5_folder() if family == "t5" else model_folder(**WIDE)
    (tmp_path / "link").symlink_to(folder)
    module = adapted(tmp_path / "link", tokenizer, export_as="adapter")
    out = tmp_path / "student"
    module.export(out)
    names = {path.name for path in out.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert "model.safetensors" not in names
    kind = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
    theirs = PeftModel.from_pretrained(kind.from_pretrained(folder), out)
    torch.testing.assert_close(logits(theirs), logits(module.policy), rtol=0, atol=0)
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder)
    ours = build_model(out, tokenizer)  # a model as any other: merged, without peft's layers
    torch.testing.assert_close(logits(ours), logits(module.policy), rtol=1e-4, atol=1e-5)
    assert {name for name, _ in ours.named_parameters()} == {
        n for n, _ in kind.from_pretrained(folder).named_parameters()
    }


def test_two_exports_of_one_adapter_are_the_same_bytes(model_folder, tokenizer, tmp_path):
    module = adapted(model_folder(), tokenizer, export_as="adapter")
    for name in ("one", "two"):
        module.export(tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    targets = json.loads((tmp_path / "one" / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets)


def test_scores_of_an_adapter_folder_are_keyed_on_adapter_and_base(model_folder, tokenizer, tmp_path):
    for name, seed, base in (("a", 0, 0), ("same", 0, 0), ("moved", 1, 0), ("other base", 0, 1)):
        adapted(model_folder(seed=base), tokenizer, seed=seed, export_as="adapter").export(tmp_path / name)
    digests = {path.name: model_digest(path) for path in tmp_path.iterdir()}
    assert digests["a"] == digests["same"]
    assert len({digests["a"], digests["moved"], digests["other base"]}) == 3
    (tmp_path / "a" / "adapter_config.json").write_text('{"base_model_name_or_path": "/no/such/model"}')
    with pytest.raises(WrongInput, match="neither a model folder nor"):
        model_digest(tmp_path / "a")


def test_an_adapter_whose_base_is_gone_or_another_is_told(model_folder, tokenizer, tmp_path):
    adapted(model_folder(), tokenizer, export_as="adapter").export(tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(WrongInput, match="there is no such folder"):
        build_language_model(tmp_path / "a")
    path.write_text(json.dumps({**config, "base_model_name_or_path": str(model_folder(hidden_size=32))}))
    with pytest.raises(WrongInput, match="the adapter cannot be loaded"):
        build_language_model(tmp_path / "a")
    path.write_text(json.dumps({**config, "base_model_name_or_path": None, "r": 0}) + "}")
    with pytest.raises(WrongInput, match="does not name its base model"):
        build_language_model(tmp_path / "a")


class Watched(Callback):
    """What is optimised and has gradients in the middle of training."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self.graded = {name for name, p in pl_module.policy.named_parameters() if p.grad is not None}


def test_only_the_adapter_is_trained_optimised_and_kept(model_folder, tokenizer, loader, trainer, tmp_path):
    folder, watched = model_folder(**WIDE), Watched()
    module = adapted(folder, tokenizer, optimizer=lambda groups: torch.optim.AdamW(groups, lr=0.01))
    names = {name for name, _ in module.policy.named_parameters() if "lora_" in name}
    before = copy.deepcopy(module.policy.state_dict())
    fit = trainer(callbacks=[watched])
    fit.fit(module, loader)
    fit.save_checkpoint(tmp_path / "lora.ckpt")
    assert watched.graded == names
    assert watched.optimised == {id(p) for name, p in module.policy.named_parameters() if name in names}
    changed = {name for name, p in module.policy.state_dict().items() if not torch.equal(p, before[name])}
    assert changed == names
    kept = torch.load(tmp_path / "lora.ckpt", weights_only=True)
    assert set(kept["state_dict"]) == {f"policy.{name}" for name in names}
    assert len(kept["optimizer_states"][0]["state"]) == len(names)
    full = FineTuningModule("sft", folder, tokenizer)
    fit = trainer(max_steps=1)
    fit.fit(full, loader)
    fit.save_checkpoint(tmp_path / "full.ckpt")
    sizes = [(tmp_path / f"{name}.ckpt").stat().st_size for name in ("lora", "full")]
    assert sizes[0] < sizes[1] / 4, sizes


def test_a_checkpoint_goes_on_where_it_stopped(model_folder, tokenizer, loader, trainer, tmp_path):
    settings = {"optimizer": lambda groups: torch.optim.AdamW(groups, lr=0.01)}
    whole = adapted(model_folder(**WIDE), tokenizer, moved=False, **settings)
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer(max_epochs=3, enable_checkpointing=True, callbacks=[keep]).fit(whole, loader)
    resumed = adapted(model_folder(**WIDE), tokenizer, seed=7, **settings)  # another start of the adapter
    fit = trainer(max_epochs=3)
    fit.fit(resumed, loader, ckpt_path=str(tmp_path / "epoch=0.ckpt"), weights_only=True)
    assert fit.global_step == 18
    for (name, p), q in zip(whole.policy.named_parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_a_checkpoint_of_another_adapter_is_refused(model_folder, tokenizer, loader, trainer, tmp_path):
    fit = trainer(max_steps=1)
    fit.fit(adapted(model_folder(), tokenizer), loader)
    fit.save_checkpoint(tmp_path / "a.ckpt")
    other = adapted(model_folder(), tokenizer, lora={**LORA, "target_modules": ["q_proj"]})
    with pytest.raises(WrongInput, match="not those of this adapter"):
        trainer(max_steps=2).fit(other, loader, ckpt_path=str(tmp_path / "a.ckpt"), weights_only=True)


@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma2"])
def test_packed_rows_say_what_padded_rows_say(family, model_folder, tokenizer):
    config = {**WIDE, **FAMILIES[family], "num_hidden_layers": 2}
    module, batch = adapted(model_folder(family, **config), tokenizer), packed_pairs()
    weights = torch.linspace(-1, 2, 10)
    gradients = []
    for packing in ("auto", "off"):
        logps = response_logps(module.policy, batch, chunk=4, packing=Packing(packing))
        module.policy.zero_grad()
        (weights * logps).sum().backward()
        gradients.append((logps, {n: p.grad.clone() for n, p in module.policy.named_parameters() if p.requires_grad}))
    (packed, by_packed), (padded, by_padded) = gradients
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)
    for name, expected in by_padded.items():
        scale = expected.abs().max()
        assert scale > 1e-4, name
        torch.testing.assert_close(by_packed[name], expected, rtol=1e-4, atol=1e-4 * scale.item(), msg=name)


@pytest.mark.parametrize("family", ["qwen2", "t5"])
def test_gradient_checkpointing_gives_the_same_weights(
    family, model_folder, t5_folder, tokenizer, token_batch, seq2seq_batch, trainer
):
    folder = t5_folder() if family == "t5" else model_folder(**WIDE)
    make = (lambda lengths, seed: seq2seq_batch(lengths, seed=seed)) if family == "t5" else token_batch
    loader = DataLoader([make([(3, 4), (2, 6)], seed=seed) for seed in range(4)], batch_size=None)
    weights = []
    for checkpointing in (False, True):
        module = adapted(folder, tokenizer, optimizer=sgd, gradient_checkpointing=checkpointing)
        start = copy.deepcopy(module.policy.state_dict())
        trainer().fit(module, loader)
        assert module.policy.is_gradient_checkpointing == checkpointing
        trained = {n: p for n, p in module.policy.named_parameters() if p.requires_grad}
        assert all(not torch.equal(p, start[name]) for name, p in trained.items())
        weights.append(trained)
    for name, p in weights[0].items():
        torch.testing.assert_close(p, weights[1][name], rtol=1e-5, atol=1e-6, msg=name)


def test_switched_off_it_is_the_start_and_back_on_it_learns(model_folder, tokenizer):
    folder = model_folder("gpt2", resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3, **WIDE)
    module = adapted(folder, tokenizer, lora={**LORA, "dropout": 0.2})
    module.train()
    ids = torch.tensor([[3, 9, 4, 7]])
    with switched_off(module.policy) as reference, torch.no_grad():
        off = reference(input_ids=ids).logits
    assert torch.equal(off, AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids).logits)
    assert all(part.training for part in module.policy.modules())
    module.policy(input_ids=ids).logits.sum().backward()
    assert all((p.grad is not None) == ("lora_" in name) for name, p in module.policy.named_parameters())


def test_a_base_in_bfloat16_has_an_adapter_in_float32(model_folder, tokenizer, loader, trainer, tmp_path):
    module = adapted(model_folder(**WIDE), tokenizer, dtype="bfloat16", optimizer=sgd)
    full = build_language_model(model_folder(**WIDE), dtype="bfloat16")
    dtypes = {name: p.dtype for name, p in module.policy.named_parameters()}
    assert all(dtype == (torch.float32 if "lora_" in name else torch.bfloat16) for name, dtype in dtypes.items())
    with switched_off(module.policy):
        assert torch.equal(logits(module.policy), logits(full))
    trainer(precision="bf16-mixed").fit(module, loader)
    assert {name: p.dtype for name, p in module.policy.named_parameters()} == dtypes
    module.export(tmp_path / "student")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert merged.dtype == torch.bfloat16
    torch.testing.assert_close(logits(merged), logits(module.policy), rtol=0.05, atol=0.05)


def test_it_is_served_in_the_middle_of_training(model_folder, tokenizer):
    module = adapted(model_folder(**WIDE), tokenizer)
    module.train()
    ids = tokenizer("The lowest price is 4 crowns.")["input_ids"]
    requests = [LoadRequest(str(n), 0.0, [*ids, 5 + n], 4, True) for n in range(3)]
    engine = Engine(ignore_eos=True, max_batch_tokens=32, max_requests=4, cache_tokens=512)
    served = module.serve(Workload("w", "m", "fifo", None, 1.0, 0, None, requests), engine)
    assert [one.status for one in served] == ["ok"] * 3
    assert all(one.output_tokens == 4 for one in served)
    assert all(p.requires_grad == ("lora_" in name) for name, p in module.policy.named_parameters())
    assert module.policy.training


@pytest.mark.parametrize(("family", "name"), [("qwen2", "query"), ("qwen2", "lm_head"), ("llama", "embed_tokens")])
def test_unknown_targets_name_what_there_is_before_any_weight_is_read(family, name, model_folder, tokenizer, tmp_path):
    config = tmp_path / "config.json"
    config.write_bytes((model_folder(family) / "config.json").read_bytes())
    known = "of down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    with pytest.raises(WrongInput) as error:
        check_settings({"target_modules": ["q_proj", name]}, start=str(tmp_path))
    assert f"no linear layers {name}" in str(error.value)
    assert known in str(error.value)
    with pytest.raises(WrongInput, match=f"no linear layers {name}"):
        adapted(model_folder(family), tokenizer, lora={"target_modules": [name]})
    check_settings({"target_modules": ["q_proj"]}, start=str(tmp_path))
    check_settings({"target_modules": ["q_proj"]}, start=str(tmp_path / "made later"))
    with pytest.raises(WrongInput, match=f"no linear layers {name}"):
        check_settings({"target_modules": [name]}, start=str(tmp_path / "made later"), made_from=str(tmp_path))


def test_what_cannot_be_adapted_is_refused(model_folder, t5_folder, tokenizer, t5_fields, tmp_path):
    with pytest.raises(WrongInput, match="a new model has nothing to adapt"):
        adapted(t5_fields, tokenizer)
    adapted(model_folder(), tokenizer, export_as="adapter").export(tmp_path / "first")
    adapted(tmp_path / "first", tokenizer)  # merged, it is a start like any other
    with pytest.raises(WrongInput, match="the start is an adapter itself"):
        adapted(tmp_path / "first", tokenizer, export_as="adapter")
    wider = copy.deepcopy(tokenizer)
    wider.add_tokens(["<mark>"])
    with pytest.raises(WrongInput, match="under LoRA new rows learn nothing"):
        adapted(t5_folder(), wider)
