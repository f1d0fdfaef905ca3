"""FlashAttention over sequences end to end: a naive stand-in for its kernel, behind transformers' own code."""

import inspect
import logging

import pytest
import torch
from transformers import PreTrainedModel, modeling_flash_attention_utils

from datamodules.wrong_input import WrongInput
from lightning_modules import packing as packing_file
from lightning_modules import packing_checks
from lightning_modules.language_model import build_language_model, freeze
from lightning_modules.packing import Packing
from lightning_modules.response_logps import response_logps
from lightning_modules.unshared import unshared
from tests.lightning_modules.test_packing import (
    FAMILIES,
    LENGTHS,
    WIDE,
    assert_same_gradients,
    model_of,
    naive_logps,
    packed_pairs,
    told,
)

FLASH = "flash_attention_2"


def varlen(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
):
    """Sequence after sequence, (tokens, heads, d) each, with every score in sight; a window is to the left."""
    assert causal
    assert dropout_p == 0
    assert torch.equal(cu_seqlens_q, cu_seqlens_k)
    assert cu_seqlens_q.dtype == torch.int32
    assert max_seqlen_q == max_seqlen_k == int(cu_seqlens_q.diff().max())
    assert int(cu_seqlens_q[-1]) == len(q)
    done, repeats = [], q.shape[1] // k.shape[1]
    for start, end in zip(cu_seqlens_q[:-1].tolist(), cu_seqlens_q[1:].tolist(), strict=True):
        own_q, own_k, own_v = (x[start:end].transpose(0, 1) for x in (q, k, v))
        own_k, own_v = (x.repeat_interleave(repeats, 0) for x in (own_k, own_v))
        scores = own_q @ own_k.mT * (softmax_scale or q.shape[-1] ** -0.5)
        if softcap:
            scores = softcap * (scores / softcap).tanh()
        back = torch.arange(end - start)[:, None] - torch.arange(end - start)
        seen = (back >= 0) & ((back <= window_size[0]) if window_size[0] >= 0 else True)
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        done.append((weights @ own_v).transpose(0, 1))
    return torch.cat(done)


@pytest.fixture
def kernel(monkeypatch):
    """FlashAttention 2 as if it were installed and models on CUDA; counts the calls of its kernel."""
    calls = []

    def counted(*states, **settings):
        calls.append(settings)
        return varlen(*states, **settings)

    counted.__signature__ = inspect.signature(varlen)  # transformers looks up what a kernel takes
    padding = modeling_flash_attention_utils._pad_input, modeling_flash_attention_utils._unpad_input
    kernels = (None, counted, None, *padding)
    monkeypatch.setattr(modeling_flash_attention_utils, "_lazy_imports", lambda *a, **k: kernels)
    monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", None)
    monkeypatch.setattr(PreTrainedModel, "_flash_attn_can_dispatch", lambda *a, **k: True)
    monkeypatch.setattr(packing_checks, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(packing_file, "check_forced", lambda *a, **k: None)  # it is no CUDA
    return calls


@pytest.mark.parametrize("budget", [None, 21])
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"gpt2"}))  # in float32 transformers finds no dtype for it
def test_sequences_end_to_end_give_what_responses_alone_give(family, budget, model_folder, kernel, caplog):
    ours, theirs = (model_of(model_folder, family) for _ in range(2))
    batch, packing = packed_pairs(budget), Packing("flash")
    with caplog.at_level(logging.INFO):
        logps = response_logps(ours, batch, packing=packing)
    assert told(caplog) == [f"{type(ours).__name__}: rows are packed, attention: {FLASH}"]
    assert len(kernel) == 2 * 2  # layers, of the trial and of the batch
    expected = naive_logps(theirs, batch)
    torch.testing.assert_close(logps, expected, rtol=1e-5, atol=1e-5)
    for sums in (logps, expected):
        (sums * torch.linspace(-1, 2, 10)).sum().backward()
    assert_same_gradients(ours, theirs)
    assert packing.computed(ours, batch) == sum(two[0] + answer for two in LENGTHS for answer in two[1:])


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_a_sliding_window_needs_no_padding(family, model_folder, kernel):
    config = FAMILIES.get(family, ({}, None))[0]
    folder = model_folder(family, **WIDE, **config, sliding_window=5)
    ours, theirs = (freeze(build_language_model(folder)) for _ in range(2))
    batch, packing = packed_pairs(), Packing("flash")
    logps = response_logps(ours, batch, packing=packing)
    torch.testing.assert_close(logps, naive_logps(theirs, batch), rtol=1e-5, atol=1e-5)
    assert packing.computed(ours, batch) < 10 * 12
    assert any(call.get("window_size") == (4, 4) for call in kernel)


