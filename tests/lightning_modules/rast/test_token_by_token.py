"""Decoding token by token: against a plain loop over single rows, and against what transformers' generate writes."""

import pytest
import torch

from lightning_modules.language_model import build_seq2seq_model, freeze
from lightning_modules.rast.token_by_token import write_tokens
from lightning_modules.rast.writing import encode
from lightning_modules.token_draws import TokenDraws, random_numbers

BART = {"model_type": "bart", "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2}
BART |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "init_std": 0.4}
MOST = 7


@pytest.fixture(params=["t5", "bart"])
def model(request, small_t5, words_tokenizer):
    """In float64, so that no company of rows changes a choice; unsure, so that rows end early and late."""
    torch.manual_seed(0)
    source = {**small_t5, "initializer_factor": 0.45, "num_layers": 2} if request.param == "t5" else BART
    return freeze(build_seq2seq_model(source, words_tokenizer)).double()


@pytest.fixture
def encoded(model, question_batch):
    batch = question_batch((0, 1, 2, 3, 0))
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    return encode(model, rows * 3, 0)


@torch.no_grad()
def written_one_by_one(model, encoded, ways, stops):
    """Each row alone, its prefix read anew for each token; only the random numbers are made for all together."""
    inputs = len(encoded.states)
    sampled = [number for number, way in enumerate(ways) if way.temperature]
    numbers = [{number: random_numbers(inputs, torch.device("cpu")) for number in sampled} for _ in range(MOST)]
    start = [model.config.decoder_start_token_id]
    rows = []
    for number, way in enumerate(ways):
        for row in range(inputs):
            one, made = slice(row, row + 1), []
            while len(made) < MOST and made[-1:] not in [[stop] for stop in stops]:
                given = {"encoder_outputs": (encoded.states[one],), "attention_mask": encoded.attention_mask[one]}
                logits = model(**given, decoder_input_ids=torch.tensor([start + made])).logits[:, -1]
                drawn = numbers[len(made)].get(number, torch.zeros(inputs))[one]
                made.append(int(way.choose(logits, drawn)))
            rows.append(made)
    return rows


def test_each_way_writes_what_a_plain_loop_does(model, encoded, words_tokenizer):
    size, stops = len(words_tokenizer), [words_tokenizer.eos_token_id, words_tokenizer.get_vocab()["?"]]
    ways = [TokenDraws(1.0, 0.9, 10, size), TokenDraws(0.0, 1.0, 0, size), TokenDraws(0.5, 1.0, 0, size)]
    torch.manual_seed(3)
    made = write_tokens(model, encoded.states, encoded.attention_mask, ways, stops, MOST)
    torch.manual_seed(3)
    expected = written_one_by_one(model, encoded, ways, stops)
    assert [[token for token in row if token != -100] for row in made.flatten(0, 1).tolist()] == expected
    lengths = {len(row) for row in expected}
    assert len(lengths) > 2
    assert made.shape == (3, len(encoded.states), max(lengths))


def test_nothing_is_computed_twice_or_after_its_end(model, encoded, words_tokenizer):
    """A step of the decoder has as many rows as there are different beginnings, of rows that go on."""
    size, stops, computed = len(words_tokenizer), [words_tokenizer.eos_token_id], []
    ways = [TokenDraws(0.7, 1.0, 0, size), TokenDraws(0.0, 1.0, 0, size)]
    decoder = model.get_decoder()
    decoder.register_forward_pre_hook(lambda _, given, kept: computed.append(len(kept["input_ids"])), with_kwargs=True)
    made = write_tokens(model, encoded.states, encoded.attention_mask, ways, stops, MOST).tolist()
    begun = [
        {(row, *tokens[:step]) for way in made for row, tokens in enumerate(way) if tokens[step] != -100}
        for step in range(len(made[0][0]))
    ]
    assert computed == [len(different) for different in begun]
    assert computed[0] == len(encoded.states) < max(computed)


def test_what_is_certain_draws_nothing(model, encoded, words_tokenizer):
    """Else what is sampled afterwards would depend on whether something else had to be written first."""
    before = torch.random.get_rng_state()
    likeliest = TokenDraws(0.0, 1.0, 0, len(words_tokenizer))
    write_tokens(model, encoded.states, encoded.attention_mask, [likeliest], [words_tokenizer.eos_token_id], MOST)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_greedily_it_writes_what_generate_does(model, encoded, words_tokenizer):
    end = words_tokenizer.eos_token_id
    likeliest = TokenDraws(0.0, 1.0, 0, len(words_tokenizer))
    (made,) = write_tokens(model, encoded.states, encoded.attention_mask, [likeliest], [end], MOST)
    settings = {"max_new_tokens": MOST, "do_sample": False, "eos_token_id": end, "pad_token_id": 0}
    settings |= {"forced_eos_token_id": None, "forced_bos_token_id": None, "no_repeat_ngram_size": 0}
    theirs = model.generate(input_ids=encoded.input_ids, attention_mask=encoded.attention_mask, **settings)[:, 1:]
    assert torch.equal(made.clamp(min=0), theirs)
