"""N questions a passage: what each method makes, how it is marked, and that interruptions change nothing."""

import functools
import math
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer

from datamodules.wrong_input import WrongInput
from lightning_modules import AskingModule
from lightning_modules.language_model import build_seq2seq_model, freeze
from lightning_modules.rast import (
    Diversity,
    Plain,
    Styled,
    StyleRetriever,
    beam_search,
    consistency,
    diverse_beam_search,
    sampled,
)
from lightning_modules.sampling import Sampling
from tests.lightning_modules.rast.conftest import TEMPLATES, WordEncoder, by_first_word, template_of, template_words

COUNT = 4
METHODS = ("rast", "beam", "nucleus", "diverse_beam")
HOW = Sampling(temperature=1.0, top_p=0.95, top_k=30, max_new_tokens=6)


@pytest.fixture
def asking(words_tokenizer, folders):
    """``asking(methods=None, templates=TEMPLATES, **settings) -> AskingModule``; None: all four."""

    def make(methods=None, templates=TEMPLATES, cluster=by_first_word, **settings):
        bank = SimpleNamespace(texts=list(templates))
        retriever = functools.partial(
            StyleRetriever, folders["generator"], words_tokenizer, bank, cluster=cluster, candidates=12
        )
        every = {
            "rast": Styled(folders["generator"], retriever, vanilla=folders["vanilla"]),
            "beam": Plain(folders["vanilla"], beam_search(6)),
            "nucleus": Plain(folders["vanilla"], sampled(HOW)),
            "diverse_beam": Plain(folders["vanilla"], diverse_beam_search(6)),
        }
        defaults = {
            "methods": {name: every[name] for name in methods or METHODS},
            "tokenizer": words_tokenizer,
            "encoder": WordEncoder(words_tokenizer),
            "template_of": template_of,
            "rewards": {"consistency": consistency, "diversity": Diversity(template_words)},
            "qa": folders["qa"],
            "questions": COUNT,
            "max_new_tokens": 6,
        }
        return AskingModule(**{**defaults, **settings})

    return make


def by_method(module, batch):
    return {name: module.predict_step(batch, 0, place) for place, name in enumerate(module.methods)}


def test_every_method_asks_n_questions_with_all_that_is_known_of_them(asking, question_batch):
    batch = question_batch()
    for name, asked in by_method(asking(), batch).items():
        assert asked.method == name
        assert asked.examples == batch.examples
        for questions in asked.questions:
            assert len(questions) == COUNT
            for question in questions:
                assert math.isfinite(question.score)
                assert 0 < question.rewards["consistency"] <= 1
                assert 0 <= question.rewards["diversity"] <= 1
                if name != "rast":
                    assert question.template is question.retrieval_score is question.cluster is None
                    assert question.rewards["diversity"] == 0


def test_rast_asks_once_without_a_template_and_then_by_each_clusters_best(asking, question_batch):
    for questions in by_method(asking(["rast"]), question_batch())["rast"].questions:
        first, *styled = questions
        assert (first.template, first.retrieval_score, first.cluster) == (None, 1.0, None)
        assert first.rewards["diversity"] == 0
        scores = [question.retrieval_score for question in styled]
        assert scores == sorted(scores, reverse=True)
        assert styled[0].cluster == 0
        assert first.template_number is None
        assert [TEMPLATES[question.template_number] for question in styled] == [q.template for q in styled]
        assert len({question.template.split()[0] for question in styled}) == COUNT - 1  # a cluster is a first word


def test_scores_are_mean_token_log_probabilities_plus_the_retrieval_score(
    asking, question_batch, folders, words_tokenizer
):
    model, encoder = freeze(build_seq2seq_model(folders["generator"], words_tokenizer)), WordEncoder(words_tokenizer)
    asked = by_method(asking(["rast"]), question_batch())["rast"]
    compared = 0
    for example, questions in zip(asked.examples, asked.questions, strict=True):
        for question in questions:
            source = torch.tensor([encoder.styled(example, question.template or "")])
            made = model.generate(input_ids=source, max_new_tokens=6, do_sample=False)[0, 1:]
            if words_tokenizer.decode(made, skip_special_tokens=True).strip() != question.question:
                continue  # padding may tip an equal choice
            logps = model(input_ids=source, labels=made[None]).logits[0].log_softmax(-1)
            mean = logps.gather(1, made[:, None]).mean().item()
            assert question.score == pytest.approx(mean + question.retrieval_score, abs=1e-4)
            compared += 1
    assert compared > COUNT


def test_the_answers_likelihood_is_the_reward(asking, question_batch, folders, words_tokenizer):
    qa, encoder = freeze(build_seq2seq_model(folders["qa"], words_tokenizer)), WordEncoder(words_tokenizer)
    asked = by_method(asking(["beam"]), question_batch((0,)))["beam"]
    for question in asked.questions[0]:
        source = torch.tensor([encoder.qa(asked.examples[0].context, question.question)])
        labels = torch.tensor([encoder.ids(asked.examples[0].answer)])
        assert question.rewards["consistency"] == pytest.approx(
            qa(input_ids=source, labels=labels).loss.neg().exp().item(), rel=1e-4
        )


def test_the_same_passages_get_the_same_questions_whatever_went_before(asking, question_batch):
    batch = question_batch((0, 1))
    first = by_method(asking(), batch)
    torch.rand(7)
    module = asking()
    by_method(module, question_batch((2, 3)))
    assert by_method(module, batch) == first
    other = by_method(asking(seed=1), batch)
    assert other["nucleus"] != first["nucleus"]
    assert other["rast"] == first["rast"]


def test_a_small_bank_gives_fewer_questions_only_where_it_is_allowed_to(asking, question_batch):
    alike = ["who built [MASK] ?"] * 3 + ["who sold [MASK] ?"]
    asked = by_method(asking(["rast"], templates=alike), question_batch())["rast"]
    assert all(len(questions) == COUNT for questions in asked.questions)  # one cluster: the rest fill up
    with pytest.raises(WrongInput, match="3 templates an input are wanted and the bank has 2"):
        by_method(asking(["rast"], templates=alike[2:]), question_batch())
    with pytest.raises(WrongInput, match="the bank of templates is empty"):
        by_method(asking(["rast"], templates=[]), question_batch())


def test_without_a_vanilla_generator_nothing_annotated_is_looked_at(asking, question_batch, folders):
    module = asking(["rast"])
    module.methods["rast"].vanilla = None
    batch = question_batch()
    blind = batch._replace(examples=[example._replace(question="") for example in batch.examples])
    assert by_method(module, batch)["rast"].questions == by_method(module, blind)["rast"].questions


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"questions": 0}, "0 questions"),
        ({"qa": None}, "asks a QA model"),
        ({"rewards": {}}, "must have the same names, and some"),
    ],
)
def test_settings_that_do_not_fit(asking, settings, said):
    with pytest.raises(WrongInput, match=said):
        asking(**settings)


def test_rastmodule_predicts_the_same_rows(rast, question_batch, batches):
    module = rast(templates_per_passage=3)
    data = batches([question_batch()])
    data.predict_dataloader = data.train_dataloader
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    (asked,) = trainer.predict(module, data)
    assert asked.method == "rast"
    for questions in asked.questions:
        assert [question.template is None for question in questions] == [True, False, False, False]
        assert questions[0].rewards.keys() == {"consistency", "diversity"}
