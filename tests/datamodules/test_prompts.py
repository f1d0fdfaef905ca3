import json
from types import SimpleNamespace

import pytest

from datamodules.batches import PromptBatch
from datamodules.encoding import encode_prompt
from datamodules.prompts import PromptDataModule
from datamodules.wrong_input import WrongInput

ROWS = [
    {"id": f"q{i}", "prompt": [{"role": "user", "content": "Who " * (i * 7 % 10 + 1)}], "key": {"name": i}}
    for i in range(23)
]


def made(tokenizer, folder, rows=ROWS, **settings) -> PromptDataModule:
    settings = {"answering": ["chosen", "rejected"], "batch_size": 4} | settings
    data = PromptDataModule(rows, tokenizer, folder=folder, **settings)
    data.setup("predict")
    return data


def answer(data: PromptDataModule, name: str, batch: PromptBatch) -> None:
    data.log_of(name).append([{"id": place, "response": "Ada."} for place in batch.row_ids])


def batches(data: PromptDataModule, name: str = "chosen") -> list[PromptBatch]:
    return list(data.predict_dataloader()[data.answering.index(name)])


def described(found: list[PromptBatch]) -> list[tuple]:
    return [(batch.row_ids, batch.seed, batch.input_ids.tolist(), batch.attention_mask.tolist()) for batch in found]


def test_every_prompt_is_asked_once_of_each_model_short_ones_together(tokenizer, tmp_path):
    data = made(tokenizer, tmp_path)
    for name in data.answering:
        found = batches(data, name)
        assert [len(batch.row_ids) for batch in found] == [4, 4, 4, 4, 4, 3]
        assert sorted(place for batch in found for place in batch.row_ids) == sorted(row["id"] for row in ROWS)
        lengths = [int(row.sum()) for batch in found for row in batch.attention_mask]
        assert lengths == sorted(lengths)
        for batch in found:
            for place, ids, mask in zip(batch.row_ids, batch.input_ids, batch.attention_mask, strict=True):
                assert ids[mask.bool()].tolist() == encode_prompt(tokenizer, data.prompts[place], place, 200)
    assert data.rows["q3"].fields["key"] == {"name": 3}


def test_seeds_differ_by_model_and_seed_and_nothing_else(tokenizer, tmp_path):
    data = made(tokenizer, tmp_path)
    seeds = [{batch.seed for batch in batches(data, name)} for name in data.answering]
    other = {batch.seed for batch in batches(made(tokenizer, tmp_path, seed=1))}
    assert len(set.union(*seeds, other)) == len(data.answering) + 1
    again = made(tokenizer, tmp_path / "elsewhere")
    assert described(batches(again)) == described(batches(data))


@pytest.mark.parametrize("half", ["", '{"id": "q', '{"id": "q0", "response": "Ad'])
def test_sampling_goes_on_with_what_is_left(tokenizer, tmp_path, half):
    data = made(tokenizer, tmp_path)
    whole = batches(data)
    for batch in whole[:2]:
        answer(data, "chosen", batch)
    log = data.log_of("chosen").path
    partly = {"id": whole[2].row_ids[0], "response": "Ada."}  # of the third batch, one line came to the disk
    log.write_bytes(log.read_bytes() + f"{json.dumps(partly)}\n{half}".encode())
    resumed = made(tokenizer, tmp_path)
    found = batches(resumed)
    assert [batch.row_ids for batch in found] == [whole[2].row_ids[1:], *(batch.row_ids for batch in whole[3:])]
    assert {batch.seed for batch in found} == {whole[0].seed}
    assert len(batches(resumed, "rejected")) == 6
    for batch in batches(resumed):
        answer(resumed, "chosen", batch)
    assert batches(made(tokenizer, tmp_path)) == []
    assert set(resumed.log_of("chosen").read()) == {row["id"] for row in ROWS}


def test_continuous_sampling_asks_all_at_once_and_leaves_no_rank_without(tokenizer, tmp_path):
    assert [len(batch.row_ids) for batch in batches(made(tokenizer, tmp_path, sampler="continuous"))] == [len(ROWS)]
    asked = []
    for rank in range(2):
        data = made(tokenizer, tmp_path, sampler="continuous")
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        asked.append([place for batch in batches(data) for place in batch.row_ids])
    assert [len(places) for places in asked] == [12, 11]
    assert sorted(asked[0] + asked[1]) == sorted(row["id"] for row in ROWS)


def test_given_responses_are_not_asked_for(tokenizer, tmp_path):
    said = [{"role": "assistant", "content": "Ada."}]
    rows = [ROWS[0] | {"chosen": said, "rejected": None}, ROWS[1] | {"chosen": said, "rejected": said}, ROWS[2]]
    data = made(tokenizer, tmp_path, rows, skip_given=True)
    assert [place for batch in batches(data) for place in batch.row_ids] == ["q2"]
    assert {place for batch in batches(data, "rejected") for place in batch.row_ids} == {"q0", "q2"}
    asked = made(tokenizer, tmp_path, rows)
    assert sum(len(batch.row_ids) for batch in batches(asked)) == 3
    assert batches(made(tokenizer, tmp_path, rows[1:2], skip_given=True)) == []


def test_a_given_response_that_is_none_is_refused_before_anything_is_sampled(tokenizer, tmp_path):
    rows = [ROWS[0], ROWS[1] | {"chosen": "Ada."}]
    with pytest.raises(WrongInput, match="`prompt` and `chosen` are of two kinds") as error:
        made(tokenizer, tmp_path, rows, skip_given=True)
    assert "q1" in str(error.value)
    made(tokenizer, tmp_path, rows)  # sampled anew, so it does not matter


def test_ranks_cover_all_batches_even_if_one_has_begun_before_another_looks(tokenizer, tmp_path):
    def on_rank(rank: int) -> PromptDataModule:
        data = made(tokenizer, tmp_path)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        return data

    whole = described(batches(made(tokenizer, tmp_path)))
    first = on_rank(0)
    mine = batches(first)
    answer(first, "chosen", mine[0])
    others = batches(on_rank(1))
    assert sorted(described(mine) + described(others)) == sorted(whole)


def test_two_rows_of_one_id_are_refused(tokenizer, tmp_path):
    with pytest.raises(WrongInput, match="two rows have one id") as error:
        made(tokenizer, tmp_path, [ROWS[4], ROWS[5], ROWS[4]])
    assert "q4" in str(error.value)


def test_no_prompts_and_too_long_ones_are_refused(tokenizer, tmp_path):
    with pytest.raises(WrongInput, match="there are no prompts"):
        made(tokenizer, tmp_path, [])
    with pytest.raises(WrongInput, match="the maximum is 12") as error:
        made(tokenizer, tmp_path, max_length=12)
    assert "q" in str(error.value)
