"""Counts of a model without weights are those of the model with them."""

import pytest
import torch

from callbacks.run.estimate.shape import shape_of
from lightning_modules.language_model import build_language_model, build_skeleton, output_head

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma", "qwen3", "gemma2", "mistral"])
def test_counts_are_those_of_the_built_model(family, tied, tokenizer):
    fields = {**SMALL, "model_type": family, "tie_word_embeddings": tied}
    skeleton, built = build_skeleton(fields, tokenizer), build_language_model(fields, tokenizer)
    assert all(p.is_meta for p in skeleton.parameters())
    shape = shape_of(skeleton)
    assert shape.parameters == sum(p.numel() for p in built.parameters())
    linear = [
        part for name, part in built.named_modules() if isinstance(part, torch.nn.Linear) and "lm_head" not in name
    ]
    assert shape.linear == sum(part.weight.numel() for part in linear)
    assert shape.vocabulary == output_head(built).weight.shape[0]
    assert shape.largest == max(p.numel() for p in built.parameters())
    assert (shape.query, shape.key_value, shape.intermediate, shape.gated) == (32, 16, 80, True)


def test_a_folder_is_counted_by_its_config_alone(model_folder, tmp_path):
    folder = model_folder(seed=1)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    built = build_language_model(str(folder))
    assert shape_of(build_skeleton(str(tmp_path))).parameters == sum(p.numel() for p in built.parameters())


def test_heads_that_are_normalised_count_each(tokenizer):
    plain, normalised = (
        shape_of(build_skeleton({**SMALL, "model_type": family}, tokenizer)) for family in ("qwen2", "qwen3")
    )
    assert normalised.norms - plain.norms == (4 + 2) * 8
    assert normalised.norm_rows - plain.norm_rows == 4 + 2


def test_a_plain_feed_forward_is_told_from_a_gated_one(tokenizer):
    fields = {"model_type": "gpt_neox", "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2}
    shape = shape_of(build_skeleton({**fields, "num_attention_heads": 4}, tokenizer))
    assert not shape.gated
    assert (shape.norms, shape.norms_fused) == (0, 64)


@pytest.mark.parametrize("family", ["mixtral", "mamba"])
def test_what_is_no_dense_decoder_is_refused(family, tokenizer):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    if family == "mixtral":
        sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    with pytest.raises(ValueError, match="dense decoder"):
        shape_of(build_skeleton({"model_type": family, **sizes}, tokenizer))
