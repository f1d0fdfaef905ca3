from types import SimpleNamespace

import pytest

from datamodules.answers import AnswersDataModule
from datamodules.responses import ResponseLog
from datamodules.wrong_input import WrongInput


def answers(folder, author: str, texts: list[str]) -> None:
    rows = [{"id": f"q{i}", "prompt": f"Who is {i}? ", "response": text} for i, text in enumerate(texts)]
    ResponseLog(folder / f"{author}.jsonl").append(rows)


def made(folder, tokenizer, **settings) -> AnswersDataModule:
    settings = {"author": "teacher", "compared": ["dsft", "dadpo"], "batch_size": 2} | settings
    data = AnswersDataModule(str(folder), tokenizer, **settings)
    data.setup("predict")
    return data


def test_the_authors_responses_once_a_model_empty_ones_left_out(tokenizer, tmp_path):
    answers(tmp_path, "teacher", ["Ada.", " ", "Otto Holm.", "Ida."])
    answers(tmp_path, "dsft", ["not these"])
    loaders = made(tmp_path, tokenizer).predict_dataloader()
    assert len(loaders) == 2
    for loader in loaders:
        batches = list(loader)
        assert [batch.row_ids for batch in batches] == [["q0", "q2"], ["q3"]]
        texts = [
            tokenizer.decode(ids[mask])
            for batch in batches
            for ids, mask in zip(batch[0], batch.response_mask, strict=True)
        ]
        assert texts == ["Ada.<|im_end|>", "Otto Holm.<|im_end|>", "Ida.<|im_end|>"]


def test_cut_responses_are_counted(tokenizer, tmp_path):
    answers(tmp_path, "teacher", ["Ada.", "Ada " * 30])
    assert made(tmp_path, tokenizer, max_length=25).final_metrics == {"truncated": 1}


def test_ranks_cover_all(tokenizer, tmp_path):
    answers(tmp_path, "teacher", ["Ada."] * 7)
    seen = []
    for rank in range(3):
        data = made(tmp_path, tokenizer)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=3)  # type: ignore[assignment]
        seen += [place for batch in data.predict_dataloader()[0] for place in batch.row_ids]
    assert sorted(seen) == [f"q{i}" for i in range(7)]


def test_an_author_without_responses_is_named(tokenizer, tmp_path):
    with pytest.raises(WrongInput, match="no answers of teacher"):
        made(tmp_path, tokenizer)
    answers(tmp_path, "teacher", ["", "\n"])
    with pytest.raises(WrongInput, match="there are no responses of teacher") as error:
        made(tmp_path, tokenizer)
    assert "teacher.jsonl" in str(error.value)
