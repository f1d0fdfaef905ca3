import json
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer

from datamodules.batches import PackedPairBatch, PackedTokenBatch, PairBatch, TokenBatch
from datamodules.preference_pairs import PreferencePairsDataModule
from datamodules.scored_pairs import response_key
from datamodules.wrong_input import WrongInput

# Prompt i has two pairs, and all share one rejected response a prompt: 40 pairs, 60 different responses.
ROWS = [
    {"prompt": f"Who is number {i}? ", "chosen": f"Ada, the {word} of {i}.", "rejected": f"It may be {i}."}
    for i in range(20)
    for word in ("first", "second")
]

LONG = [{"prompt": f"Who is number {i}? ", "chosen": "Ada " * (1 + i * 7 % 20), "rejected": "No."} for i in range(40)]


@pytest.fixture
def cached(tokenizer, model_folder, tmp_path):
    """Makes datamodules of one cache."""

    def make(rows=ROWS, **settings) -> PreferencePairsDataModule:
        models = {"reference": str(model_folder()), "teacher": str(model_folder(seed=1, rows=1100))}
        settings = {"cache_dir": tmp_path / "scores", "batch_size": 4, "val_fraction": 0.3} | models | settings
        data = PreferencePairsDataModule(rows, tokenizer, **settings)
        data.setup("fit")
        return data

    return make


def number_of(key: str, name: str) -> float:
    """A score that tells which response and which model it is of."""
    return -float(int(key[:5], 16)) - (0.5 if name == "teacher" else 0)


def score(data: PreferencePairsDataModule) -> int:
    """Write what is missing, as the scores stage does; how many that was."""
    count = 0
    for name, loader in zip(("reference", "teacher"), data.predict_dataloader(), strict=True):
        for batch in loader:
            data.cache(name).write({key: number_of(key, name) for key in batch.row_ids})
            count += len(batch.row_ids)
    return count


def prompts_of(pairs) -> set[bytes]:
    return {pair.chosen.ids[: pair.chosen.prompt_length].tobytes() for pair in pairs}


def on_rank(data, rank: int, world: int):
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world)
    return data


def test_every_batch_brings_the_scores_of_its_own_pairs(cached):
    data = cached()
    score(data)
    places = {pair.chosen.place: pair for pair in (*data.train_pairs, *data.val_pairs)}
    seen = []
    for batch in (*data.train_dataloader(), *data.val_dataloader()):
        assert isinstance(batch, PairBatch)
        assert batch.chosen.row_ids == batch.rejected.row_ids
        for i, place in enumerate(batch.chosen.row_ids):
            chosen, rejected = (response_key(response) for response in places[place].responses)
            assert [column[i].item() for column in batch.scores] == [
                number_of(chosen, "reference"),
                number_of(rejected, "reference"),
                number_of(chosen, "teacher"),
                number_of(rejected, "teacher"),
            ]
        seen += batch.chosen.row_ids
    left = len(data.train_pairs) % 4
    assert len(seen) == len(set(seen)) == 40 - left
    whole = data.train_scores()
    first = response_key(data.train_pairs[0].chosen)
    assert [len(column) for column in whole] == [len(data.train_pairs)] * 4
    assert whole.teacher_chosen_logps[0].item() == number_of(first, "teacher")
    chosen, rejected = data.train_lengths()
    assert chosen.tolist() == [len(pair.chosen.response) for pair in data.train_pairs]
    assert rejected.tolist() == [len(pair.rejected.response) for pair in data.train_pairs]


def test_only_what_is_missing_is_asked_for_once_longest_first(cached):
    data = cached()
    loaders = data.predict_dataloader()
    assert data.final_metrics == {"pairs": 40, "truncated": 0, "computed": 120, "reused": 0}
    wanted = {response_key(response) for pair in (*data.train_pairs, *data.val_pairs) for response in pair.responses}
    for loader in loaders:
        batches = list(loader)
        keys = [key for batch in batches for key in batch.row_ids]
        assert len(keys) == len(set(keys)) == 60
        assert set(keys) == wanted
        lengths = [int(row.sum()) for batch in batches for row in batch.attention_mask]
        assert lengths == sorted(lengths, reverse=True)
        assert isinstance(batches[0], TokenBatch)
    key = next(iter(wanted))
    assert data.place_of(key).startswith("row ")

    teacher = data.cache("teacher")
    teacher.write(dict.fromkeys(sorted(wanted)[:7], -1.0))
    reference, rest = data.predict_dataloader()
    assert sum(len(batch.row_ids) for batch in reference) == 60
    assert {key for batch in rest for key in batch.row_ids} == set(sorted(wanted)[7:])
    assert data.final_metrics == {"pairs": 40, "truncated": 0, "computed": 113, "reused": 7}


