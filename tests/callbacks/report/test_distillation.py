import json
import math

import pytest

from callbacks.report import write_distillation_report
from callbacks.report.distillation import cards, lead
from callbacks.report.run_files import RunFiles
from callbacks.report.student_numbers import StudentNumbers, percent, points

TITLES = [
    "Against the teacher",
    "Accuracy and distance from the teacher",
    "Training",
    "What the teacher&#39;s distribution asks for",
    "Answers side by side",
]


def student(name, preference, **more):
    rates = {"win_rate": 0.2, "tie_rate": 0.8 + preference - 0.2, "lose_rate": 0.2 - preference} | more
    rates |= {"preference_rate": preference, "preference_rate_ci_low": preference - 0.05}
    rates |= {
        "preference_rate_ci_high": preference + 0.05,
        "accuracy": 0.7,
        "kl_to_teacher": 0.1,
        "response_tokens": 13.0,
    }
    return {f"student/{name}/{key}": value for key, value in rates.items()}


METRICS = {"teacher/accuracy": 0.94} | student("dadpo", -0.1) | student("dsft", -0.3)


@pytest.fixture
def run_dir(tmp_path):
    for stage in ("dsft", "ddpo", "dadpo", "evaluate"):
        (tmp_path / stage).mkdir()
    for stage, keys in (("dsft", ["loss"]), ("ddpo", ["loss", "margin"]), ("dadpo", ["loss", "margin", "accuracy"])):
        rows = [{"id": i, "step": i} | {f"{stage}/train/{key}": 1 / (i + 1) for key in keys} for i in range(6)]
        (tmp_path / stage / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    margins = {"values": [-0.5, 0.5, 1.0, 6.0], "saturated_share": 0.25, "overshoot_factor": 10.5}
    (tmp_path / "dadpo" / "target_margin.json").write_text(json.dumps(margins))
    example = {
        "id": "p1",
        "prompt": [{"role": "user", "content": "Who bakes <b>?"}],
        "answers": {"dadpo": "Ada does.", "teacher": "Ada <script>bakes</script>.", "mine": "No one."},
        "verdicts": {"dadpo": "win", "mine": "lose"},
    }
    (tmp_path / "evaluate" / "examples.jsonl").write_text(json.dumps(example) + "\n")
    return tmp_path


def test_whole_run(run_dir):
    path = write_distillation_report(run_dir, METRICS, "seed: 0\n")
    page = path.read_text(encoding="utf-8")
    assert path == run_dir / "report.html"
    assert [title for title in TITLES if f"<h2>{title}</h2>" in page] == TITLES
    assert page.count("<svg") == 1 + 1 + 4 + 1
    assert "could not be read" not in page.split("<section>", 1)[1].replace("that could not be read", "")
    assert "25.0\u00a0% of the 4 pairs" in page or "25\u00a0% of the 4 pairs" in page
    assert "overshoot factor is 10.5" in page
    assert "<script" not in page
    assert page.index("Ada &lt;script&gt;") < page.index("Ada does.") < page.index("No one.")
    assert write_distillation_report(run_dir, METRICS, "seed: 0\n").read_text(encoding="utf-8") == page


def test_nothing_but_settings(tmp_path):
    page = write_distillation_report(tmp_path, {}, "seed: 0\n").read_text(encoding="utf-8")
    assert "holds no comparison" in page
    assert "<section>" not in page
    assert "seed: 0" in page


def test_damage_is_shown_and_the_rest_drawn(run_dir):
    with (run_dir / "dadpo" / "curve.jsonl").open("a") as curve:
        curve.write('{"step": 7, "dadpo/tr')
    (run_dir / "dadpo" / "target_margin.json").write_text('{"values": "no"')
    (run_dir / "evaluate" / "examples.jsonl").write_bytes(b'{"id": "p9", "prompt": 3}\n[]\n\xff\n')
    page = write_distillation_report(run_dir, METRICS | {"student/dadpo/accuracy": math.nan}, "").read_text("utf-8")
    notes = page.split("<h2>What could not be read</h2>")[1]
    for told in (
        "dadpo/curve.jsonl: line 7",
        "target_margin.json",
        "p9",
        "line 2 is no JSON object",
        "line 3",
        "dadpo/accuracy",
    ):
        assert told in notes
    assert "<h2>Training</h2>" in page


@pytest.mark.parametrize(
    "content", [{"values": [1.0, 2.0], "saturation": "x"}, {"values": {"a": 1}}, {"values": 3}, []]
)
def test_odd_data_do_not_end_the_run(run_dir, content):
    (run_dir / "dadpo" / "target_margin.json").write_text(json.dumps(content))
    assert "What could not be read" in write_distillation_report(run_dir, METRICS, "").read_text(encoding="utf-8")


def test_margins_that_are_not_finite_are_left_out_and_counted(run_dir):
    (run_dir / "dadpo" / "target_margin.json").write_text('{"values": [1.0, NaN, 2.0]}')
    files = RunFiles(run_dir)
    assert files.target_margins()["values"] == [1.0, 2.0]
    assert "1 values are not finite" in files.notes[0]


def test_last_word_on_a_step_counts_and_steps_are_in_order(tmp_path):
    (tmp_path / "dsft").mkdir()
    rows = [(0, 3.0), (2, 2.0), (4, 9.0), (2, 1.5), (4, 1.0)]  # killed after step 4, resumed from step 0
    lines = [json.dumps({"id": step, "step": step, "dsft/train/loss": loss}) for step, loss in rows]
    (tmp_path / "dsft" / "curve.jsonl").write_text("\n".join(lines))
    assert RunFiles(tmp_path).curves() == {"dsft": {"train/loss": ([0.0, 2.0, 4.0], [3.0, 1.5, 1.0])}}


def test_prompt_as_a_plain_text(tmp_path):
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "examples.jsonl").write_text(
        '{"id": "1", "prompt": "Who?", "answers": {"teacher": "Ada."}}'
    )
    assert RunFiles(tmp_path).examples()[0]["prompt"] == [{"role": "user", "content": "Who?"}]


