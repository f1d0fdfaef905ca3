"""Packed rows give what padded rows and transformers' own logits give: sums to 1e-5, gradients to 1e-4, float32."""

import logging
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.integrations import flex_attention as their_flex

from datamodules.batches import PackedTokenBatch
from datamodules.packing import pack
from datamodules.wrong_input import WrongInput
from lightning_modules import packing as packing_file
from lightning_modules.language_model import build_language_model, freeze
from lightning_modules.packed_attention import BLOCKS, block_attention, flex_mask, visible
from lightning_modules.packing import Packing
from lightning_modules.packing_checks import FLEX, attention_dropout
from lightning_modules.response_logps import response_lengths, response_logps

LENGTHS = [(5, 7, 3), (2, 1, 9), (8, 4, 1), (1, 6, 6), (3, 2, 2)]
WIDE = {"initializer_range": 0.3, "num_hidden_layers": 2}
# What transformers gives each family here: sdpa, or (Gemma 2's soft cap) its own attention.
FAMILIES = {
    "qwen2": ({"tie_word_embeddings": True}, BLOCKS),
    "llama": ({"mlp_bias": True, "num_key_value_heads": 2}, BLOCKS),
    "gemma": ({"head_dim": 8}, BLOCKS),
    "gemma2": ({"head_dim": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0}, "eager"),
    "gemma3_text": ({"head_dim": 8, "query_pre_attn_scalar": 8}, BLOCKS),
    "gpt2": ({}, BLOCKS),  # learnt positions
}


def packed_pairs(budget=None, lengths=LENGTHS, seed=0, order=None, vocabulary=600) -> PackedTokenBatch:
    """Random pairs: 2B responses, those of ``chosen`` first. ``order`` turns the pairs around."""
    rng = np.random.default_rng(seed)
    pairs = [[rng.integers(3, vocabulary, n) for n in three] for three in lengths]
    pairs = [pairs[i] for i in order or range(len(pairs))]
    responses = [(i, pair[side]) for side in (1, 2) for i, pair in enumerate(pairs)]
    return pack([pair[0] for pair in pairs], responses, ["pair"] * len(responses), 0, budget)


def naive_logps(model, batch: PackedTokenBatch, vocabulary=None) -> torch.Tensor:
    """Response after response, alone behind its prompt, through the model's full logits."""
    sums = []
    for ids, attention, response in zip(*batch.padded()[:3], strict=True):
        n = int(attention.sum())
        logits = model(input_ids=ids[None, :n], use_cache=False).logits[0, :, :vocabulary]
        logps = logits[:-1].log_softmax(-1).gather(-1, ids[1:n, None])[:, 0]
        sums.append(logps[response[1:n]].sum())
    return torch.stack(sums)


def model_of(model_folder, family="qwen2", **config):
    return build_language_model(model_folder(family, **{**WIDE, **FAMILIES[family][0], **config}))


def told(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == packing_file.__name__]


def assert_same_gradients(got, expected):
    for (name, p), q in zip(got.named_parameters(), expected.parameters(), strict=True):
        if q.grad is not None:
            scale = q.grad.abs().max()
            assert scale > 1e-4, name
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-4 * scale.item(), msg=name)


