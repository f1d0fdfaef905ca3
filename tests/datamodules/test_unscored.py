import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.batches import PackedTokenBatch, TokenBatch
from datamodules.encoding import EncodedResponse
from datamodules.pairs import EncodedPair
from datamodules.response_index import ResponseIndex
from datamodules.score_cache import ScoreCache, Scorer
from datamodules.scored_pairs import response_key
from datamodules.unscored import SHARING, Unscored, UnscoredBatches, batches_of, collator, unscored_loader

PAIRS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=20)


def pairs_of(case) -> list[EncodedPair]:
    """Pairs of a prompt and two responses of these lengths, all of ones: many are equal."""
    made = []
    for i, (prompt, *lengths) in enumerate(case):
        both = (EncodedResponse(f"row {i}", np.ones(prompt + n, dtype=np.int32), prompt, False) for n in lengths)
        made.append(EncodedPair(*both))
    return made


def responses_of(pairs) -> dict[str, EncodedResponse]:
    return {response_key(response): response for pair in pairs for response in pair.responses}


def unscored(pairs, most=SHARING, done=()):
    index = ResponseIndex(pairs, "reference")
    known = np.array([index.key(place) in done for place in range(2 * len(pairs))])
    return Unscored(index, index.groups(most), known)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.integers(1, 4))
def test_groups_hold_each_response_once_and_answer_one_prompt(case, most):
    pairs = pairs_of(case)
    responses = responses_of(pairs)
    rows = unscored(pairs, most)
    groups = list(rows)
    assert len(rows.responses) == len(responses)
    assert sorted(key for group in groups for key, _ in group) == sorted(responses)
    assert all(response_key(response) == key for group in groups for key, response in group)
    assert all(len(group) <= most and len({r.prompt_length for _, r in group}) == 1 for group in groups)
    of_prompt = [sum(r.prompt_length == p for r in responses.values()) for p in range(1, 5)]
    assert len(groups) == sum(-(-count // most) for count in of_prompt)  # as few as can be
    sizes = [sum(len(r.ids) for _, r in group) for group in groups]
    assert sizes == sorted(sizes, reverse=True)
    tokens = [group[0][1].prompt_length + sum(len(r.response) for _, r in group) for group in groups]
    assert rows.lengths().tolist() == tokens


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.data(), st.integers(1, 8), st.booleans(), st.none() | st.integers(1, 30))
def test_batches_hold_what_is_missing(case, data, size, packed, budget):
    pairs = pairs_of(case)
    responses = responses_of(pairs)
    done = data.draw(st.sets(st.sampled_from(sorted(responses))))
    rows = unscored(pairs, SHARING if packed else 1, done)
    collate = collator(7, packed=packed, token_budget=budget)
    batches = UnscoredBatches(rows, batches_of(rows, groups=size), collate)
    assert batches.tokens == rows.lengths().sum()
    keys = []
    for batch in unscored_loader(batches):
        assert isinstance(batch, PackedTokenBatch if packed else TokenBatch)
        assert len(batch.row_ids) <= size * (SHARING if packed else 1)
        padded = batch.padded() if packed else batch
        for key, ids, attention, response in zip(batch.row_ids, *padded[:3], strict=True):
            assert ids[attention == 1].tolist() == responses[key].ids.tolist()
            assert ids[response].tolist() == responses[key].response.tolist()
        keys += batch.row_ids
    assert sorted(keys) == sorted(responses.keys() - done)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.integers(1, 60), st.booleans())
def test_batches_of_so_many_tokens(case, tokens, packed):
    rows = unscored(pairs_of(case), SHARING if packed else 1)
    batches, lengths = batches_of(rows, tokens=tokens), rows.lengths()
    assert [number for batch in batches for number in batch] == list(range(len(rows)))
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        longest = lengths[list(batch)].max()
        assert len(batch) == 1 or longest * len(batch) <= tokens
        if following is not None:  # one more would have been too much
            assert max(longest, lengths[following[0]]) * (len(batch) + 1) > tokens


def test_what_is_known_is_looked_up_and_rows_are_named(tmp_path):
    pairs = pairs_of([(2, 1, 3), (2, 1, 4), (3, 2, 2)])
    index = ResponseIndex(pairs, "teacher")
    assert index.places.tolist() == [0, 1, 3, 4]  # pair 1's chosen response is pair 0's, pair 2's two are one
    cache = ScoreCache(tmp_path, Scorer("m", "float32", None))
    cache.write({index.key(1): -1.0})
    assert index.known(cache).tolist() == [False, True, False, False, False, False]
    assert index.place_of(index.key(4)) == "row 2"
    assert index.place_of("00" * 20) is None


@pytest.mark.parametrize("most", [1, 2])
def test_no_pairs_make_no_groups(most):
    rows = Unscored(index := ResponseIndex([], "reference"), index.groups(most), np.zeros(0, dtype=bool))
    assert len(rows) == 0
    assert batches_of(rows, groups=2) == batches_of(rows, tokens=9) == []
