import math
import random
import time
from itertools import permutations

import pytest
import sacrebleu

from callbacks.questions import Asked, exact_match, question_differences, question_metrics, word_f1
from callbacks.questions.metrics import METRICS
from datamodules.almanac import passages

ROWS = list(passages(0, "test", 40))


def made(count: int, number: int = 3, seed: int = 0) -> list[Asked]:
    rng = random.Random(seed)
    inputs = []
    for n in range(count):
        row = ROWS[n % len(ROWS)]
        near = row["question"] if n % 2 else f"Tell me: {row['question']}"
        questions = [near, *(rng.choice(ROWS)["question"] for _ in range(number - 1))]
        rng.shuffle(questions)
        inputs.append(
            Asked(
                row["question"],
                row["context"],
                questions,
                [rng.random() for _ in questions],
                ["", *("Who [MASK] ?" for _ in questions[1:])],
                row["answer"],
                [rng.choice([row["answer"], "1875", "Mill Lane"]) for _ in questions],
                [(-rng.random(), rng.randint(1, 9)) for _ in questions],
            )
        )
    return inputs


def naive(inputs: list[Asked]) -> dict[str, float]:
    """Straight from the definitions, with sacreBLEU's own functions."""
    references = [[one.reference for one in inputs]]
    top1 = [one.questions[one.scores.index(max(one.scores))] for one in inputs]
    oracle = [max(one.questions, key=lambda q: sacrebleu.sentence_bleu(q, [one.reference]).score) for one in inputs]
    pairwise, self_bleu, em, f1 = [], [], [], []
    for one in inputs:
        pairs = [sacrebleu.sentence_bleu(a, [b]).score for a, b in permutations(one.questions, 2)]
        pairwise.append(sum(pairs) / len(pairs))
        others = [[*one.questions[:n], *one.questions[n + 1 :]] for n in range(len(one.questions))]
        each = [sacrebleu.sentence_bleu(q, rest).score for q, rest in zip(one.questions, others, strict=True)]
        self_bleu.append(sum(each) / len(each))
        em += [exact_match(answer, one.answer) for answer in one.answered]
        f1 += [word_f1(answer, one.answer) for answer in one.answered]
    found = {
        "top1_bleu": sacrebleu.corpus_bleu(top1, references).score,
        "oracle_bleu": sacrebleu.corpus_bleu(oracle, references).score,
        "pairwise_bleu": sum(pairwise) / len(pairwise),
        "self_bleu": sum(self_bleu) / len(self_bleu),
        "qa_em": 100 * sum(em) / len(em),
        "qa_f1": 100 * sum(f1) / len(f1),
        "nll": -sum(logp for one in inputs for logp, _ in one.likelihoods)
        / sum(tokens for one in inputs for _, tokens in one.likelihoods),
    }
    return found | {"overall": found["top1_bleu"] * found["oracle_bleu"] / found["pairwise_bleu"]}


@pytest.mark.parametrize("number", [2, 5])
def test_numbers_are_those_of_their_definitions(number):
    inputs = made(12, number)
    found = question_metrics(inputs, samples=10)
    for name, expected in naive(inputs).items():
        assert found[name] == pytest.approx(expected, abs=1e-6), name
    assert found["oracle_bleu"] >= found["top1_bleu"]
    assert found["self_bleu"] >= found["pairwise_bleu"]


def test_intervals_are_those_of_resampled_inputs_scored_anew():
    """The quick way against the slow one: draw inputs, and count everything again."""
    inputs = made(10)
    found = question_metrics(inputs, samples=400)
    rng = random.Random(5)
    drawn = [naive(rng.choices(inputs, k=len(inputs))) for _ in range(100)]
    for name in drawn[0]:
        values = sorted(one[name] for one in drawn)
        width = found[f"{name}_ci_high"] - found[f"{name}_ci_low"]
        assert found[f"{name}_ci_low"] <= found[name] <= found[f"{name}_ci_high"]
        assert values[2] == pytest.approx(found[f"{name}_ci_low"], abs=0.3 * width), name
        assert values[-3] == pytest.approx(found[f"{name}_ci_high"], abs=0.3 * width), name


def test_wording_is_pooled_over_inputs():
    inputs = [
        Asked("Who is it?", "It is Ada.", ["Who is it?", "What is it?"], [0, 1], ["", "What was [MASK] ?"]),
        Asked("Why?", "It is Ada.", ["Which Ada?"], [0]),
    ]
    found = question_metrics(inputs, samples=10)
    assert found["question_word_entropy"] == pytest.approx(math.log2(3))
    assert found["template_adherence"] == pytest.approx(100 * 2 / 5)  # what ? of what is was it ?
    assert found["copy_rate"] == pytest.approx(100 * 5 / 8)
    assert found["distinct_1"] == pytest.approx(100 * (5 / 8 + 1) / 2)
    assert found["distinct_2"] == pytest.approx(100 * (4 / 6 + 1) / 2)


def test_inputs_with_fewer_questions_than_others_are_no_error():
    several, one = made(4, 5), made(3, 1)
    mixed = question_metrics([*several, *one], samples=20)
    assert mixed["pairwise_bleu"] == pytest.approx(question_metrics(several, samples=20)["pairwise_bleu"])
    alone = question_metrics(one, samples=20)
    assert all(math.isnan(alone[name]) for name in ("pairwise_bleu", "self_bleu", "overall"))
    assert 0 < alone["top1_bleu"] == alone["oracle_bleu"]


def test_without_answers_or_templates_there_are_no_such_numbers():
    bare = [asked._replace(answered=(), templates=(), likelihoods=()) for asked in made(5)]
    found = question_metrics(bare, samples=20)
    assert math.isnan(found["qa_em"])
    assert math.isnan(found["qa_f1"])
    assert math.isnan(found["nll"])
    assert found["template_adherence"] == 0


def test_a_difference_is_that_of_the_numbers_and_nothing_from_itself():
    a, b = made(20, seed=1), made(20, seed=2)
    found = question_differences(a, b, samples=100)
    ours, theirs = question_metrics(a, samples=10), question_metrics(b, samples=10)
    for name in METRICS:
        assert found[name] == pytest.approx(ours[name] - theirs[name])
    same = question_differences(a, a, samples=100)
    assert all(value == 0 for value in same.values())
    with pytest.raises(ValueError, match="the same inputs"):
        question_differences(a, b[::-1])


def test_five_hundred_inputs_take_seconds():
    inputs = made(500, 5)
    started = time.process_time()  # of processor time, so that a busy machine does not fail it
    question_metrics(inputs, samples=1000)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "change",
    [
        {"questions": ()},
        {"scores": (1.0,)},
        {"templates": ("",)},
        {"answered": ("1875",)},
        {"likelihoods": ((-1.0, 3),)},
    ],
)
def test_lists_of_unequal_lengths_are_refused(change):
    with pytest.raises(ValueError, match="an input needs questions"):
        question_metrics([made(1)[0]._replace(**change)])
    with pytest.raises(ValueError, match="there are no inputs"):
        question_metrics([])
