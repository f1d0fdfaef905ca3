"""PruningModule: what it leaves is the model that it says, and as good as its importance makes it."""

import json
import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from datamodules.almanac import dialogues
from datamodules.instruction import InstructionDataModule
from datamodules.wrong_input import WrongInput
from lightning_modules import FineTuningModule, PruningModule
from lightning_modules.language_model import build_language_model
from lightning_modules.pruning.groups import channel_scores, coupled_layers, kept_channels, seeded
from lightning_modules.pruning.plan import Widths
from lightning_modules.pruning.surgery import check_told, count_parameters, prune, widths_of
from tests.lightning_modules.pruning.conftest import KINDS, SMALL

ALL = ("heads", "intermediate", "hidden")
FIELDS = ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")


@pytest.fixture
def small(model_folder):
    return model_folder(**{**SMALL, **KINDS["llama"], "initializer_range": 0.2})


def logits(model, batch):
    with torch.no_grad():
        return model.eval()(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits


@pytest.mark.parametrize("importance", ["taylor", "magnitude", "random"])
@pytest.mark.parametrize("widths", [("heads", "intermediate"), ALL])
def test_the_ratio_is_met_and_the_folder_is_the_model_in_memory(
    folder, pruned, widths, importance, token_batch, tokenizer, tmp_path
):
    module = pruned(folder, 0.2, importance=importance, widths=widths)
    told, before = module.final_metrics, count_parameters(build_language_model(folder))
    assert count_parameters(module.model) == pytest.approx(0.8 * before, rel=0.01)
    assert told["parameters"] == count_parameters(module.model)
    assert told["parameters_before"] == before
    assert told["ratio"] == pytest.approx(1 - told["parameters"] / before)
    module.export(tmp_path / "student")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    batch = token_batch([(3, 5), (9, 1), (1, 12)])
    assert torch.equal(logits(model, batch), logits(module.model, batch))
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert {name: config[name] for name in FIELDS} == {name: told[name] for name in FIELDS}
    assert config["head_dim"] == 8
    assert config["vocab_size"] == len(tokenizer)
    assert (config["hidden_size"] < 32) == ("hidden" in widths)
    attention = model.model.layers[1].self_attn
    assert attention.q_proj.out_features == config["num_attention_heads"] * 8
    assert attention.k_proj.out_features == config["num_key_value_heads"] * 8
    tied = AutoConfig.from_pretrained(folder).tie_word_embeddings
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert (module.model.lm_head.weight is module.model.model.embed_tokens.weight) == tied
    assert AutoTokenizer.from_pretrained(tmp_path / "student").get_vocab() == tokenizer.get_vocab()


def test_with_half_its_heads_it_still_answers_from_a_cache_of_keys(folder, token_batch):
    model = build_language_model(folder)
    groups = coupled_layers(model, ("heads", "intermediate"))
    prune(model, Widths(32, 2, 2, 60), groups, [channel_scores(group, "magnitude") for group in groups])
    assert model.model.layers[0].self_attn.num_key_value_groups == 1
    ids = token_batch([(4, 2)]).input_ids
    cached, plain = (model.generate(ids, max_new_tokens=5, do_sample=False, use_cache=use) for use in (True, False))
    assert cached.shape == (1, 11)
    assert torch.equal(cached, plain)


def test_gradients_reach_all_that_is_left(folder, pruned, token_batch, tokenizer, tmp_path):
    pruned(folder, 0.2, widths=ALL).export(tmp_path / "student")
    student = FineTuningModule("dsft", tmp_path / "student", tokenizer)
    student.configure_model()
    student._loss(token_batch([(3, 5), (9, 4)])).loss.backward()
    for name, parameter in student.policy.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_units_that_do_nothing_go_first_and_nothing_changes(folder, token_batch):
    """Each layer gets a quarter of its inner units and one head of every key silenced: they are what must go."""
    model = build_language_model(folder)
    before = widths_of(model)
    shared = before.num_attention_heads != before.num_key_value_heads
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            layer.mlp.down_proj.weight[:, number::4] = 0
            heads = [number + 1] if not shared else [number, 3 - number]
            for head in heads:
                layer.self_attn.o_proj.weight[:, head * 8 : head * 8 + 8] = 0
    batch = token_batch([(3, 5), (9, 4)])
    expected = logits(model, batch)
    model(batch.input_ids, labels=batch.input_ids).loss.backward()
    groups = coupled_layers(model, ("heads", "intermediate"))
    scores = [channel_scores(group, "taylor") for group in groups]
    model.zero_grad()
    queries = 2 if shared else 3
    # Llama's config takes no three heads at a hidden size of 32, so the layers are cut without it
    after = Widths(32, queries, before.num_key_value_heads if shared else queries, 72)
    if shared:
        prune(model, after, groups, scores)
        torch.testing.assert_close(logits(model, batch), expected, rtol=1e-4, atol=1e-5)
    for number in range(2):
        heads, inner = groups[2 * number], groups[2 * number + 1]
        kept = kept_channels(scores[2 * number], heads, before, after, 8)
        silent = [number + 1] if not shared else [number, 3 - number]
        assert {channel // 8 for channel in kept} == set(range(4)) - set(silent)
        assert kept == sorted(kept)
        assert not [c for c in kept_channels(scores[2 * number + 1], inner, before, after, 8) if c % 4 == number]


def test_taylor_is_the_sum_of_weight_times_gradient_row_by_row(model_folder, pruned, rows, tokenizer):
    folder = model_folder("llama", hidden_size=32, num_attention_heads=4, num_key_value_heads=4, initializer_range=0.2)
    module = pruned(folder, 0.2, calibration=3, widths=ALL, multiple_of=1)
    model = build_language_model(folder)
    data = InstructionDataModule(rows, tokenizer, val_fraction=0, rows=3)
    data.setup("fit")
    expected = [torch.zeros(32), torch.zeros(32), torch.zeros(32)]
    for row in data.train_rows:
        model.zero_grad()
        ids = torch.tensor(row.ids[None].astype("int64"))
        labels = ids[0, row.prompt_length :]
        cross_entropy(model(ids).logits[0, row.prompt_length - 1 : -1], labels).backward()
        layer = model.model.layers[0]
        a, m = layer.self_attn, layer.mlp
        worth = {p: (p * p.grad).abs() for p in model.parameters()}
        reads = (a.q_proj, a.k_proj, a.v_proj, m.gate_proj, m.up_proj, model.lm_head)
        expected[0] += sum(worth[p.weight].sum(0) for p in reads)
        expected[0] += sum(worth[p.weight].sum(1) for p in (a.o_proj, m.down_proj))
        expected[1] += sum(worth[p.weight].sum(1) for p in (a.q_proj, a.k_proj, a.v_proj)) + worth[a.o_proj.weight].sum(
            0
        )
        expected[2] += sum(worth[p.weight].sum(1) for p in (m.gate_proj, m.up_proj)) + worth[m.down_proj.weight].sum(0)
    for found, one in zip(module._scores, expected, strict=True):
        torch.testing.assert_close(found, one.detach(), rtol=1e-3, atol=1e-5)


def test_what_is_left_is_the_slice_of_what_was(model_folder, token_batch):
    """The surgery against slicing by hand, all widths at once, heads that share keys and tied embeddings."""
    folder = model_folder(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    model, whole = build_language_model(folder), build_language_model(folder).state_dict()
    groups = coupled_layers(model, ALL)
    scores = [torch.randperm(group.size, generator=torch.Generator().manual_seed(1)).float() for group in groups]
    before, after = widths_of(model), Widths(20, 2, 2, 17)
    hidden, queries, inner = (
        torch.tensor(kept_channels(s, g, before, after, 8)) for g, s in zip(groups, scores, strict=True)
    )
    prune(model, after, groups, scores)
    left = model.state_dict()
    attention, mlp = "model.layers.0.self_attn", "model.layers.0.mlp"
    expected = {
        f"{attention}.q_proj.weight": whole[f"{attention}.q_proj.weight"][queries][:, hidden],
        f"{attention}.q_proj.bias": whole[f"{attention}.q_proj.bias"][queries],
        f"{attention}.v_proj.weight": whole[f"{attention}.v_proj.weight"][:, hidden],
        f"{attention}.o_proj.weight": whole[f"{attention}.o_proj.weight"][hidden][:, queries],
        f"{mlp}.up_proj.weight": whole[f"{mlp}.up_proj.weight"][inner][:, hidden],
        f"{mlp}.down_proj.weight": whole[f"{mlp}.down_proj.weight"][hidden][:, inner],
        "model.norm.weight": whole["model.norm.weight"][hidden],
        "lm_head.weight": whole["lm_head.weight"][:, hidden],
        "model.embed_tokens.weight": whole["lm_head.weight"][:, hidden],
    }
    for name, tensor in expected.items():
        assert torch.equal(left[name], tensor), name


@pytest.mark.parametrize("field", FIELDS)
def test_a_config_that_does_not_tell_the_truth_is_our_defect(small, field):
    model = build_language_model(small)
    check_told(model)
    setattr(model.config, field, getattr(model.config, field) // 2)
    with pytest.raises(RuntimeError, match="does not describe"):
        check_told(model)


def held_out_loss(module, tokenizer):
    data = InstructionDataModule(list(dialogues(0, "test", 64)), tokenizer, val_fraction=0)
    data.setup("fit")
    with torch.no_grad():
        nats, tokens = module._nats(data._collate(data.train_rows))
    return (nats / tokens).item()


def test_taylor_keeps_a_lower_loss_than_chance(trained, pruned, tokenizer):
    """Of one trained model, on rows that neither training nor calibration has seen."""
    settings = {"calibration": 48, "widths": ["intermediate"]}
    taylor = pruned(trained, 0.2, **settings)
    chance = [pruned(trained, 0.2, importance="random", seed=seed, **settings) for seed in range(4)]
    assert held_out_loss(taylor, tokenizer) + 0.1 < min(held_out_loss(one, tokenizer) for one in chance)
    told = taylor.final_metrics
    assert told["loss_before"] < told["loss_after"] < math.log(len(tokenizer)) / 2
    assert told["calibration_batches"] == 48


def test_chance_is_the_seeds_and_leaves_no_trace(small, pruned):
    state = torch.get_rng_state()
    seeded(3, lambda: torch.rand(4))
    assert torch.equal(torch.get_rng_state(), state)
    one, again, other = (pruned(small, 0.1, importance="random", seed=seed) for seed in (1, 1, 2))
    weights = [module.model.model.layers[0].mlp.up_proj.weight for module in (one, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_half_precision_and_checkpointed_gradients_prune_alike(trained, pruned):
    plain = pruned(trained, 0.15, widths=["intermediate"])
    other = pruned(trained, 0.15, widths=["intermediate"], dtype="bfloat16", gradient_checkpointing=True)
    assert other.model.dtype == torch.bfloat16
    for found, expected in zip(other._scores, plain._scores, strict=True):
        assert torch.corrcoef(torch.stack([found, expected]))[0, 1] > 0.99


REFUSED = {
    "a ratio of nothing": ({"ratio": 0.0}, r"share to take out, got 0.0 \(prune_ratio\): above 0 and below 1"),
    "a ratio of all": ({"ratio": 1.0}, "got 1.0"),
    "a ratio that is no number": ({"ratio": math.nan}, "got nan"),
    "a ratio out of reach": ({"ratio": 0.95}, "no widths leave 0.05 of"),
    "an unknown importance": ({"importance": "luck"}, "unknown importance 'luck'.*taylor"),
    "an unknown width": ({"widths": ["depth"]}, "no such widths: depth"),
    "no width": ({"widths": []}, "no such widths: none"),
    "no multiple": ({"multiple_of": 0}, "multiples of 0"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_wrong_settings_are_refused_before_anything_is_read(case, small, tokenizer):
    changed, said = REFUSED[case]
    with pytest.raises(WrongInput, match=said):
        PruningModule("prune", small, tokenizer, **{"ratio": 0.1} | changed).configure_model()


def test_a_model_type_that_cannot_be_pruned(tokenizer):
    fields = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
    with pytest.raises(WrongInput, match="'gpt2' cannot be pruned.*llama, qwen2"):
        PruningModule("prune", fields, tokenizer, ratio=0.2).configure_model()


def test_no_calibration_rows(small, tokenizer, trainer, rows, tmp_path):
    module = PruningModule("prune", small, tokenizer, ratio=0.1)
    with pytest.raises(WrongInput, match="there are no rows"):
        trainer().fit(module, datamodule=InstructionDataModule([], tokenizer, batch_size=1))
    with pytest.raises(WrongInput, match="0 rows were asked for"):
        InstructionDataModule(rows, tokenizer, rows=0)
    data = InstructionDataModule(rows, tokenizer, batch_size=1)
    trainer(limit_train_batches=0).fit(module, datamodule=data)
    with pytest.raises(WrongInput, match="there are no calibration rows"):
        module.export(tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_gradients_that_are_no_numbers_name_the_row(small, tokenizer, trainer, rows):
    module = PruningModule("prune", small, tokenizer, ratio=0.1)
    module.configure_model()
    torch.nn.init.constant_(module.model.model.norm.weight, math.nan)
    with pytest.raises(WrongInput, match=r"no finite numbers \(stage prune, rows"):
        trainer().fit(module, datamodule=InstructionDataModule(rows, tokenizer, batch_size=1))


def test_without_the_library_the_extra_is_named(small, tokenizer, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    with pytest.raises(WrongInput, match=r"pip install smoothtalk\[pruning\]"):
        PruningModule("prune", small, tokenizer, ratio=0.1)