@pytest.mark.parametrize("budget", [None, 1, 21])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_shared_and_chunked_is_separate_and_full(family, budget, model_folder, caplog):
    ours, theirs = model_of(model_folder, family), model_of(model_folder, family)
    batch, packing = packed_pairs(budget), Packing()
    weights = torch.linspace(-1, 2, 10)
    with caplog.at_level(logging.INFO):
        logps = response_logps(ours, batch, chunk=4, packing=packing)
    assert told(caplog) == [f"{type(ours).__name__}: rows are packed, attention: {FAMILIES[family][1]}"]
    expected = naive_logps(theirs, batch)
    torch.testing.assert_close(logps, expected, rtol=1e-5, atol=1e-5)
    for sums in (logps, expected):
        (sums * weights).sum().backward()
    assert_same_gradients(ours, theirs)
    separate = response_logps(theirs, batch.padded())
    torch.testing.assert_close(separate, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("own", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma"])
def test_a_dense_mask_gives_the_same(family, own, model_folder, monkeypatch):
    ours, theirs = model_of(model_folder, family), model_of(model_folder, family)
    ours.set_attn_implementation(own)
    why_not = packing_file._why_not
    monkeypatch.setattr(packing_file, "_why_not", lambda model, a: "not now" if a == BLOCKS else why_not(model, a))
    batch, packing = packed_pairs(30), Packing("sdpa")
    logps, expected = response_logps(ours, batch, packing=packing), naive_logps(theirs, batch)
    assert ours.config._attn_implementation == own
    torch.testing.assert_close(logps, expected, rtol=1e-5, atol=1e-5)
    for sums in (logps, expected):
        sums.square().sum().backward()
    assert_same_gradients(ours, theirs)
    assert packing.computed(ours, batch) == 5 * 15  # one pair a row


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gemma3_text"])
def test_flex_attention_gives_the_same(family, model_folder, monkeypatch):
    """Its unfused form, forward, on the CPU: the compiled kernel needs CUDA, and so does any backward pass."""
    monkeypatch.setattr(
        their_flex, "compile_friendly_flex_attention", lambda *states, training, **k: flex_attention(*states, **k)
    )
    model = freeze(model_of(model_folder, family))
    batch = packed_pairs(30)
    expected = response_logps(model, batch.padded())
    assert packing_file._why_not(model, FLEX) is None
    assert model.config._attn_implementation == FLEX
    packing = Packing()
    packing._choices[model] = packing_file.Choice(FLEX, float("inf"))
    torch.testing.assert_close(response_logps(model, batch, packing=packing), expected, rtol=1e-5, atol=1e-5)


def test_who_sees_whom_is_one_rule(model_folder):
    batch = packed_pairs(30)
    seen = visible(batch)
    prompts, responses = batch.prompts.tolist(), batch.responses.tolist()
    for row, (p, r) in enumerate(zip(prompts, responses, strict=True)):
        for i in range(len(p)):
            for j in range(len(p)):
                expected = j <= i and p[i] == p[j] and r[j] in (-1, r[i])
                assert seen[row, i, j] == expected, (row, i, j)
    block = flex_mask(batch)
    dense = create_mask(block.mask_mod, *block.shape[:1], 1, *block.seq_lengths, device="cpu")
    assert torch.equal(dense[:, 0], seen)


def long_pairs(pairs, longest, budget, seed):
    """Random pairs of up to ``longest`` tokens a part."""
    lengths = np.random.default_rng(seed).integers(1, longest + 1, (pairs, 3))
    return packed_pairs(budget, lengths.tolist(), seed)


BLOCKS_OF = ("kv_num_blocks", "kv_indices", "q_num_blocks", "q_indices")
LAYOUTS = [(5, 9, 40), (9, 90, 700), (3, 300, 900), (2, 700, None), (1, 40, None)]
"""Pairs, tokens of their longest part, and of a row."""


def test_the_mask_in_blocks_is_that_of_the_whole():
    found = set()
    exact = packed_pairs(None, [(128, 128, 128)] * 2)
    for batch in (exact, *(long_pairs(*layout, seed) for seed, layout in enumerate(LAYOUTS))):
        made = flex_mask(batch)
        rows, length = batch.prompts.shape
        dense = create_block_mask(made.mask_mod, rows, None, length, length, device="cpu")
        assert made.shape == dense.shape
        assert made.BLOCK_SIZE == dense.BLOCK_SIZE
        for name in (*BLOCKS_OF, *(f"full_{name}" for name in BLOCKS_OF)):
            got, expected = getattr(made, name), getattr(dense, name)
            assert got.dtype == expected.dtype, name
            assert torch.equal(got, expected), (name, length)
        found.add((rows > 1, length % 128 == 0, bool(made.full_kv_num_blocks.any()), length > 1024))
    for i in range(4):  # several rows and one, whole blocks and a rest, …: the layouts have both
        assert {one[i] for one in found} == {True, False}


def test_the_mask_in_blocks_never_exists_whole():
    largest = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            largest.append(made.numel() if isinstance(made, torch.Tensor) else 0)
            return made

    batch = long_pairs(2, 900, None, 0)
    length = batch.prompts.shape[1]
    with Sizes():
        flex_mask(batch)
    assert 64 * length < max(largest) <= 128 * (length + 128) < length**2 / 4


def test_any_packing_order_gives_the_same_sums(model_folder):
    model = freeze(model_of(model_folder))
    expected = response_logps(model, packed_pairs())
    for budget, order in ((None, [4, 2, 0, 1, 3]), (20, [1, 0, 3, 2, 4]), (27, [3, 4, 2, 0, 1]), (1, [2, 1, 4, 3, 0])):
        logps = response_logps(model, packed_pairs(budget, order=order))
        both = [n + side for side in (0, 5) for n in order]
        torch.testing.assert_close(logps, expected[both], rtol=1e-5, atol=1e-5)


def test_what_lies_beside_a_response_does_not_reach_it(model_folder):
    model = freeze(model_of(model_folder))
    batch = packed_pairs()
    other = batch.input_ids.masked_fill(batch.responses == 7, 11)  # the rejected response of pair 2
    before, after = response_logps(model, batch), response_logps(model, batch._replace(input_ids=other))
    rest = [i for i in range(10) if i != 7]
    torch.testing.assert_close(after[rest], before[rest], rtol=1e-5, atol=1e-5)
    other = batch.input_ids.masked_fill((batch.prompts == 2) & (batch.responses < 0), 11)
    changed = (response_logps(model, batch._replace(input_ids=other)) - before).abs() > 1e-3
    assert changed.nonzero()[:, 0].tolist() == [2, 7]


def test_several_responses_a_prompt_and_one(model_folder):
    model = freeze(model_of(model_folder))
    rng = np.random.default_rng(3)
    prompts = [rng.integers(3, 600, n) for n in (4, 6)]
    answers = [(which, rng.integers(3, 600, n)) for which, n in ((0, 3), (1, 5), (0, 1), (0, 6))]
    batch = pack(prompts, answers, list("abcd"), 0)
    torch.testing.assert_close(response_logps(model, batch), naive_logps(model, batch), rtol=1e-5, atol=1e-5)
    assert response_lengths(batch).tolist() == [3, 5, 1, 6]


def test_gradient_checkpointing_recomputes_with_the_same_attention(model_folder):
    config = WIDE | FAMILIES["qwen2"][0]
    plain = build_language_model(model_folder(**config)).train()
    saving = build_language_model(model_folder(**config), gradient_checkpointing=True).train()
    for model in (plain, saving):
        response_logps(model, packed_pairs(30)).square().sum().backward()
    assert_same_gradients(saving, plain)


def test_half_precision_under_autocast(model_folder):
    model = model_of(model_folder, initializer_range=0.1)
    packing = Packing()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        packed = response_logps(model, packed_pairs(), packing=packing)
        alone = response_logps(model, packed_pairs().padded())
    torch.testing.assert_close(packed, alone, rtol=2e-2, atol=0.2)
    assert packed.dtype == torch.float32
    assert packing.computed(model, packed_pairs()) == packed_pairs().input_ids.numel()  # it was not padded for
    packed.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("family", "config"), [("mistral", {}), ("gemma2", FAMILIES["gemma2"][0])])
def test_a_window_shorter_than_a_sequence_is_padded_for(family, config, model_folder, caplog):
    short = freeze(build_language_model(model_folder(family, **WIDE, **config, sliding_window=11)))
    packing = Packing()
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            logps = response_logps(short, packed_pairs(), packing=packing)
    assert [line for line in told(caplog) if "padded" in line] == [
        f"{type(short).__name__}: rows are padded: its window of 11 tokens is shorter than a sequence"
    ]
    torch.testing.assert_close(logps, naive_logps(short, packed_pairs()), rtol=1e-5, atol=1e-5)
    assert packing.computed(short, packed_pairs()) == 10 * 12
    long = freeze(build_language_model(model_folder(family, **WIDE, **config, sliding_window=12)))
    batch = packed_pairs()
    torch.testing.assert_close(
        response_logps(long, batch, packing=packing), naive_logps(long, batch), rtol=1e-5, atol=1e-5
    )
    assert packing.computed(long, batch) < 10 * 12


RECURRENT = {"state_size": 4, "expand": 2, "conv_kernel": 3, "time_step_rank": 4}


@pytest.mark.parametrize(("family", "config"), [("mamba", RECURRENT), ("bloom", {"n_layer": 1, "n_head": 2})])
def test_a_family_that_cannot_read_packed_rows_is_padded_for(family, config, model_folder, caplog):
    model = freeze(build_language_model(model_folder(family, **config)))
    with caplog.at_level(logging.INFO):
        logps = response_logps(model, packed_pairs(), packing=Packing())
    assert told(caplog) == [f"{type(model).__name__}: rows are padded: this family does not read packed rows right"]
    torch.testing.assert_close(logps, response_logps(model, packed_pairs().padded()))


@pytest.mark.parametrize("own", ["sdpa", "eager"])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_weights(own, autocast, model_folder):
    model = build_language_model(model_folder(**WIDE | {"initializer_range": 0.1}), dtype="bfloat16")
    model.set_attn_implementation(own)
    packing = Packing()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        packed = response_logps(model, packed_pairs(), packing=packing)
    assert packing.computed(model, packed_pairs()) < 10 * 12
    torch.testing.assert_close(packed, response_logps(model, packed_pairs().padded()), rtol=3e-2, atol=0.5)


def test_attention_dropout_trains_in_blocks_and_not_with_flex(model_folder):
    model = build_language_model(model_folder(**WIDE, attention_dropout=0.5)).train()
    packing = Packing()
    first, second = (response_logps(model, packed_pairs(), packing=packing) for _ in range(2))
    assert not torch.allclose(first, second)
    assert attention_dropout(model) == 0.5
    assert attention_dropout(model_of(model_folder)) == 0
    assert attention_dropout(model_of(model_folder, "gpt2")) == 0.1


def test_off_is_padded_and_says_nothing(model_folder, caplog):
    model = freeze(model_of(model_folder))
    with caplog.at_level(logging.INFO):
        logps = response_logps(model, packed_pairs(), packing=Packing("off"))
    assert not told(caplog)
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(logps, response_logps(model, packed_pairs().padded()), rtol=0, atol=0)


def test_settings_that_cannot_be_are_refused(model_folder):
    with pytest.raises(WrongInput, match="unknown packing 'on'"):
        Packing("on")  # type: ignore[arg-type]
    with pytest.raises(WrongInput, match="FlexAttention trains on CUDA only"):
        response_logps(model_of(model_folder), packed_pairs(), packing=Packing("flex"))


def test_flex_is_forced_or_refused(model_folder, monkeypatch):
    """As on CUDA: what does not go through the trial is not padded for in silence."""
    model, other = model_of(model_folder), model_of(model_folder, "gpt2")
    monkeypatch.setattr(type(model), "device", property(lambda model: torch.device("cuda")))
    monkeypatch.setattr(type(other), "device", property(lambda model: torch.device("cuda")))
    monkeypatch.setattr(packing_file, "_trial", lambda device: (_ for _ in ()).throw(RuntimeError("no kernel\nat 0x7")))
    with pytest.raises(WrongInput, match=r"Qwen2ForCausalLM reads no packed rows with it: no kernel \(packing=flex\)"):
        Packing("flex").choose(model)
    with pytest.raises(WrongInput, match=r"has no dropout, and the attention of GPT2LMHeadModel has one of 0\.1"):
        Packing("flex").choose(other)
    assert Packing("auto").choose(other).attention is None  # which may pad


def test_restored_models_have_their_own_attention_until_the_next_packed_batch(model_folder):
    model, packing = freeze(model_of(model_folder)), Packing()
    run = partial(response_logps, model, packed_pairs(), packing=packing)
    before = run()
    assert model.config._attn_implementation == BLOCKS
    generated = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False)
    packing.restore(model)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False), generated)
    assert torch.equal(run(), before)


def test_blocks_refuse_what_they_do_not_know():
    states = (torch.zeros(1, 2, 3, 4),) * 3
    with pytest.raises(ValueError, match="knows no softcap"):
        block_attention(torch.nn.Identity(), *states, None, blocks=[], softcap=2.0)