def test_a_second_run_computes_nothing_and_other_weights_everything(cached, model_folder):
    assert score(cached()) == 120
    assert score(cached(seed=5, batch_size=2)) == 0
    assert score(cached([ROWS[0]])) == 0
    assert score(cached(teacher=str(model_folder(seed=2)))) == 60
    assert score(cached(score_dtype="bfloat16")) == 120
    assert score(cached(padded_vocabulary=True)) == 120
    assert score(cached(max_length=19)) > 0  # cut responses are others


def test_ranks_cover_what_is_missing_even_if_one_has_begun_before_another_looks(cached):
    first = on_rank(cached(), 0, 2)
    for name, loader in zip(("reference", "teacher"), first.predict_dataloader(), strict=True):
        batch = next(iter(loader))
        first.cache(name).write({key: number_of(key, name) for key in batch.row_ids})
    for rank in (1, 0):
        score(on_rank(cached(), rank, 2))
    assert score(cached()) == 0


def test_no_two_ranks_score_one_response(cached):
    shares = [
        [key for loader in on_rank(cached(), rank, 3).predict_dataloader() for batch in loader for key in batch.row_ids]
        for rank in range(3)
    ]
    assert [len(share) for share in shares] == [40, 40, 40]
    assert len({key for share in shares for key in share}) == 60


def test_nothing_to_score_is_no_failure(cached):
    score(cached())

    class Module(LightningModule):
        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            raise AssertionError("nothing is missing")

    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    data = cached()
    trainer.predict(Module(), datamodule=data, return_predictions=False)
    assert data.final_metrics["computed"] == 0
    assert data.final_metrics["reused"] == 120


def test_training_without_scores_is_refused(cached):
    with pytest.raises(WrongInput, match="pairs have no score of the reference") as error:
        cached().train_dataloader()
    assert "run the scores stage" in str(error.value)


def test_pairs_are_looked_up_a_part_at_a_time(cached, monkeypatch):
    data = cached()
    score(data)
    whole = data.train_scores()
    monkeypatch.setattr("datamodules.scored_pairs.PAIRS_A_LOOK", 3)
    for ours, theirs in zip(data.train_scores(), whole, strict=True):
        assert torch.equal(ours, theirs)


def test_live_mode_brings_none(tokenizer):
    data = PreferencePairsDataModule(ROWS, tokenizer, val_fraction=0.3)
    data.setup("fit")
    assert all(batch.scores is None for batch in (*data.train_dataloader(), *data.val_dataloader()))
    for call in (data.train_scores, data.predict_dataloader):
        with pytest.raises(WrongInput, match="live mode"):
            call()


def test_a_prompts_pairs_stay_together_and_where_they_were(tokenizer):
    def split(rows, **settings) -> tuple[set, set]:
        data = PreferencePairsDataModule(rows, tokenizer, **{"val_fraction": 0.3} | settings)
        data.setup("fit")
        assert len(data.train_pairs) + len(data.val_pairs) == len(rows)
        return prompts_of(data.train_pairs), prompts_of(data.val_pairs)

    train, held_out = split(ROWS)
    assert len(train) + len(held_out) == 20
    assert held_out
    assert split(ROWS[::-1], seed=9, batch_size=3) == (train, held_out)
    more_train, more_held_out = split([*ROWS, {"prompt": "Another? ", "chosen": "Yes.", "rejected": "No."}])
    assert train <= more_train
    assert held_out <= more_held_out
    assert split(ROWS, val_fraction=0)[1] == set()


def test_a_handful_of_prompts_is_never_held_out_whole(tokenizer):
    data = PreferencePairsDataModule(ROWS[:2], tokenizer, val_fraction=0.999999)
    data.setup("fit")
    assert len(data.train_pairs) == 2
    assert data.val_dataloader() == []


def test_cut_responses_are_counted(tokenizer):
    data = PreferencePairsDataModule([*ROWS, ROWS[0] | {"chosen": "long " * 50}], tokenizer, max_length=60)
    data.setup("fit")
    assert data.final_metrics == {"pairs": 41, "truncated": 1}


