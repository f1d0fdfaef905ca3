"""Widths for a ratio: counted as transformers counts, within 1 %, and even."""

from dataclasses import astuple, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from lightning_modules.pruning.plan import TOLERANCE, Anatomy, Widths, ranked_widths
from lightning_modules.pruning.surgery import anatomy_of, count_parameters, widths_of

ALL = ("heads", "intermediate", "hidden")
VICUNA_7B = Widths(4096, 32, 32, 11008)
VICUNA_13B = Widths(5120, 40, 40, 13824)


def empty(model_type: str, **fields):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **fields))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("model_type", "biases"), [("llama", {}), ("llama", {"attention_bias": True, "mlp_bias": True}), ("qwen2", {})]
)
def test_parameters_are_counted_as_transformers_has_them(model_type, biases, tied):
    fields = {"num_hidden_layers": 3, "vocab_size": 99, "head_dim": 8, "tie_word_embeddings": tied, **biases}

    def made(widths):
        names = ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")
        return empty(model_type, **fields, **dict(zip(names, astuple(widths), strict=True)))

    model = made(Widths(32, 4, 2, 40))
    assert anatomy_of(model).others == 0
    for widths in (Widths(32, 4, 2, 40), Widths(24, 4, 2, 33), Widths(32, 2, 2, 7), Widths(16, 4, 4, 1)):
        assert anatomy_of(model).parameters(widths) == count_parameters(made(widths))


def test_published_sizes_are_counted_right():
    assert Anatomy(32, 128, 2 * 32000).parameters(VICUNA_7B) == 6_738_415_616  # Llama 2's own number
    assert Anatomy(40, 128, 2 * 32000).parameters(VICUNA_13B) == 13_015_864_320


@settings(max_examples=60, deadline=None)
@given(
    ratio=st.floats(0.02, 0.8),
    pruned=st.sets(st.sampled_from(ALL), min_size=1),
    shared=st.sampled_from([1, 2, 3]),
    keys=st.integers(1, 4),
    hidden=st.integers(4, 40),
    inner=st.integers(8, 100),
    multiple_of=st.sampled_from([1, 4]),
)
def test_all_that_is_offered_is_a_pruned_model_of_the_wanted_size(
    ratio, pruned, shared, keys, hidden, inner, multiple_of
):
    full = Widths(hidden, keys * shared, keys, inner)
    anatomy = Anatomy(3, 8, 200, query_bias=True)
    for widths in ranked_widths(full, anatomy, ratio, pruned, multiple_of):
        assert abs(anatomy.parameters(widths) / ((1 - ratio) * anatomy.parameters(full)) - 1) <= TOLERANCE
        assert all(0 < now <= before for now, before in zip(astuple(widths), astuple(full), strict=True))
        untouched = {"heads": "num_attention_heads", "intermediate": "intermediate_size", "hidden": "hidden_size"}
        for name in set(ALL) - pruned:
            assert getattr(widths, untouched[name]) == getattr(full, untouched[name])
        if shared == 1:
            assert widths.num_key_value_heads == widths.num_attention_heads
        else:
            assert widths.num_key_value_heads == keys
            assert widths.num_attention_heads % keys == 0
        for now, before in ((widths.hidden_size, hidden), (widths.intermediate_size, inner)):
            assert now == before or now % multiple_of == 0


def test_the_first_is_the_most_even_by_trying_all():
    full, anatomy = Widths(24, 6, 6, 60), Anatomy(2, 4, 100)
    wanted = 0.7 * anatomy.parameters(full)

    def spread(widths):
        shares = [
            widths.hidden_size / full.hidden_size,
            widths.num_attention_heads / full.num_attention_heads,
            widths.intermediate_size / full.intermediate_size,
        ]
        return max(shares) / min(shares)

    every = [
        Widths(hidden, heads, heads, inner)
        for hidden in range(1, 25)
        for heads in range(1, 7)
        for inner in range(1, 61)
    ]
    fit = [widths for widths in every if abs(anatomy.parameters(widths) / wanted - 1) <= TOLERANCE]
    best = ranked_widths(full, anatomy, 0.3, ALL)[0]
    # the search takes for each hidden size and head count the intermediate sizes nearest to what is wanted
    assert spread(best) <= 1.02 * min(map(spread, fit))


def test_vicuna_pruned_by_a_fifth():
    anatomy = Anatomy(40, 128, 2 * 32000)
    best = ranked_widths(VICUNA_13B, anatomy, 0.2, ALL, 128)[0]
    assert anatomy.parameters(best) == pytest.approx(0.8 * anatomy.parameters(VICUNA_13B), rel=TOLERANCE)
    for share in (best.hidden_size / 5120, best.num_attention_heads / 40, best.intermediate_size / 13824):
        assert 0.85 < share < 0.93


def test_what_cannot_be_is_an_empty_list():
    assert ranked_widths(replace(VICUNA_7B), Anatomy(32, 128, 64000), 0.9, ["heads"]) == []
    assert ranked_widths(VICUNA_7B, Anatomy(32, 128, 64000), 0.8, ["intermediate"]) == []


def test_widths_are_read_from_the_config():
    model = empty("qwen2", hidden_size=32, num_attention_heads=4, num_key_value_heads=2, intermediate_size=40)
    assert widths_of(model) == Widths(32, 4, 2, 40)
