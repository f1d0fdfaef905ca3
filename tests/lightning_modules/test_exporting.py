"""Exported folders: whole, loadable by transformers alone, or not there."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from lightning_modules import FineTuningModule
from lightning_modules.exporting import export
from lightning_modules.language_model import build_language_model


@pytest.fixture
def module(model_folder, tokenizer):
    module = FineTuningModule("sft", model_folder(rows=900), tokenizer)
    module.configure_model()
    torch.nn.init.normal_(module.policy.lm_head.weight)
    return module


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).lm_head.weight


def test_transformers_loads_it_with_all_that_belongs_to_it(module, tokenizer, tmp_path):
    module.export(tmp_path / "deep" / "student")
    folder = tmp_path / "deep" / "student"
    model, loaded = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for p, q in zip(model.parameters(), module.policy.parameters(), strict=True):
        assert torch.equal(p, q)
    turns = [{"role": "user", "content": "Who is the cheapest?"}]
    assert loaded.apply_chat_template(turns, add_generation_prompt=True) == tokenizer.apply_chat_template(
        turns, add_generation_prompt=True
    )
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert model.config.use_cache
    generation = GenerationConfig.from_pretrained(folder)
    assert generation.eos_token_id == [tokenizer.eos_token_id]
    assert generation.pad_token_id == tokenizer.pad_token_id
    inputs = loaded.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert model.generate(**inputs, max_new_tokens=3).shape[1] > inputs["input_ids"].shape[1]


def test_safetensors_only_and_nothing_beside(module, tmp_path):
    module.export(tmp_path / "student")
    names = {path.name for path in (tmp_path / "student").iterdir()}
    assert "model.safetensors" in names
    assert not {name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))}
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_in_the_dtype_of_training(model_folder, tokenizer, tmp_path):
    export(build_language_model(model_folder(), dtype="bfloat16"), tokenizer, tmp_path / "student")
    assert json.loads((tmp_path / "student" / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "student").dtype == torch.bfloat16


def test_all_stop_tokens_of_the_model_it_started_from(module, tokenizer, tmp_path):
    module.policy.generation_config.eos_token_id = [7, tokenizer.eos_token_id]
    module.export(tmp_path / "student")
    stops = GenerationConfig.from_pretrained(tmp_path / "student").eos_token_id
    assert stops == sorted([7, tokenizer.eos_token_id])


def test_a_published_generation_config_that_transformers_would_not_save(model_folder, tokenizer, tmp_path):
    """As Vicuna's: temperature and top_p, but not do_sample."""
    shutil.copytree(model_folder(), tmp_path / "published")
    (tmp_path / "published" / "generation_config.json").write_text(
        json.dumps({"temperature": 0.9, "top_p": 0.6, "eos_token_id": 2})
    )
    export(build_language_model(tmp_path / "published"), tokenizer, tmp_path / "student")
    generation = GenerationConfig.from_pretrained(tmp_path / "student")
    assert (generation.temperature, generation.top_p, generation.do_sample) == (0.9, 0.6, True)
    assert generation.eos_token_id == sorted([2, tokenizer.eos_token_id])


def test_a_second_export_takes_the_place_of_the_first(module, tmp_path):
    module.export(tmp_path / "student")
    (tmp_path / "student" / "stale.txt").touch()
    torch.nn.init.ones_(module.policy.lm_head.weight)
    module.export(tmp_path / "student")
    assert (weights(tmp_path / "student") == 1).all()
    assert not (tmp_path / "student" / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("before", [False, True])
def test_an_interrupted_export_changes_nothing(error, before, module, tmp_path, monkeypatch):
    if before:
        module.export(tmp_path / "student")
        kept = weights(tmp_path / "student").clone()
        torch.nn.init.ones_(module.policy.lm_head.weight)

    def interrupted(folder):
        (folder / "tokenizer.json").write_text("{")
        raise error

    monkeypatch.setattr(module.tokenizer, "save_pretrained", interrupted)
    with pytest.raises(type(error)):
        module.export(tmp_path / "student")
    assert [path.name for path in tmp_path.iterdir()] == (["student"] if before else [])
    if before:
        assert torch.equal(weights(tmp_path / "student"), kept)


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(module, tmp_path, monkeypatch):
    module.export(tmp_path / "student")
    kept = weights(tmp_path / "student").clone()
    torch.nn.init.ones_(module.policy.lm_head.weight)
    rename = Path.rename

    def refuse(path, target):
        if path.name.endswith(".partial"):
            raise PermissionError(errno.EACCES, "Permission denied", str(target))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        module.export(tmp_path / "student")
    assert torch.equal(weights(tmp_path / "student"), kept)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_an_export_that_was_killed_leaves_nothing_to_the_next(module, tmp_path):
    (tmp_path / ".student.partial").mkdir()
    (tmp_path / ".student.partial" / "pytorch_model.bin").write_text("half")
    module.export(tmp_path / "student")
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    assert not (tmp_path / "student" / "pytorch_model.bin").exists()


def test_a_full_disk_is_an_os_error_whoever_writes(module, tmp_path, monkeypatch):
    def full(folder):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(module.policy, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left") as error:
        module.export(tmp_path / "student")
    assert error.value.errno == errno.ENOSPC


def test_nothing_to_export_before_the_policy_is_built(model_folder, tokenizer, tmp_path):
    with pytest.raises(RuntimeError, match="nothing to export"):
        FineTuningModule("sft", model_folder(), tokenizer).export(tmp_path / "student")
