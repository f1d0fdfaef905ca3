"""Scores of teachers with another tokenizer against a loop over texts, and answers in their own tokens."""

import shutil
from itertools import islice

import pytest
import torch
from transformers import AutoModelForCausalLM

from callbacks.score_writer import ScoreWriter
from datamodules.almanac import dialogues
from datamodules.encoding import load_tokenizer
from datamodules.preference_pairs import PreferencePairsDataModule
from datamodules.prompts import PromptDataModule
from lightning_modules.language_model import stop_token_ids
from lightning_modules.sampling import Sampling, SamplingModule
from lightning_modules.scoring import ScoringModule
from tests.other_tokenizers import pieces_tokenizer, saved_model, word_tokenizer

PLAIN = [
    {"prompt": "The oldest is", "chosen": " Vera Grant.", "rejected": " Karin."},
    {"prompt": "Who brews?", "chosen": "Arthur Winter", "rejected": " I do not know, and who would?"},
]


def chat_rows():
    rows = list(islice(dialogues(0, "train", 8), 8))
    answers = [row["completion"] for row in rows]
    return [
        {"prompt": row["prompt"], "chosen": answers[i], "rejected": answers[(i + 1) % len(rows)]}
        for i, row in enumerate(rows)
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Student of pieces and teacher of words."""
    folder = tmp_path_factory.mktemp("two-vocabularies")
    student = saved_model(folder / "student", pieces_tokenizer(), family="qwen2")
    return student, saved_model(folder / "teacher", word_tokenizer(), seed=2)


def scored(trainer, rows, student, teacher, teacher_tokenizer, cache, packing="off", **settings):
    """Score as the stage does; the datamodule afterwards."""
    tokenizer = load_tokenizer(student)
    models = {"reference": student, "teacher": teacher}
    own = {"teacher": load_tokenizer(teacher_tokenizer)} if teacher_tokenizer else {}
    make = {"teacher_tokenizer": teacher_tokenizer, "cache_dir": cache, "packing": packing, **settings}
    data = PreferencePairsDataModule(rows, tokenizer, **models, val_fraction=0, **make)
    module = ScoringModule(models, tokenizer, tokenizers=own, packing=packing)
    trainer(callbacks=[ScoreWriter()]).predict(module, datamodule=data, return_predictions=False)
    return data


def naive(folder, prompt, response) -> float:
    """Log-probability of the words of a text: one forward pass, one token after the other."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).double().eval(), load_tokenizer(folder)

    def ids_of(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    if not isinstance(prompt, str):
        response = response[0]["content"]
        turns = "".join(f"[{turn['role']}] {turn['content']}</turn>" for turn in prompt)
        prompt = f"<s>{turns}[assistant] "  # whose last space stays a token, as when the model answers
    start, whole = len(ids_of(prompt)), [*ids_of(prompt), *ids_of(response), tokenizer.eos_token_id]
    logps = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(logps[i - 1, whole[i]].item() for i in range(start, len(whole)))


@pytest.mark.parametrize("packing", ["off", "auto"])
def test_scores_are_those_of_each_text_alone(trainer, folders, tmp_path, packing):
    student, teacher = folders
    rows = [*chat_rows(), *PLAIN]
    data = scored(trainer, rows, student, teacher, teacher, tmp_path, packing)
    scores = data.train_scores()
    assert len(data.train_pairs) == len(rows)
    for pair, chosen, rejected in zip(
        data.train_pairs, scores.teacher_chosen_logps, scores.teacher_rejected_logps, strict=True
    ):
        row = rows[int(pair.chosen.place.split()[1]) - 1]
        assert chosen.item() == pytest.approx(naive(teacher, row["prompt"], row["chosen"]), rel=1e-5)
        assert rejected.item() == pytest.approx(naive(teacher, row["prompt"], row["rejected"]), rel=1e-5)
    again = scored(trainer, rows, student, teacher, teacher, tmp_path, packing)
    assert again.final_metrics["computed"] == 0


def test_a_teacher_of_the_same_tokens_gives_the_shared_paths_scores(trainer, folders, tmp_path):
    student, _ = folders
    teacher = saved_model(tmp_path / "teacher", pieces_tokenizer(), seed=3, family="qwen2")
    apart = tmp_path / "apart"
    shutil.copytree(teacher, apart)
    for rows, settings in (([*chat_rows(), *PLAIN], {}), (PLAIN, {"max_length": 11})):  # some responses are cut
        shared = scored(trainer, rows, student, teacher, None, tmp_path / "one", **settings)
        own = scored(trainer, rows, student, teacher, str(apart), tmp_path / "two", **settings)
        assert own.final_metrics["computed"] == shared.final_metrics["computed"] > 0
        assert shared.final_metrics["truncated"] > 0 or not settings
        assert own.final_metrics["teacher_tokens_ratio"] == 1
        for ours, theirs in zip(own.train_scores(), shared.train_scores(), strict=True):
            assert torch.equal(ours, theirs)


def test_the_reference_keeps_the_students_tokens(trainer, folders, tmp_path):
    student, teacher = folders
    own = scored(trainer, chat_rows(), student, teacher, teacher, tmp_path / "one").train_scores()
    shared = scored(trainer, chat_rows(), student, student, None, tmp_path / "two").train_scores()
    assert torch.equal(own.ref_chosen_logps, shared.ref_chosen_logps)
    assert torch.equal(own.ref_rejected_logps, shared.ref_rejected_logps)


def test_each_model_answers_in_its_own_tokens(trainer, folders, tmp_path):
    student, teacher = folders
    ours, theirs = load_tokenizer(student), load_tokenizer(teacher)
    own = {"chosen": theirs}
    rows = [{"id": f"q{i}", "prompt": row["prompt"]} for i, row in enumerate(chat_rows())]
    names = ["chosen", "rejected"]
    data = PromptDataModule(rows, ours, tokenizers=own, answering=names, folder=tmp_path, batch_size=8)
    models = {"chosen": teacher, "rejected": student}
    module = SamplingModule(models, ours, Sampling(temperature=0.0, max_new_tokens=6), tokenizers=own)
    answers = trainer().predict(module, datamodule=data)
    for (batch,), folder, tokenizer in zip(answers, (teacher, student), (theirs, ours), strict=True):
        (made,) = batch
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert tokenizer.eos_token_id in stop_token_ids(model, tokenizer)
        for place, text, length in zip(made.row_ids, made.texts, made.tokens, strict=True):
            ids = tokenizer.apply_chat_template(data.prompts[place], add_generation_prompt=True, return_dict=False)
            for _ in range(length):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            assert tokenizer.decode(ids[-length:], skip_special_tokens=True) == text
