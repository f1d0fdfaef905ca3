import json
import math
import re

import pytest

from callbacks.questions.metrics import METRICS
from callbacks.report.question_cautions import about_overall, about_the_judge, ahead_of_rast, fewer_questions
from callbacks.report.question_claims import lead
from callbacks.report.question_examples import side_by_side
from callbacks.report.question_numbers import QuestionNumbers, joined, with_sign
from callbacks.report.questions import cards, write_question_report

TITLES = [
    "Variety, and what it costs",
    "Every number",
    "What to know about these figures",
    "Questions side by side",
    "Training",
]


def method(name, **given):
    """Every metric of a method, 50 where nothing is given, each with bounds of one to either side."""
    values = dict.fromkeys(METRICS, 50.0) | given
    shifts = {"": 0.0, "_ci_low": -1.0, "_ci_high": 1.0}
    return {f"{name}/{key}{end}": value + shift for key, value in values.items() for end, shift in shifts.items()}


def paired(metric, other, value, low, high):
    ends = {"": value, "_ci_low": low, "_ci_high": high}
    return {f"rast/{metric}_minus_{other}{end}": number for end, number in ends.items()}


METRICS_OF_RUN = {
    **method("beam", top1_bleu=42.9, oracle_bleu=71.6, pairwise_bleu=34.8, overall=88.4, qa_f1=99.6),
    **method("fine_tuned", top1_bleu=40.9, oracle_bleu=63.8, pairwise_bleu=35.3, overall=73.8, qa_f1=95.5),
    **method("rast", top1_bleu=40.3, oracle_bleu=63.6, pairwise_bleu=27.8, overall=92.1, qa_f1=97.0),
    "rl/global_step": 200.0,
    "rl/bank/size": 33.0,
}
VARIED = paired("pairwise_bleu", "fine_tuned", -7.5, -9.4, -5.7)
UNHARMED = paired("qa_f1", "fine_tuned", 1.5, -0.3, 3.3)


def question(text, **more):
    none = {"template": None, "score": None, "retrieval_score": None, "cluster": None, "rewards": {}, "answered": None}
    return {"question": text} | none | more


def row(**more):
    asked = [
        question("Who <b>built</b> it?", template="Who [MASK] it ?", score=-0.2, answered="the Ada Moor."),
        question("By whom was it built?", score=-0.1, answered="Ada"),
        question("When was it built?", score=-0.3, answered="1873"),
    ]
    whole = {"id": "p1", "context": "Ada Moor built the mill of Ada Moor.", "answer": "Ada Moor", "answer_start": 27}
    return whole | {"reference": "Whose mill is it?", "methods": {"beam": asked[1:], "rast": asked}} | more


