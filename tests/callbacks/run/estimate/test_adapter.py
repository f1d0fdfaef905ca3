"""An adapter's counts against peft's layers, torch's counters, what autograd keeps, and what lies on disk."""

import pytest
import torch
import yaml
from lightning import Trainer
from torch.utils.data import DataLoader

import train
from callbacks.run.estimate.adapter import adapter_of, base_bytes
from callbacks.run.estimate.fitting import RANK
from callbacks.run.estimate.flops import training_flops
from callbacks.run.estimate.memory import Batch, Precision, layer_bytes
from callbacks.run.estimate.models import Policy
from callbacks.run.estimate.moments import peak
from callbacks.run.estimate.shape import shape_of
from callbacks.run.estimate.training import training_moments
from lightning_modules import FineTuningModule
from lightning_modules.adapters import Adaptation
from lightning_modules.language_model import build_language_model, build_skeleton
from lightning_modules.response_logps import response_logps
from tests.callbacks.run.estimate.test_flops import FIELDS, VOCABULARY, batch, counted
from tests.callbacks.run.estimate.test_memory import LENGTH, ROWS, kept
from tests.callbacks.run.estimate.test_moments import PAIRS, PROMPT, RESPONSES, TOLERANCE, WIDE, side, trained

LORA = {"rank": 4, "alpha": 8}


def adapted(folder, **build):
    model = build_language_model(folder, **build).train()
    Adaptation(LORA).adapt(model, str(folder))
    return model


def parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma2", "gpt2"])
def test_as_many_parameters_as_peft_makes(family, model_folder):
    folder = model_folder(family, **({"head_dim": 16} if family == "gemma2" else {}), num_hidden_layers=2)
    shape = shape_of(build_skeleton(folder))
    assert adapter_of(shape, 4, "all-linear").parameters == parameters(adapted(folder))
    targets = ["c_fc"] if family == "gpt2" else ["q_proj", "down_proj"]
    model = build_language_model(folder)
    Adaptation({**LORA, "target_modules": targets}).adapt(model, str(folder))
    assert adapter_of(shape, 4, targets).parameters == parameters(model)
    assert sum(one.inputs * one.outputs for one in shape.products) == shape.linear


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_operations(family, checkpointing, model_folder):
    folder = model_folder(family, **FIELDS)
    model = adapted(folder, attn_implementation="eager", gradient_checkpointing=checkpointing)
    seen = counted(lambda: response_logps(model, batch(), vocabulary=VOCABULARY).sum().backward())
    shape = shape_of(build_skeleton(folder))
    adapter = adapter_of(shape, 4, "all-linear")
    expected = training_flops(shape, 3 * 12, 3 * 12**2, 13, VOCABULARY, checkpointing, True, adapter)
    assert expected == pytest.approx(seen, rel=0.01)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("precision", [Precision(4, 4), Precision(4, 2), Precision(2, 2)])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_what_a_layer_keeps(family, precision, padded, model_folder):
    dtype = "float32" if precision.weights == 4 else "bfloat16"
    folders = [model_folder(family, **FIELDS | {"num_hidden_layers": n}) for n in (1, 2, 3)]
    _, two, three = (kept(adapted(folder, dtype=dtype), padded, precision.autocast) for folder in folders)
    shape = shape_of(build_skeleton(folders[0]))
    adapter = adapter_of(shape, 4, "all-linear")
    counted = layer_bytes(shape, Batch(ROWS, LENGTH, 0, padded), precision, adapter)
    casts = precision.products * (shape.linear + adapter.parameters) if precision.autocast else 0
    assert counted + casts == pytest.approx(three - two, rel=0.05)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_of_a_training(checkpointing, tokenizer, tmp_path):
    build_language_model(WIDE, tokenizer).save_pretrained(tmp_path / "base")
    settings = {"gradient_checkpointing": checkpointing, "lora": LORA}
    module = FineTuningModule("sft", tmp_path / "base", tokenizer, **settings)
    found = trained(tmp_path, module, side(RESPONSES[0]))
    shape = shape_of(build_skeleton(WIDE, tokenizer))
    policy = Policy(shape, Precision(4, 4), len(tokenizer), checkpointing, False, 2, cuda=False)
    policy = policy._replace(adapter=adapter_of(shape, 4, "all-linear"))
    moments = training_moments(policy, Batch(PAIRS, PROMPT + RESPONSES[0], PAIRS * RESPONSES[0], padded=False))
    for after in ("checkpoint", "merged export"):
        del moments[after]
    assert peak(moments)[1] == pytest.approx(found, rel=TOLERANCE), (peak(moments), found / 2**20)


def test_checkpoint_and_exports_on_disk(model_folder, tokenizer, tmp_path):
    folder = model_folder(hidden_size=64, intermediate_size=128, num_hidden_layers=2)
    shape = shape_of(build_skeleton(folder))
    for export_as in ("merged", "adapter"):
        module = FineTuningModule("sft", folder, tokenizer, lora={"rank": 64}, export_as=export_as)
        fit = Trainer(accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False)
        fit.fit(module, DataLoader([side(4)] * 2, batch_size=None))
        fit.save_checkpoint(tmp_path / "lora.ckpt")
        module.export(tmp_path / export_as)
        policy = Policy(shape, Precision(), len(tokenizer), False, False, 2, cuda=False)
        policy = policy._replace(adapter=adapter_of(shape, 64, "all-linear", merged=export_as == "merged"))
        (weights,) = (tmp_path / export_as).glob("*.safetensors")
        assert weights.stat().st_size == pytest.approx(policy.exported, rel=0.03)
    assert (tmp_path / "lora.ckpt").stat().st_size == pytest.approx(policy.checkpoint, rel=0.1)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_bytes_of_a_quantized_base(kind, model_folder):
    pytest.importorskip("bitsandbytes", reason="quantized bases need bitsandbytes")
    folder = model_folder(hidden_size=128, intermediate_size=256, num_hidden_layers=2)
    model = build_language_model(folder, quantization=kind)
    found = sum(p.untyped_storage().nbytes() for p in {id(p): p for p in model.parameters()}.values())
    expected = base_bytes(shape_of(build_skeleton(folder)), 4, kind)
    assert expected == pytest.approx(found, rel=0.01)


def test_the_rank_that_a_mend_plans_with_is_the_preset_s():
    preset = yaml.safe_load((train.Path(train.__file__).parent / "conf/lora/all_linear.yaml").read_text())
    assert preset["rank"] == RANK
    assert torch.tensor(preset["dropout"]) == 0
