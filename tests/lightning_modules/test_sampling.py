"""Sampling: whose distribution, reproducible by the batch's seed, and untouched by anything else."""

import json
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from datamodules.collate import collate_prompts
from datamodules.wrong_input import WrongInput
from lightning_modules import SamplingModule
from lightning_modules import sampling as sampling_file
from lightning_modules.continuous_sampling import CannotBatch
from lightning_modules.sampling import Responses, Sampling

WORDS = ["<pad>", "<end>", *"abcdefgh"]
PHANTOMS = 6
PAD, END = 0, 1
PROMPTS = [[2, 3, 4], [5], [9, 8, 7, 6, 5], [2, 2]]
TINY = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


@pytest.fixture(scope="module")
def words():
    """A tokenizer of ten words, so that distributions can be counted."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, words):
    """A model of these words whose phantom rows would win nearly every draw."""
    path = tmp_path_factory.mktemp("words")
    settings = {**TINY, "num_key_value_heads": 1, "vocab_size": len(WORDS) + PHANTOMS, "eos_token_id": END}
    config = AutoConfig.for_model("qwen2", **settings, tie_word_embeddings=False, initializer_range=0.6)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.lm_head.weight[PAD] = 0
        model.lm_head.weight[len(WORDS) :] = model.lm_head.weight[2:8] * 9
    model.save_pretrained(path)
    words.save_pretrained(path)
    return path


def batch(prompts, seed=0):
    return collate_prompts(prompts, [f"row {n}" for n in range(len(prompts))], PAD, seed)


def respond(folder, words, sampling, prompts=PROMPTS, seed=0, **settings):
    settings: dict[str, Any] = {"batch_size": 10_000} | settings
    return whole(SamplingModule({"student": folder}, words, sampling, **settings), batch(prompts, seed))


def whole(module, asked, loader=0):
    """All responses, in the order of the rows."""
    each = [one for got in module.predict_step(asked, 0, loader) for one in zip(*got[1:], strict=True)]
    place = {row_id: at for at, row_id in enumerate(asked.row_ids)}
    columns = zip(*sorted(each, key=lambda one: place[one[0]]), strict=True)
    return Responses(module.name_of(loader), *map(list, columns))


def real_logits(model, ids):
    """Of the next word, phantom rows left out."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1, : len(WORDS)].double()


def test_temperature_zero_is_the_argmax_loop(folder, words):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    got = respond(folder, words, Sampling(temperature=0, max_new_tokens=7))
    for row, prompt in enumerate(PROMPTS):
        made = []
        while len(made) < 7 and END not in made:
            made.append(int(real_logits(model, prompt + made).argmax()))
        assert got.tokens[row] == len(made)
        assert got.finished[row] == (END in made)
        assert got.texts[row] == words.decode(made, skip_special_tokens=True)
    assert len(set(got.texts)) > 1


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0, max_new_tokens=12),
        Sampling(max_new_tokens=12),
        Sampling(temperature=1.7, top_k=5, top_p=0.9, max_new_tokens=12),
    ],
)
def test_neither_the_sampler_nor_company_changes_an_answer(sampling, folder, words):
    prompts = PROMPTS * 6
    batched = respond(folder, words, sampling, prompts)
    assert respond(folder, words, sampling, prompts, batch_size=5) == batched
    for under_way in (3, 64):
        found = respond(folder, words, sampling, prompts, sampler="continuous", batch_size=under_way)
        assert found == batched
    if sampling.temperature:
        assert len(set(batched.texts)) > 10  # rows of one prompt answer differently


def test_continuous_answers_come_one_by_one(folder, words):
    module = SamplingModule({"student": folder}, words, Sampling(max_new_tokens=30), sampler="continuous")
    came = [got.row_ids for got in module.predict_step(batch(PROMPTS * 3), 0)]
    assert all(len(row_ids) == 1 for row_ids in came)
    assert sorted(row_ids[0] for row_ids in came) == sorted(f"row {n}" for n in range(12))


def test_sampling_in_the_engine_leaves_model_and_process_alone(folder, words):
    module = SamplingModule({"student": folder}, words, Sampling(max_new_tokens=3), sampler="continuous")
    attention = module.model("student").config._attn_implementation
    before = torch.get_rng_state()
    whole(module, batch(PROMPTS))
    assert torch.equal(torch.get_rng_state(), before)
    assert module.model("student").config._attn_implementation == attention


def test_a_model_that_the_engine_does_not_take(folder, words, monkeypatch):
    def refuse(*_):
        raise CannotBatch("no paged attention")

    monkeypatch.setattr(sampling_file, "continuous_answers", refuse)
    with pytest.raises(WrongInput, match="does not take it: no paged attention.*sampler=batched"):
        respond(folder, words, Sampling(), sampler="continuous")


@pytest.mark.parametrize("wrong", [{"sampler": "vllm"}, {"batch_size": 0}])
def test_no_such_sampler(wrong, folder, words):
    with pytest.raises(WrongInput):
        SamplingModule({"student": folder}, words, Sampling(), **wrong)


def test_company_and_left_padding_do_not_change_a_greedy_answer(folder, words):
    greedy = Sampling(temperature=0, max_new_tokens=12)
    together = respond(folder, words, greedy)
    for row, prompt in enumerate(PROMPTS):
        alone = respond(folder, words, greedy, [prompt])
        assert (alone.texts[0], alone.tokens[0]) == (together.texts[row], together.tokens[row])


