"""Several questions a passage without templates: each decoding against a plain loop, or against what it must keep."""

import pytest
import torch

from datamodules.wrong_input import WrongInput
from lightning_modules.language_model import build_seq2seq_model, freeze
from lightning_modules.rast.decoding import beam_search, diverse_beam_search, sampled
from lightning_modules.rast.writing import encode, mean_logps, write
from lightning_modules.sampling import Sampling
from lightning_modules.seq2seq import IGNORED

COUNT, LONGEST = 4, 6


@pytest.fixture(scope="module")
def model(folders, words_tokenizer):
    return freeze(build_seq2seq_model(folders["generator"], words_tokenizer))


@pytest.fixture(scope="module")
def encoded(model, question_batch, words_tokenizer):
    ids = question_batch().input_ids.tolist()
    pad = words_tokenizer.pad_token_id
    return encode(model, [[token for token in row if token != pad] for row in ids], pad)


def next_logits(model, encoded, row, written):
    """From the model itself: logits after what a row has written."""
    one = slice(row, row + 1)
    start = torch.tensor([[model.config.decoder_start_token_id, *written]])
    mask = encoded.attention_mask[one]
    return model(encoder_outputs=(encoded.states[one],), attention_mask=mask, decoder_input_ids=start).logits[0, -1]


@torch.no_grad()
def naive_groups(model, encoded, row, count, penalty, end):
    """Group by group within a step, one token at a time, nothing shared."""
    written = [[] for _ in range(count)]
    for _ in range(LONGEST):
        chosen = []
        for group in written:
            if group[-1:] == [end]:
                continue
            logits = next_logits(model, encoded, row, group)
            for token in chosen:
                logits[token] -= penalty
            chosen.append(int(logits.argmax()))
            group.append(chosen[-1])
    return written


@pytest.mark.parametrize("penalty", [0.0, 0.05, 0.5, 3.0])
def test_diverse_beams_are_those_of_a_plain_loop(model, encoded, words_tokenizer, penalty):
    made = diverse_beam_search(LONGEST, penalty)(model, words_tokenizer, encoded, COUNT)
    rows = [[int(token) for token in row if token != IGNORED] for row in made.labels]
    for row in range(len(encoded.input_ids)):
        wanted = naive_groups(model, encoded, row, COUNT, penalty, words_tokenizer.eos_token_id)
        assert rows[row * COUNT : (row + 1) * COUNT] == wanted


def test_a_penalty_makes_groups_differ_and_none_leaves_them_greedy(model, encoded, words_tokenizer):
    greedy = write(model, words_tokenizer, encoded, Sampling(temperature=0.0, max_new_tokens=LONGEST)).texts
    alike = diverse_beam_search(LONGEST, 0.0)(model, words_tokenizer, encoded, COUNT).texts
    assert alike == [text for text in greedy for _ in range(COUNT)]
    apart = diverse_beam_search(LONGEST, 100.0)(model, words_tokenizer, encoded, COUNT)
    assert apart.texts[::COUNT] == greedy
    for start in range(0, len(apart.labels), COUNT):
        assert len({int(token) for token in apart.labels[start : start + COUNT, 0]}) == COUNT


def test_beams_come_best_first_and_are_no_worse_than_greedy(model, encoded, words_tokenizer):
    made = beam_search(LONGEST)(model, words_tokenizer, encoded, COUNT)
    scores = mean_logps(model, words_tokenizer, encoded.repeated(COUNT), made.labels).view(-1, COUNT)
    assert (scores.diff(dim=1) <= 1e-5).all()
    assert len(set(made.texts[:COUNT])) > 1
    greedy = write(model, words_tokenizer, encoded, Sampling(temperature=0.0, max_new_tokens=LONGEST))
    lengths = (greedy.labels != IGNORED).sum(1)
    same = (made.labels != IGNORED).sum(1).view(-1, COUNT)[:, 0] == lengths
    theirs = mean_logps(model, words_tokenizer, encoded, greedy.labels)
    assert (scores[same, 0] >= theirs[same] - 1e-5).all()


def test_samples_are_the_seeds_and_differ(model, encoded, words_tokenizer):
    decoding = sampled(Sampling(temperature=1.0, top_p=0.95, max_new_tokens=LONGEST))
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(decoding(model, words_tokenizer, encoded, COUNT).texts)
    assert runs[0] == runs[1] != runs[2]
    assert len(set(runs[0][:COUNT])) > 1


def test_a_negative_penalty_is_refused():
    with pytest.raises(WrongInput, match="penalty"):
        diverse_beam_search(penalty=-1.0)