def test_the_layout_holds_each_response_behind_its_own_prompt():
    batch = packed_pairs(21)
    laid, alone = unshared(batch), batch.padded()
    assert laid.input_ids.shape == (1, int(alone.attention_mask.sum()))
    at = 0
    for number, (ids, attention, _) in enumerate(zip(*alone[:3], strict=True)):
        size = int(attention.sum())
        here = slice(at, at + size)
        assert torch.equal(laid.input_ids[0, here], ids[:size])
        assert torch.equal(laid.position_ids[0, here], torch.arange(size))
        assert (laid.prompts[0, here] == number).all()
        assert set(laid.responses[0, here].tolist()) == {-1, number}
        at += size
    assert torch.equal(laid.input_ids.flatten()[laid.states + 1], laid.targets)
    assert torch.equal(laid.padded().input_ids, alone.input_ids)
    assert torch.equal(unshared(laid).input_ids, laid.input_ids)


def test_auto_takes_it_where_flex_attention_cannot_be(model_folder, kernel, monkeypatch):
    model = model_of(model_folder, attention_dropout=0.1).eval()
    monkeypatch.setattr(type(model), "device", property(lambda model: torch.device("cuda")))
    monkeypatch.setattr(packing_file, "_trial", lambda device, trial=packing_file._trial: trial(torch.device("cpu")))
    assert Packing("auto").choose(model).attention == FLASH
    monkeypatch.setattr(packing_checks, "is_flash_attn_2_available", lambda: False)
    model.set_attn_implementation("sdpa")
    assert Packing("auto").choose(model).attention == packing_file.BLOCKS


def test_version_three_is_taken_first_and_not_with_dropout(model_folder, monkeypatch):
    monkeypatch.setattr(packing_checks, "is_flash_attn_3_available", lambda: True)
    monkeypatch.setattr(packing_checks, "is_flash_attn_2_available", lambda: True)
    plain, dropping = model_of(model_folder), model_of(model_folder, "gpt2")
    assert packing_checks.installed_flash(plain) == packing_checks.installed_flash(None) == "flash_attention_3"
    assert packing_checks.installed_flash(dropping) == FLASH
    monkeypatch.setattr(packing_checks, "is_flash_attn_2_available", lambda: False)
    assert packing_checks.installed_flash(dropping) is None


def test_it_is_refused_where_it_cannot_be(model_folder, monkeypatch):
    model = model_of(model_folder)
    with pytest.raises(WrongInput, match=r"FlashAttention trains on CUDA only \(packing=flash\)"):
        response_logps(model, packed_pairs(), packing=Packing("flash"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(WrongInput, match="FlashAttention is not installed"):
        packing_checks.check_forced("flash", model, cuda=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    packing_checks.check_forced("flash", model, cuda=True)  # of another machine
    monkeypatch.setattr(type(model), "device", property(lambda model: torch.device("cuda")))
    with pytest.raises(WrongInput, match=r"Qwen2ForCausalLM reads no packed rows with it: .*\(packing=flash\)"):
        Packing("flash").choose(model)
