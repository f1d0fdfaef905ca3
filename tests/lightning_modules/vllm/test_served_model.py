"""What vLLM gets to serve, and what is known of it without its weights."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from datamodules.wrong_input import WrongInput
from lightning_modules.language_model import build_language_model, stop_token_ids
from lightning_modules.vllm.served_model import served_model


@pytest.fixture
def made(tokenizer, tmp_path):
    def make(source, window=64, tokenizer=tokenizer):
        return served_model("student", source, tokenizer, "float32", window, tmp_path / "written")

    return make


@pytest.mark.parametrize("configured", [None, 5, [5, 7]])
def test_a_turn_ends_where_it_ends_for_the_loaded_model(made, model_folder, tokenizer, tmp_path, configured):
    folder = tmp_path / "model"
    shutil.copytree(model_folder(), folder)
    if configured is None:
        (folder / "generation_config.json").unlink()
    else:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": configured}))
    served = made(folder)
    assert served.stops == stop_token_ids(build_language_model(folder), tokenizer)
    assert set(served.stops) >= {tokenizer.eos_token_id, *([configured] if configured == 5 else configured or [])}
    assert served.source == str(folder)  # a plain folder is served as it is
    assert AutoTokenizer.from_pretrained(served.tokenizer).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(("rows", "unused"), [(None, 0), (40, 40)])
def test_rows_that_stand_for_no_token_are_known(made, model_folder, tokenizer, rows, unused):
    folder = model_folder(rows=len(tokenizer) + rows if rows else None)
    assert made(folder).unused == range(len(tokenizer), len(tokenizer) + unused)


def test_more_of_them_than_vllm_can_leave_out_are_refused(made, model_folder, tokenizer):
    made(model_folder(rows=len(tokenizer) + 1024))
    with pytest.raises(WrongInput, match="1025 of its vocabulary rows"):
        made(model_folder(rows=len(tokenizer) + 1025))


def test_a_tokenizer_of_more_tokens_than_rows_leaves_none_out(made, model_folder, tokenizer):
    assert len(made(model_folder(rows=len(tokenizer) - 8)).unused) == 0


def test_no_window_is_wider_than_what_the_model_reads(made, model_folder):
    assert made(model_folder(), window=255).window == 255
    assert made(model_folder(), window=257).window == 256  # its max_position_embeddings


def test_an_adapter_is_served_merged(made, model_folder, tokenizer, tmp_path):
    peft = pytest.importorskip("peft")
    base = model_folder(seed=3)
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    adapted.save_pretrained(tmp_path / "adapter")
    served = made(tmp_path / "adapter")
    assert served.source == str(tmp_path / "written" / "model")
    assert not (tmp_path / "written" / "model" / "adapter_config.json").exists()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(served.source)(ids).logits
        torch.testing.assert_close(merged, adapted(ids).logits, rtol=1e-4, atol=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(base)(ids).logits
    assert (merged - plain).abs().max() > 1e-3


def test_a_new_model_is_written_too(made):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    served = made({"model_type": "qwen2", "num_key_value_heads": 1, **sizes})
    assert AutoModelForCausalLM.from_pretrained(served.source).config.hidden_size == 8


def test_what_is_no_model_is_told(made, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(WrongInput, match="no model's config"):
        made(tmp_path / "empty")
