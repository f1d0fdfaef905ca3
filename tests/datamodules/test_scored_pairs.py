import pytest
import torch

from datamodules.batches import PairScores
from datamodules.pairs import read_pairs
from datamodules.score_cache import ScoreCache, Scorer
from datamodules.scored_pairs import ScoredPair, collate_pairs, pack_pairs, response_key, stack_scores, with_scores
from datamodules.wrong_input import WrongInput

ROWS = [{"prompt": "Who? ", "chosen": "Ada " * i, "rejected": "No " * (7 - i)} for i in range(1, 6)]


@pytest.fixture
def pairs(tokenizer):
    return list(read_pairs(ROWS, tokenizer, 200))


@pytest.fixture
def caches(tmp_path) -> list[ScoreCache]:
    return [ScoreCache(tmp_path, Scorer(name, "float32", None)) for name in ("reference", "teacher")]


def fill(caches, pairs) -> None:
    """Scores that say where they belong: thousands the model, hundreds the side, ones the row."""
    for model, cache in enumerate(caches, start=1):
        for side in (0, 1):
            cache.write(
                {response_key(p.responses[side]): -1000.0 * model - 100 * side - i for i, p in enumerate(pairs)}
            )


def test_scores_land_at_their_pairs_in_the_order_of_their_names(pairs, caches):
    fill(caches, pairs)
    scored = with_scores(pairs, *caches, "pairs.jsonl")
    assert [each.pair for each in scored] == pairs
    batch = collate_pairs([scored[3], scored[1]], pad_id=9)
    assert isinstance(batch.scores, PairScores)
    assert {name: column.tolist() for name, column in batch.scores._asdict().items()} == {
        "ref_chosen_logps": [-1003.0, -1001.0],
        "ref_rejected_logps": [-1103.0, -1101.0],
        "teacher_chosen_logps": [-2003.0, -2001.0],
        "teacher_rejected_logps": [-2103.0, -2101.0],
    }
    assert all(column.dtype == torch.float32 for column in batch.scores)


@pytest.mark.parametrize(("model", "name"), [(0, "reference"), (1, "teacher")])
@pytest.mark.parametrize("side", [0, 1])
def test_a_missing_score_is_named(pairs, caches, model, name, side):
    fill(caches, pairs)
    with caches[model]._connection as db:
        db.execute("DELETE FROM added WHERE key = ?", (response_key(pairs[2].responses[side]),))
    with pytest.raises(WrongInput, match=f"1 of 5 pairs have no score of the {name}") as error:
        with_scores(pairs, *caches, "pairs.jsonl")
    assert "pairs.jsonl, first at row 3" in str(error.value)
    assert "run the scores stage" in str(error.value)


def test_live_pairs_have_no_scores(pairs):
    scored = [ScoredPair(pair, None) for pair in pairs]
    assert stack_scores(scored) is None
    assert collate_pairs(scored, 0).scores is None


def test_both_sides_have_one_length_and_lose_nothing(pairs, tokenizer):
    batch = collate_pairs([ScoredPair(pair, None) for pair in pairs], pad_id=tokenizer.pad_token_id)
    longest = max(len(response.ids) for pair in pairs for response in pair.responses)
    assert batch.chosen.input_ids.shape == batch.rejected.input_ids.shape == (5, longest)
    assert batch.stacked().input_ids.shape == (10, longest)
    for side, tokens in enumerate((batch.chosen, batch.rejected)):
        assert tokens.row_ids == [f"row {i}" for i in range(1, 6)]
        for i, pair in enumerate(pairs):
            response = pair.responses[side]
            assert tokens.input_ids[i][tokens.attention_mask[i].bool()].tolist() == response.ids.tolist()
            assert (
                tokens.input_ids[i][tokens.response_mask[i]].tolist() == response.ids[response.prompt_length :].tolist()
            )


def test_packed_pairs_are_the_same_pairs_with_each_prompt_once(pairs, caches):
    fill(caches, pairs)
    scored = with_scores(pairs, *caches, "pairs.jsonl")
    packed, padded = pack_pairs(scored, 9, 40), collate_pairs(scored, 9)
    assert packed.row_ids == padded.row_ids
    again, stacked = packed.stacked().padded(), padded.stacked()
    length = again.input_ids.shape[1]
    assert torch.equal(again.attention_mask, stacked.attention_mask[:, :length])
    assert torch.equal(again.response_mask, stacked.response_mask[:, :length])
    seen = again.attention_mask.bool()
    assert torch.equal(again.input_ids[seen], stacked.input_ids[:, :length][seen])
    for ours, theirs in zip(packed.scores, padded.scores, strict=True):
        assert torch.equal(ours, theirs)
    used = sum(len(p.chosen.ids) + len(p.rejected.response) for p in pairs)
    assert packed.tokens_needed() == padded.tokens_needed() == used
    assert packed.tokens.input_ids.shape[1] <= 40
    assert (packed.tokens.input_ids[packed.tokens.prompts < 0] == 9).all()
    assert pack_pairs([ScoredPair(pair, None) for pair in pairs], 0).scores is None
