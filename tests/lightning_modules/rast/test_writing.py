"""Decoding from shared encoder states: where a sequence ends, and what is given back as it was."""

from dataclasses import replace

import torch

from lightning_modules.language_model import build_seq2seq_model, freeze
from lightning_modules.rast.writing import encode, mean_nlls, write, write_ways
from lightning_modules.sampling import Sampling


def model_and_rows(source, tokenizer, question_batch):
    torch.manual_seed(0)
    model = freeze(build_seq2seq_model(source, tokenizer))
    batch = question_batch()
    return model, [ids[mask.bool()].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]


def test_a_sequence_ends_with_its_end_token_or_at_the_maximum(small_t5, words_tokenizer, question_batch):
    unsure = {**small_t5, "initializer_factor": 0.3}
    model, rows = model_and_rows(unsure, words_tokenizer, question_batch)
    torch.manual_seed(0)
    written = write(model, words_tokenizer, encode(model, rows * 20, 0), Sampling(max_new_tokens=5))
    assert written.finished.any()
    assert not written.finished.all()
    for labels, text, finished in zip(written.labels, written.texts, written.finished, strict=True):
        kept = labels[labels != -100].tolist()
        assert labels.tolist() == kept + [-100] * (len(labels) - len(kept))
        assert (words_tokenizer.eos_token_id in kept) == bool(finished)
        assert words_tokenizer.eos_token_id not in kept[:-1]
        assert finished or len(kept) == 5
        assert text == words_tokenizer.decode(kept, skip_special_tokens=True).strip()


def test_the_models_own_generation_settings_are_neither_used_nor_changed(folders, words_tokenizer, question_batch):
    model, rows = model_and_rows(folders["generator"], words_tokenizer, question_batch)
    how = Sampling(temperature=0.0, max_new_tokens=5)
    plain = write(model, words_tokenizer, encode(model, rows, 0), how)
    model.generation_config.num_beams, model.generation_config.repetition_penalty = 4, 9.0
    again = write(model, words_tokenizer, encode(model, rows, 0), how)
    assert torch.equal(plain.labels, again.labels)
    assert (model.generation_config.num_beams, model.generation_config.repetition_penalty) == (4, 9.0)


def test_written_twice_is_sampled_once_and_once_greedy(small_t5, words_tokenizer, question_batch):
    model, rows = model_and_rows({**small_t5, "initializer_factor": 0.5}, words_tokenizer, question_batch)
    greedily, narrow = Sampling(temperature=0.0, max_new_tokens=6), Sampling(top_k=8, top_p=0.9, max_new_tokens=6)
    torch.manual_seed(0)
    encoded = encode(model, rows, 0)
    sampled, greedy = write_ways(model, words_tokenizer, encoded, [narrow, greedily])
    alone = write(model, words_tokenizer, encoded, greedily)
    assert greedy.texts == alone.texts
    assert torch.equal(greedy.labels, alone.labels)
    assert torch.equal(greedy.finished, alone.finished)
    assert sampled.texts != greedy.texts
    many = encode(model, rows[:1] * 2000, 0)
    first = write_ways(model, words_tokenizer, many, [Sampling(max_new_tokens=6), greedily])[0].labels[:, 0]
    start = torch.tensor([[model.config.decoder_start_token_id]])
    with torch.no_grad():
        chances = model(input_ids=torch.tensor(rows[:1]), decoder_input_ids=start).logits[0, 0].softmax(-1)
    torch.testing.assert_close(first.bincount(minlength=len(chances)) / 2000, chances, rtol=0.0, atol=0.045)


def test_both_ways_of_writing_have_their_own_lengths(small_t5, words_tokenizer, question_batch):
    model, rows = model_and_rows({**small_t5, "initializer_factor": 0.3}, words_tokenizer, question_batch)
    torch.manual_seed(0)
    encoded, greedily = encode(model, rows, 0), Sampling(temperature=0.0, max_new_tokens=30)
    for written in write_ways(model, words_tokenizer, encoded, [Sampling(max_new_tokens=30), greedily]):
        assert (written.labels != -100).any(0).all()
    long, short = write_ways(model, words_tokenizer, encoded, [greedily, replace(greedily, max_new_tokens=2)])
    assert torch.equal(short.labels, long.labels[:, :2])
    assert long.labels.shape[1] > 2


def test_a_row_costs_the_same_alone_and_in_a_batch(folders, words_tokenizer, question_batch):
    model, rows = model_and_rows(folders["generator"], words_tokenizer, question_batch)
    texts = ["ada moor", "1911", "the red crow", ""]
    together = mean_nlls(model, words_tokenizer, encode(model, rows, 0), texts)
    alone = [mean_nlls(model, words_tokenizer, encode(model, [r], 0), [t]) for r, t in zip(rows, texts, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
