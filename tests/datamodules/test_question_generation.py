import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from transformers import T5Config, T5ForConditionalGeneration

from datamodules.almanac import almanac_question_tokenizer, passages
from datamodules.batches import Example, QuestionBatch, Seq2SeqBatch
from datamodules.question_generation import QuestionGenerationDataModule
from datamodules.question_texts import QuestionTextDataModule
from datamodules.style_transfer import StyleTransferDataModule
from datamodules.templates import BankTemplate, Noise, TemplateBank, TemplateExtractor, build_bank
from datamodules.wrong_input import WrongInput

TOKENIZER = almanac_question_tokenizer()
STILL = Noise(0, 0, 0, 0)
ROWS = list(passages(0, "train", 40, 2))


def made(rows=ROWS, task="vanilla", **settings: Any) -> QuestionGenerationDataModule:
    data = QuestionGenerationDataModule(rows, TOKENIZER, task=task, **{"val_fraction": 0} | settings)
    data.setup("fit")
    return data


def written(ids) -> str:
    return " ".join(TOKENIZER.convert_ids_to_tokens([n for n in ids if n not in (0, -100)])).replace("▁", "")


def learnt(rows) -> list[tuple[str, str]]:
    return [(written(row.source), written(row.target)) for row in rows]


ROW = {
    "id": "a",
    "context": "Ada Holm founded the bakery in Mill Lane.",
    "question": "Who founded the bakery?",
    "answer": "Ada Holm",
    "answer_start": 0,
}


@pytest.mark.parametrize(
    ("task", "source", "target"),
    [
        ("vanilla", "<hl> Ada Holm <hl> founded the bakery in Mill Lane . </s>", "Who founded the bakery ? </s>"),
        (
            "style",
            "<hl> Ada Holm <hl> founded the bakery in Mill Lane . <sep> Who [MASK] ? </s>",
            "Who founded the bakery ? </s>",
        ),
        ("qa", "Ada Holm founded the bakery in Mill Lane . <sep> Who founded the bakery ? </s>", "Ada Holm </s>"),
    ],
)
def test_each_stage_reads_and_writes_its_own(task, source, target):
    settings = {"noise": STILL} if task == "style" else {}
    data = made([ROW], task, repeated_without_template=0, **settings)
    assert learnt(data.train_rows) == [(source, target)]
    assert data.final_metrics == {"rows": 1, "cut_passages": 0, "cut_targets": 0, "unanswerable": 0}


def test_half_of_the_examples_come_again_without_a_template_in_training_only():
    data = made(task="style", noise=STILL, val_data=list(passages(0, "validation", 10)))
    assert (len(data.train_rows), len(data.val_rows)) == (60, 10)
    separators = [written(row.source).count("<sep>") for row in data.train_rows]
    assert separators == [1] * 40 + [0] * 20
    assert all("<sep>" in written(row.source) for row in data.val_rows)
    places = [row.place for row in data.train_rows]
    assert places[:40] == [row["id"] for row in ROWS]
    assert len(set(places[40:])) == 20
    assert places == [row.place for row in made(task="style", noise=STILL).train_rows]
    assert places != [row.place for row in made(task="style", noise=STILL, seed=1).train_rows]


def test_templates_are_disturbed_in_training_only():
    def kept(rows, examples) -> int:
        extractor = TemplateExtractor()
        own = [extractor.of(one.question, one.context, one.answer) for one in examples]
        expected = [written(TOKENIZER(text)["input_ids"]) for text in own]
        found = [written(row.source).partition("<sep> ")[2] for row in rows]
        return sum(a == b for a, b in zip(found, expected, strict=False))

    rows = list(passages(0, "train", 300))
    data = made(rows, "style", val_data=ROWS)
    assert kept(data.val_rows, data.val_examples) == len(ROWS)
    assert 0.1 < kept(data.train_rows, data.train_examples) / 300 < 0.5  # a fifth is left as it is, some at random
    assert kept(made(rows, "style", noise=STILL).train_rows, data.train_examples) == 300


