import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.batches import PackedTokenBatch, TokenBatch
from datamodules.encoding import EncodedResponse
from datamodules.unscored import SHARING, share_prompts, unscored_loader

RESPONSES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=25)


def responses_of(case) -> dict[str, EncodedResponse]:
    """Responses of these lengths to prompts of these lengths, all of ones but for the response's first token."""
    made = {}
    for i, (prompt, length) in enumerate(case):
        ids = np.ones(prompt + length, dtype=np.int32)
        ids[prompt] = i
        made[f"key {i}"] = EncodedResponse(f"row {i}", ids, prompt, False)
    return made


@settings(max_examples=60, deadline=None)
@given(RESPONSES, st.integers(1, 4))
def test_groups_hold_each_response_once_and_answer_one_prompt(case, most):
    responses = responses_of(case)
    groups = share_prompts(responses, most)
    assert sorted(key for group in groups for key, _ in group) == sorted(responses)
    assert all(len(group) <= most and len({r.prompt_length for _, r in group}) == 1 for group in groups)
    of_prompt = [sum(prompt == p for prompt, _ in case) for p in range(1, 5)]
    assert len(groups) == sum(-(-count // most) for count in of_prompt)  # as few as can be
    sizes = [sum(len(r.ids) for _, r in group) for group in groups]
    assert sizes == sorted(sizes, reverse=True)


@settings(max_examples=40, deadline=None)
@given(RESPONSES, st.sets(st.integers(0, 24)), st.integers(1, 8), st.booleans(), st.none() | st.integers(1, 30))
def test_batches_hold_what_is_missing(case, known, size, packed, budget):
    responses = responses_of(case)
    done = {f"key {i}": -1.0 for i in known}
    groups = share_prompts(responses, SHARING if packed else 1)
    settings = {"packed": packed, "token_budget": budget}
    loader = unscored_loader(groups, done, size, 7, **settings)
    keys = []
    for batch in loader:
        assert isinstance(batch, PackedTokenBatch if packed else TokenBatch)
        assert len(batch.row_ids) <= max(size, SHARING if packed else 1)
        rows = batch.padded() if packed else batch
        for key, ids, attention, response in zip(batch.row_ids, *rows[:3], strict=True):
            assert ids[attention == 1].tolist() == responses[key].ids.tolist()
            assert ids[response].tolist() == responses[key].response.tolist()
        keys += batch.row_ids
    assert sorted(keys) == sorted(responses.keys() - done.keys())