def test_the_batchs_seed_and_nothing_else_decides(folder, words):
    sampling = Sampling(max_new_tokens=10)
    torch.manual_seed(3)
    first = respond(folder, words, sampling, seed=5)
    torch.manual_seed(4)
    assert respond(folder, words, sampling, seed=5) == first
    assert respond(folder, words, sampling, seed=6).texts != first.texts


def test_the_global_generator_is_left_alone(folder, words):
    module = SamplingModule({"student": folder}, words, Sampling(max_new_tokens=3))
    module.model("student")
    before = torch.get_rng_state()
    whole(module, batch(PROMPTS))
    assert torch.equal(torch.get_rng_state(), before)


def drawn(folder, words, sampling, count=6000):
    """How often each word is the first of an answer; the end counts as ``""``."""
    answers = Counter()
    for seed in range(2):
        answers.update(respond(folder, words, sampling, [[2, 3, 4]] * (count // 2), seed).texts)
    return answers


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_words_are_drawn_from_the_models_own_distribution(temperature, folder, words):
    """Over the real vocabulary alone, though the phantom rows have larger logits than any word."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    probabilities = (real_logits(model, [2, 3, 4]) / temperature).softmax(-1)
    count = 6000
    answers = drawn(folder, words, Sampling(temperature=temperature, max_new_tokens=1), count)
    observed = [answers[""], *(answers[word] for word in WORDS[2:])]
    assert sum(observed) == count  # every answer is a word or the end: none is a phantom
    expected = [count * (probabilities[PAD] + probabilities[END]), *(count * p for p in probabilities[2:])]
    chi_square = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    assert chi_square < 40  # 8 degrees of freedom: p < 1e-5
    uniform = sum((o - count / 9) ** 2 / (count / 9) for o in observed)
    assert uniform > 400  # and the bound can tell distributions apart


def test_top_k_and_top_p_keep_what_they_say(folder, words):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    probabilities, order = real_logits(model, [2, 3, 4]).softmax(-1).sort(descending=True)
    names = ["" if i < 2 else WORDS[i] for i in order.tolist()]
    assert set(drawn(folder, words, Sampling(top_k=3, max_new_tokens=1), 600)) == set(names[:3])
    kept = int((probabilities.cumsum(0) < 0.6).sum()) + 1
    assert set(drawn(folder, words, Sampling(top_p=0.6, max_new_tokens=1), 600)) == set(names[:kept])


def test_lengths_and_finished(folder, words):
    got = respond(folder, words, Sampling(max_new_tokens=6), PROMPTS * 20)
    assert set(got.finished) == {True, False}
    for text, tokens, finished in zip(got.texts, got.tokens, got.finished, strict=True):
        assert 1 <= tokens <= 6
        assert finished or tokens == 6
        assert len(text.split()) <= tokens - finished  # a drawn <pad> is no word
    assert max(len(text.split()) for text in got.texts) == 6
    assert got.row_ids == [f"row {n}" for n in range(80)]


def test_a_models_own_generation_config_has_no_say(folder, words, tmp_path):
    own = {
        "do_sample": True,
        "temperature": 0.01,
        "top_k": 1,
        "min_p": 0.9,
        "repetition_penalty": 9.0,
        "no_repeat_ngram_size": 1,
        "num_beams": 3,
        "min_new_tokens": 10,
        "max_length": 4,
        "bad_words_ids": [[3], [5]],
        "forced_eos_token_id": 4,
    }
    for name, more in (("plain", {}), ("own", own)):
        model = AutoModelForCausalLM.from_pretrained(folder)
        model.save_pretrained(tmp_path / name)
        (tmp_path / name / "generation_config.json").write_text(json.dumps({"eos_token_id": END, **more}))
    for sampling in (Sampling(max_new_tokens=10), Sampling(temperature=0, max_new_tokens=10)):
        plain, own_way = (respond(tmp_path / name, words, sampling, PROMPTS * 5) for name in ("plain", "own"))
        assert own_way == plain


def test_but_its_stop_tokens_have(folder, words, tmp_path):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [END, 5, 6]}))
    module = SamplingModule({"student": tmp_path}, words, Sampling(max_new_tokens=40))
    for seed in range(2):  # the second batch as the first
        got = whole(module, batch(PROMPTS * 5, seed))
        assert all(got.finished)
        assert not any({"d", "e"} & set(text.split()[:-1]) for text in got.texts)
        assert any(text.endswith(("d", "e")) for text in got.texts)


def test_each_model_samples_in_its_own_way(folder, words):
    ways = {"chosen": Sampling(temperature=0, max_new_tokens=2), "rejected": Sampling(max_new_tokens=9)}
    module = SamplingModule({"chosen": folder, "rejected": folder}, words, ways)
    chosen, rejected = (whole(module, batch(PROMPTS), loader) for loader in range(2))
    assert (chosen.model, rejected.model) == ("chosen", "rejected")
    assert max(chosen.tokens) <= 2 < max(rejected.tokens)
    assert chosen == whole(module, batch(PROMPTS, seed=99))  # greedy


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"max_new_tokens": 0}]
)
def test_no_such_sampling(wrong):
    with pytest.raises(WrongInput, match="no such sampling"):
        replace(Sampling(), **wrong)


def test_not_a_number_is_no_temperature():
    with pytest.raises(WrongInput, match="no such sampling"):
        Sampling(temperature=math.nan)