def test_a_long_passage_loses_neither_answer_nor_template():
    rows = list(passages(0, "train", 30, 6))
    for task in ("style", "qa", "vanilla"):
        data = made(rows, task, max_length=48)
        assert data.final_metrics["cut_passages"] == len(data.train_rows)
        for row in data.train_rows:
            source = written(row.source)
            if task == "qa":
                assert written(row.target).removesuffix(" </s>") in source.partition("<sep>")[0]
            else:
                assert source.count("<hl>") == 2
            assert source.endswith("</s>")
            assert len(row.source) <= 48
    with pytest.raises(WrongInput, match="what must not be cut") as error:
        made(rows, "style", max_length=5)
    assert "almanac-train-0" in str(error.value)


def test_long_targets_are_cut_and_counted():
    data = made([ROW, ROW | {"id": "b", "question": "Who?"}], max_target_length=4)
    assert [written(row.target) for row in data.train_rows] == ["Who founded the </s>", "Who ? </s>"]
    assert data.final_metrics["cut_targets"] == 1


def test_a_model_learns_from_a_batch_as_it_is():
    data = made(batch_size=4)
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, Seq2SeqBatch)
    assert batch.labels.eq(-100).any()
    assert (batch.input_ids.eq(TOKENIZER.pad_token_id) == batch.attention_mask.eq(0)).all()
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(TOKENIZER), d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    loss = T5ForConditionalGeneration(config)(**batch._asdict()).loss
    assert math.isfinite(loss.item())


def test_ranks_share_an_epoch_and_go_on_where_they_stopped():
    def places(rank: int, done: int) -> list[list[str]]:
        data = made(batch_size=4, seed=3)
        progress = SimpleNamespace(total=SimpleNamespace(processed=done))
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            global_rank=rank, world_size=2, num_training_batches=math.inf, fit_loop=loop
        )
        return [[written(ids) for ids in batch.input_ids] for batch in data.train_dataloader()]

    first, second = places(0, 0), places(1, 0)
    assert len(first) == len(second) == 5
    assert len({text for batch in (*first, *second) for text in batch}) == 40
    assert places(0, 2) == first[2:]
    assert places(0, 5) != first  # the next epoch has an order of its own


def test_rows_of_like_length_share_a_batch_where_they_are_sorted():
    rows = list(passages(0, "train", 96, 4, fewest=1))
    spread = {}
    for window in (1, 6):
        data = made(rows, batch_size=8, sort_window=window)
        lengths = [batch.attention_mask.sum(1) for batch in data.train_dataloader()]
        assert sorted(torch.cat(lengths).tolist()) == sorted(len(row.source) for row in data.train_rows)
        spread[window] = sum((found.max() - found.min()).item() for found in lengths) / len(lengths)
    assert spread[6] < spread[1] / 3
    texts = QuestionTextDataModule(rows, TOKENIZER, val_fraction=0, batch_size=8, sort_window=6)
    texts.setup("fit")
    assert sum(len(batch.input_ids) for batch in texts.train_dataloader()) == 96