@pytest.fixture
def run_dir(tmp_path):
    for stage in ("evaluate", "rl", "vanilla"):
        (tmp_path / stage).mkdir()
    keys = ("train/reward", "val/reward", "train/reward_consistency", "train/greedy_reward_consistency")
    keys += ("train/reward_brevity", "train/kl", "train/copy_rate")
    for stage, names in (("rl", keys), ("vanilla", ["train/loss"])):
        rows = [{"id": i, "step": i} | {f"{stage}/{name}": 1 / (i + 1) for name in names} for i in range(6)]
        (tmp_path / stage / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = row(methods=row()["methods"] | {"nucleus": None, "diverse_beam": []})
    (tmp_path / "evaluate" / "questions.jsonl").write_text(json.dumps(whole) + "\n")
    return tmp_path


def test_whole_run(run_dir):
    path = write_question_report(run_dir, METRICS_OF_RUN | VARIED | UNHARMED, "seed: 0\n")
    page = path.read_text(encoding="utf-8")
    assert path == run_dir / "report.html"
    assert re.findall(r"<h2>(.*?)</h2>", page) == TITLES
    assert page.count("<svg") == 1 + 5 + 1  # reward, two parts, KL, shares; losses of the vanilla stage
    assert "Ada Moor built the mill of <mark>Ada Moor</mark>." in page
    assert "Who &lt;b&gt;built&lt;/b&gt; it?" in page
    assert re.findall(r'class="verdict (\w+)"', page) == ["right", "partly", "wrong", "partly", "wrong"]
    assert page.count("first choice") == 2
    assert "seed: 0" in page
    assert "<script" not in page
    assert write_question_report(run_dir, METRICS_OF_RUN | VARIED | UNHARMED, "seed: 0\n").read_text("utf-8") == page


def test_every_metric_of_every_method_is_in_a_table_with_its_interval(run_dir):
    given = [10.0 + 3 * place for place in range(len(METRICS))]
    metrics = method("rast", **dict(zip(METRICS, given, strict=True)))
    page = write_question_report(run_dir, metrics, "").read_text(encoding="utf-8")
    for value in given:
        assert re.search(rf"<td>{value:.1f}0?<small>{value - 1:.1f}0? to {value + 1:.1f}0?</small>", page)


def test_the_last_samples_of_training_are_shown(run_dir):
    sample = {"step": 20, "example": "p1", "template": "Who [MASK] it ?", "question": "Who <i>built</i> it?"}
    sample |= {"answer": "Ada Moor", "qa_answer": "", "reward": 0.5}
    lines = [json.dumps(sample), json.dumps({"step": 20, "example": "p2"})]
    (run_dir / "rl" / "samples.jsonl").write_text("\n".join(lines))
    page = write_question_report(run_dir, METRICS_OF_RUN, "").read_text("utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", page) == [*TITLES, "Samples of the training", "What could not be read"]
    section = page.split("Samples of the training</h2>")[1].split("</section>")[0]
    cells = ["Who [MASK] it ?", "Who &lt;i&gt;built&lt;/i&gt; it?", "Ada Moor", "–", "0.50", "p1"]
    assert [re.sub(r"<small>.*", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", section)][-6:] == cells
    assert "step 20" in section
    assert "rl/samples.jsonl: the row of &#39;p2&#39; lacks `question`" in page


def test_nothing_but_settings(tmp_path):
    page = write_question_report(tmp_path, {}, "seed: 0\n").read_text(encoding="utf-8")
    assert "holds no sets of questions" in page
    assert "<section>" not in page


def test_damage_is_shown_and_the_rest_drawn(run_dir):
    broken = [
        json.dumps(row(id="p2", context=None)),
        json.dumps(row(id="p3", methods={"rast": "no"})),
        json.dumps(row(id="p4", methods={"rast": [{"question": 3}]})),
        json.dumps(row(id="p5", methods=None)),
        '{"id": "p6',
    ]
    with (run_dir / "evaluate" / "questions.jsonl").open("a") as file:
        file.write("\n".join(broken))
    (run_dir / "rl" / "curve.jsonl").write_bytes(b"\xff\n[]\n")
    page = write_question_report(run_dir, METRICS_OF_RUN | {"rast/copy_rate": math.inf}, "").read_text("utf-8")
    notes = page.split("<h2>What could not be read</h2>")[1]
    for told in ("p2", "p3", "p4", "p5", "line 6", "rl/curve.jsonl: line 1", "rast/copy_rate"):
        assert told in notes
    assert "<mark>Ada Moor</mark>" in page
    assert "<h2>Training</h2>" in page


@pytest.mark.parametrize("odd", [{"answer_start": 3}, {"answer_start": None}, {"answer_start": -8}, {"answer": None}])
def test_an_answer_in_another_place_is_not_marked(odd):
    passage = side_by_side([row(**odd)]).passages[0]
    assert (passage.before + passage.marked + passage.after, passage.marked) == (row()["context"], "")


def test_an_answer_at_the_beginning_is_marked():
    passage = side_by_side([row(answer_start=0)]).passages[0]
    assert (passage.before, passage.marked) == ("", "Ada Moor")


def test_examples_are_spread_over_the_file_and_methods_in_one_order():
    section = side_by_side([row(reference=str(n)) for n in range(30)])
    assert [passage.reference for passage in section.passages] == ["0", "10", "20"]
    of_all = side_by_side([row(methods={"mine": [question("Who?")], **row()["methods"]})])
    assert [name for name, _ in of_all.passages[0].asked] == ["RAST", "beam search", "mine"]
    assert "3 of 30 passages" in section.text


def test_what_nobody_scored_or_answered_has_no_mark():
    plain = [question("Who?"), question("What?", answered="")]
    _, shown = side_by_side([row(methods={"beam": plain})]).passages[0].asked[0]
    assert [(one.tag, one.answered, one.verdict) for one in shown] == [("", None, ""), ("", "", "wrong")]


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        (
            VARIED | UNHARMED,
            "RAST's questions are more varied than those of its fine-tuned start (Pairwise BLEU −7.5, 95 % interval "
            "−9.4 to −5.7), and whether the judge answers them better or worse cannot be told (F1 +1.5, 95 % interval "
            "−0.3 to 3.3).",
        ),
        (
            paired("pairwise_bleu", "fine_tuned", -1.0, -3.0, 1.0) | paired("qa_f1", "fine_tuned", -9.6, -12.0, -7.0),
            "RAST's questions are not distinguishable in variety from those of its fine-tuned start (Pairwise BLEU "
            "−1.0, 95 % interval −3.0 to 1.0), and the judge answers them less well (F1 −9.6, 95 % interval −12.0 to "
            "−7.0).",
        ),
        (
            {},
            "RAST's questions are of a Pairwise BLEU 7.5 lower than those of its fine-tuned start (no interval of the "
            "difference), and the F1 of the judge's answers is 1.5 higher (no interval of the difference).",
        ),
    ],
)
def test_lead_is_no_surer_than_its_intervals(metrics, told):
    assert lead(QuestionNumbers(METRICS_OF_RUN | metrics)) == told


def test_lead_without_a_start_or_a_judge():
    alone = {key: value for key, value in METRICS_OF_RUN.items() if key.startswith("rast/")}
    assert "nothing to hold it against" in lead(QuestionNumbers(alone))
    unjudged = {key: value for key, value in METRICS_OF_RUN.items() if "qa_f1" not in key} | VARIED
    assert lead(QuestionNumbers(unjudged)).endswith("and how well they can be answered was not measured.")


def test_cards_hold_rast_against_its_start():
    shown = {card.label: (card.value, card.note) for card in cards(QuestionNumbers(METRICS_OF_RUN | VARIED))}
    start = "lower is more varied; fine-tuned start 35.3; difference −7.5, 95 % interval −9.4 to −5.7"
    assert shown["Pairwise BLEU"] == ("27.8", start)
    assert shown["Oracle BLEU"] == ("63.6", "fine-tuned start 63.8; 95 % interval 62.6 to 64.6")


def test_where_others_are_ahead_it_is_said():
    beaten = paired("oracle_bleu", "beam", -8.0, -10.0, -6.0) | paired("qa_f1", "beam", -2.6, -5.3, 0.1)
    told = ahead_of_rast(QuestionNumbers(METRICS_OF_RUN | beaten))
    sure, unsure, unknown = told.split(" Ahead of RAST")
    assert sure.endswith("leaves 0 out: beam search in Oracle BLEU.")
    assert unsure.endswith("can tell from 0: beam search in QA F1.")
    assert unknown.endswith("fine-tuned start in Top-1 BLEU and Oracle BLEU; beam search in Top-1 BLEU.")
    best = method("rast", top1_bleu=99.0, oracle_bleu=99.0, pairwise_bleu=1.0, overall=99.0, qa_f1=99.9)
    assert ahead_of_rast(QuestionNumbers(METRICS_OF_RUN | best)).startswith("In none of Top-1 BLEU")


def test_overall_that_was_bought_is_called_bought():
    ruined = QuestionNumbers(METRICS_OF_RUN | method("rast", pairwise_bleu=22.7, overall=106.8, qa_f1=85.9))
    assert "RAST has the highest, 106.80, with an F1 of 85.9 where beam search has 99.6: part of it" in about_overall(
        ruined
    )
    assert "RAST has the highest, 92.10, with an F1 of 97.0 (beam search: 99.6)." in about_overall(
        QuestionNumbers(METRICS_OF_RUN)
    )
    beaten = QuestionNumbers(METRICS_OF_RUN | method("rast", overall=78.4))
    assert "beam search has the highest, 88.40 against 78.40 of RAST, with an F1 of 99.6." in about_overall(beaten)


@pytest.mark.parametrize(("true", "known"), [(2.5, False), (99.9, True), (None, True)])
def test_a_judge_that_cannot_answer_true_questions_proves_nothing(true, known):
    numbers = QuestionNumbers(METRICS_OF_RUN | VARIED | UNHARMED | ({} if true is None else {"reference/qa_f1": true}))
    assert lead(numbers).startswith("The judge cannot answer the true questions either. ") != known
    assert ("before anything here is believed" in about_the_judge(numbers)) != known


def test_methods_that_ask_less_are_named():
    assert fewer_questions([row(), row()]) == "Fewer than 3 questions were asked by beam search for 2 of 2 passages."
    assert fewer_questions([]) == ""


def test_numbers_of_methods():
    numbers = QuestionNumbers(METRICS_OF_RUN | method("mine") | {"mine/qa_f1": math.nan} | VARIED)
    assert numbers.methods == ["rast", "fine_tuned", "beam", "mine"]
    assert numbers.get("mine", "qa_f1") is None
    assert numbers.notes == []
    assert numbers.leader("pairwise_bleu") == "rast"
    assert numbers.leader("qa_f1") == "beam"
    assert numbers.difference("rast", "fine_tuned", "pairwise_bleu") == (-7.5, (-9.4, -5.7))
    assert numbers.difference("rast", "beam", "pairwise_bleu") == (pytest.approx(-7.0), None)
    assert (with_sign(0.04), with_sign(0.06), with_sign(-3.0)) == ("0.0", "+0.1", "−3.0")
    assert (joined([]), joined(["a"]), joined(["a", "b", "c"])) == ("", "a", "a, b and c")
