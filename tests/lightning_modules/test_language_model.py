"""Building and loading models: what comes out, and what is refused in one line."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from datamodules.wrong_input import WrongInput
from lightning_modules.language_model import build_language_model, freeze, hidden_states, output_head, stop_token_ids

FIELDS = {
    "model_type": "qwen2",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 50,
}


def refusal(source, **settings):
    """The one line that a source is refused with."""
    with pytest.raises(WrongInput) as error:
        build_language_model(source, **settings)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    return str(error.value)


def test_a_new_model_takes_vocabulary_and_special_tokens_of_the_tokenizer(tokenizer):
    model = build_language_model({k: v for k, v in FIELDS.items() if k != "vocab_size"}, tokenizer)
    assert output_head(model).weight.shape == (len(tokenizer), 16)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert stop_token_ids(model, tokenizer) == [tokenizer.eos_token_id]


def test_a_new_model_may_have_more_rows_than_tokens(tokenizer):
    model = build_language_model({**FIELDS, "vocab_size": len(tokenizer) + 7}, tokenizer)
    assert output_head(model).weight.shape[0] == len(tokenizer) + 7
    assert output_head(model, len(tokenizer)).weight.shape[0] == len(tokenizer)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_dtype(dtype, model_folder):
    for source in (FIELDS, model_folder()):
        assert {p.dtype for p in build_language_model(source, dtype=dtype).parameters()} == {getattr(torch, dtype)}


def test_a_folder_is_loaded_as_it_is(model_folder):
    ours, theirs = (
        build_language_model(model_folder(seed=3)),
        AutoModelForCausalLM.from_pretrained(model_folder(seed=3)),
    )
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


def test_frozen_models_have_neither_dropout_nor_gradients(model_folder, token_batch):
    model = build_language_model(model_folder("gpt2", resid_pdrop=0.5)).train()
    batch = token_batch([(3, 4)])
    inputs = batch.input_ids, batch.attention_mask
    assert not torch.equal(hidden_states(model, *inputs), hidden_states(model, *inputs))
    freeze(model)
    states = hidden_states(model, *inputs)
    assert torch.equal(states, hidden_states(model, *inputs))
    assert not states.requires_grad


def test_stop_tokens_of_a_published_model_are_kept(model_folder, tokenizer):
    model = build_language_model(model_folder())
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 5, 3]
    assert stop_token_ids(model, tokenizer) == sorted({3, 5, tokenizer.eos_token_id})
    model.generation_config.eos_token_id = None
    assert stop_token_ids(model, tokenizer) == [tokenizer.eos_token_id]
    model.generation_config = None
    assert stop_token_ids(model, tokenizer) == [tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": None}, "no model_type"),
        ({"model_type": "nope"}, "nope"),
        ({"model_type": "clip"}, "CLIPConfig"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_size": -1}, "-1"),
        ({"num_attention_heads": 0}, "zero"),
        ({"hidden_act": "swoosh"}, "swoosh"),
    ],
)
def test_garbage_configs(change, told):
    fields = {key: value for key, value in {**FIELDS, **change}.items() if value is not None}
    line = refusal(fields)
    assert told in line
    assert "(model)" in line


def test_unknown_dtype_and_attention(model_folder):
    assert refusal(FIELDS, dtype="float8") == (
        "unknown dtype 'float8' (dtype): one of float32, bfloat16, float16, float64"
    )
    assert "swift" in refusal(model_folder(), attn_implementation="swift")


def test_folders_that_are_no_model(tmp_path, model_folder):
    assert "there is no such folder" in refusal(tmp_path / "none")
    assert "there is no such folder" in refusal("./none")
    (tmp_path / "file.txt").write_text("no folder")
    assert "there is no such folder" in refusal(tmp_path / "file.txt")
    (tmp_path / "empty").mkdir()
    assert "model_type" in refusal(tmp_path / "empty")
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "config.json").write_text("{not")
    assert "config.json" in refusal(tmp_path / "garbage")
    assert str(tmp_path / "garbage") in refusal(tmp_path / "garbage")
    assert "no-one/nothing" in refusal("no-one/nothing")


def damaged(tmp_path, model_folder, **config):
    folder = tmp_path / "damaged"
    shutil.copytree(model_folder(), folder)
    fields = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def test_truncated_weights(tmp_path, model_folder):
    weights = damaged(tmp_path, model_folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "no model can be loaded: Error while deserializing" in refusal(weights.parent)


def test_no_weights(tmp_path, model_folder):
    folder = damaged(tmp_path, model_folder)
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refusal(folder)


def test_missing_weights_are_not_made_up(tmp_path, model_folder):
    """Transformers itself fills in random ones, with a warning."""
    folder = damaged(tmp_path, model_folder, num_hidden_layers=2, layer_types=None)
    assert "12 weights are missing, model.layers.1." in refusal(folder)


def test_weights_of_another_shape(tmp_path, model_folder):
    assert "no model can be loaded" in refusal(damaged(tmp_path, model_folder, intermediate_size=48))


def test_a_family_whose_logits_are_made_otherwise_is_refused_rather_than_scored_wrongly():
    line = refusal({"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 50})
    assert "BertLMHeadModel" in line
    assert "not known here" in line


def test_gradient_checkpointing_gives_the_same_gradients_for_a_second_forward(model_folder, token_batch):
    batch = token_batch([(3, 4), (5, 2)])
    grads, calls = [], []
    for checkpointing in (False, True):
        model = build_language_model(model_folder(), gradient_checkpointing=checkpointing).train()
        passes = []
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, passes=passes: passes.append(1))
        hidden_states(model, batch.input_ids, batch.attention_mask).square().sum().backward()
        grads.append([p.grad for p in model.model.parameters()])
        calls.append(len(passes))
    assert calls == [1, 2]
    for p, q in zip(*grads, strict=True):
        torch.testing.assert_close(p, q)