def test_lead_says_what_is_sure():
    numbers = StudentNumbers(METRICS)
    assert lead(numbers) == (
        "Side by side with its teacher, the daDPO student wins 20\u00a0%, ties 50\u00a0% and loses 30\u00a0% of the "
        "held-out prompts: a preference rate of −10\u00a0%, 20\u00a0points above its dSFT start."
    )
    gain = {"": 0.2, "_ci_low": 0.13, "_ci_high": 0.26}
    unsure = {"": 0.01, "_ci_low": -0.02, "_ci_high": 0.04}
    paired = {f"student/dadpo/preference_gain_over_dsft{end}": value for end, value in gain.items()}
    paired |= {f"student/dadpo/preference_gain_over_ddpo{end}": value for end, value in unsure.items()}
    told = lead(StudentNumbers(METRICS | student("ddpo", -0.11) | paired))
    assert told.endswith(
        "20\u00a0points above its dSFT start (95 % interval 13 to 26) and not distinguishable from dDPO."
    )


def test_cards_hold_the_hero_against_teacher_and_start():
    shown = {card.label: (card.value, card.note) for card in cards(StudentNumbers(METRICS))}
    assert shown["Preference rate of daDPO"] == ("−10.0\u00a0%", "95 % interval −15.0 to −5.0")
    assert shown["Gain over its dSFT start"] == ("+20.0\u00a0points", "dSFT −30.0\u00a0%")
    assert shown["Accuracy"] == ("70.0\u00a0%", "teacher 94.0\u00a0%")
    assert shown["KL to the teacher"] == ("0.100", "nats a token; dSFT 0.100")


def test_a_run_without_dadpo_is_about_its_last_student():
    assert StudentNumbers(student("mine", 0.0) | student("dsft", 0.0)).hero == "mine"
    assert "the dSFT student" in lead(StudentNumbers(student("dsft", 0.0)))


def test_numbers_as_a_reader_wants_them():
    assert percent(None) == "–"
    assert percent(-0.0001) == "0.0\u00a0%"
    assert points(-0.0731) == "−7.3\u00a0points"