def test_a_file_gives_the_same_pairs(tokenizer, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    one, two = (PreferencePairsDataModule(source, tokenizer) for source in (str(path), ROWS))
    for data in (one, two):
        data.setup("fit")
    assert [pair.chosen.ids.tolist() for pair in one.train_pairs] == [
        pair.chosen.ids.tolist() for pair in two.train_pairs
    ]
    assert one.train_pairs[0].chosen.place == "pairs.jsonl:1"


def test_packed_batches_hold_the_same_pairs_and_scores_in_the_same_order(cached):
    padded = cached()
    score(padded)
    for budget in (None, 60):
        packed = cached(packing="auto", token_budget=budget)
        for loader in ("train_dataloader", "val_dataloader"):
            batches = list(zip(getattr(packed, loader)(), getattr(padded, loader)(), strict=True))
            assert batches
            for ours, theirs in batches:
                assert isinstance(ours, PackedPairBatch)
                assert ours.row_ids == theirs.row_ids
                ours_alone, stacked = ours.stacked().padded(), theirs.stacked()
                for i in range(len(stacked.row_ids)):
                    seen, theirs_seen = ours_alone.attention_mask[i].bool(), stacked.attention_mask[i].bool()
                    assert torch.equal(ours_alone.input_ids[i][seen], stacked.input_ids[i][theirs_seen])
                    assert torch.equal(ours_alone.response_mask[i][seen], stacked.response_mask[i][theirs_seen])
                assert all(torch.equal(a, b) for a, b in zip(ours.scores, theirs.scores, strict=True))
                rows, width = ours.tokens.input_ids.shape
                assert rows == 1 if budget is None else width <= 60


def test_packed_scoring_asks_for_each_response_once(cached):
    data = cached(packing="auto", score_batch_size=6)
    for rank in (0, 1, 2):
        for name, loader in zip(("reference", "teacher"), on_rank(data, rank, 3).predict_dataloader(), strict=True):
            for batch in loader:
                assert isinstance(batch, PackedTokenBatch)
                assert len(batch.row_ids) <= 6
                data.cache(name).write({key: number_of(key, name) for key in batch.row_ids})
    assert data.final_metrics["reused"] + data.final_metrics["computed"] == 120
    assert score(cached()) == 0  # packed or padded, the keys are the same
    data = cached(rows=[ROWS[0], ROWS[1]], packing="auto", score_dtype="bfloat16")
    (batch,) = data.predict_dataloader()[0]  # one prompt, three different responses
    assert [len(prompt.responses) for prompt in batch.layout] in ([2, 1], [1, 2])


def test_a_window_sorts_by_length_and_changes_no_pair(cached):
    data, plain = cached(sort_window=3, rows=LONG), cached(rows=LONG)
    score(data)

    def lengths(data) -> list[list[int]]:
        return [batch.chosen.attention_mask.sum(-1).tolist() for batch in data.train_dataloader()]

    sorted_lengths, others = lengths(data), lengths(plain)
    assert sorted(sum(sorted_lengths, [])) == sorted(sum(others, []))
    spread = [sum(max(batch) - min(batch) for batch in each) for each in (sorted_lengths, others)]
    assert spread[0] < spread[1] / 1.5


def test_settings_that_cannot_be_are_refused(tokenizer, model_folder, tmp_path):
    with pytest.raises(WrongInput, match="unknown packing 'dense'"):
        PreferencePairsDataModule(ROWS, tokenizer, packing="dense")  # type: ignore[arg-type]
    with pytest.raises(WrongInput, match="a row of 0 tokens"):
        PreferencePairsDataModule(ROWS, tokenizer, token_budget=0)
    with pytest.raises(WrongInput, match="give all three or none"):
        PreferencePairsDataModule(ROWS, tokenizer, reference="a", teacher="b")
    with pytest.raises(WrongInput, match="val_fraction"):
        PreferencePairsDataModule(ROWS, tokenizer, val_fraction=1.0)
    empty = PreferencePairsDataModule([], tokenizer)
    with pytest.raises(WrongInput, match="there are no pairs"):
        empty.setup("fit")
    other = tmp_path / "teacher"
    model = str(model_folder())
    tokenizer.save_pretrained(other)
    config = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<|endoftext|>"}))
    data = PreferencePairsDataModule(ROWS, tokenizer, reference=model, teacher=str(other), cache_dir=tmp_path)
    with pytest.raises(WrongInput, match="its turns end with") as error:
        data.setup("fit")
    assert "'<|endoftext|>' and the student's with '<|im_end|>'" in str(error.value)
    assert f"the teacher, {other}" in str(error.value)