def test_all_questions_on_a_passage_are_held_out_together():
    rows = [row | {"id": f"{row['id']}-{n}"} for row in ROWS for n in range(3)]
    data = made(rows, val_fraction=0.3)
    held, kept = ({example.context for example in part} for part in (data.val_examples, data.train_examples))
    assert held
    assert kept
    assert not held & kept
    assert len(data.val_rows) == 3 * len(held)
    assert made(rows, val_fraction=0.999999).val_dataloader() == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task": "vanila"}, "there is no task 'vanila'"),
        ({"task": "qa", "noise": STILL}, "the qa task uses no templates"),
        ({"task": "style", "repeated_without_template": 1.5}, "a share of 1.5"),
        ({"val_fraction": 1}, "val_fraction"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(WrongInput, match=said):
        made(**settings)


# Reinforcement learning and generation


def a_bank(*texts: str) -> TemplateBank:
    bank = TemplateBank(settings={"spacy_pipeline": None})
    bank.add(BankTemplate(text, "test") for text in texts)
    return bank


def styled(rows=(ROW,), bank=None, stage="fit", **settings: Any) -> StyleTransferDataModule:
    data = StyleTransferDataModule(list(rows), TOKENIZER, bank=bank or a_bank("Who [MASK] ?"), **settings)
    data.setup(stage)
    return data


def test_a_batch_brings_the_passages_and_their_own_templates():
    rows = [ROW, ROW | {"id": "b", "question": "Why is it so, then?"}]
    bank = a_bank("when is [MASK] ?", "who [mask] ?")
    (batch,) = styled(rows, bank, val_fraction=0, batch_size=2).train_dataloader()
    order = sorted(range(2), key=lambda place: batch.examples[place].id)
    assert [batch.examples[place] for place in order] == [
        Example("a", ROW["context"], "Ada Holm", 0, "Who founded the bakery?"),
        Example("b", ROW["context"], "Ada Holm", 0, "Why is it so, then?"),
    ]
    assert batch.own_template[order].tolist() == [1, -1]
    assert batch.own_template.dtype == torch.int64
    assert written(batch.input_ids[0]) == "<hl> Ada Holm <hl> founded the bakery in Mill Lane . </s>"
    moved = move_data_to_device(batch, "meta")
    assert isinstance(moved, QuestionBatch)
    assert moved.examples == batch.examples
    assert moved.own_template.device.type == "meta"


def test_the_own_template_is_found_in_a_bank_of_the_same_questions(tmp_path):
    rows = [row for row in ROWS if row["question"].endswith("?")]
    build_bank(rows, tmp_path / "bank.jsonl")
    data = styled(rows, str(tmp_path / "bank.jsonl"), val_fraction=0)
    assert all(row.own_template >= 0 for row in data.train_rows)
    assert data.final_metrics["own_templates"] == len(rows)


def test_the_own_template_is_found_in_a_users_file_of_the_same_questions(tmp_path):
    """Whose templates were made without passages, so that they mask other words."""
    rows = [row for row in ROWS if row["question"].endswith("?")]
    (tmp_path / "others.txt").write_text("\n".join(row["question"].lower().replace("?", " ?") for row in rows))
    data = styled(rows, str(tmp_path / "others.txt"), val_fraction=0)
    assert all(row.own_template >= 0 for row in data.train_rows)
    extractor = TemplateExtractor()
    with_passage = [extractor.of(row["question"], row["context"], row["answer"]) for row in rows]
    assert with_passage != [extractor.of(row["question"]) for row in rows]


def test_passages_without_questions_can_be_asked_about():
    bare = {key: value for key, value in ROW.items() if key != "question"}
    data = styled(predict_data=[bare, bare | {"id": "b"}], stage="predict", batch_size=8)
    (batch,) = data.predict_dataloader()
    assert [example.id for example in batch.examples] == ["a", "b"]
    assert batch.own_template.tolist() == [-1, -1]
    assert not data.train_rows  # nothing else was read
    with pytest.raises(WrongInput, match="no `question`"):
        styled([bare])


def test_held_out_rows_are_asked_about_where_nothing_else_is_given():
    data = styled(ROWS, val_data=ROWS[:5], stage="predict", batch_size=2)
    assert [one.id for batch in data.predict_dataloader() for one in batch.examples] == [row["id"] for row in ROWS[:5]]
    data.trainer = SimpleNamespace(global_rank=1, world_size=2)  # type: ignore[assignment]
    shares = [one.id for batch in data.predict_dataloader() for one in batch.examples]
    assert shares == [ROWS[1]["id"], ROWS[3]["id"]]


def test_a_bank_made_in_another_way_is_refused():
    bank = a_bank("Who [MASK] ?")
    bank.settings["spacy_pipeline"] = "en_core_web_sm"
    with pytest.raises(WrongInput, match="made with the spaCy pipeline en_core_web_sm and not None"):
        styled(bank=bank)
