"""The chosen λ is the most varied whose questions are still about the answers, on development passages alone."""

import json
from itertools import permutations

import pytest
import sacrebleu
import torch
from omegaconf import OmegaConf

from callbacks.report.lambda_numbers import BY_PASSAGE, Job, read_jobs, summarise, tuned_nucleus
from callbacks.report.lambda_sweep import LambdaReport

TEXTS = ["Who founded the bakery ?", "By whom was the bakery founded ?", "Who was it that founded the bakery ?"]


def metrics(pairwise, f1, start_f1=90.0):
    of_dev = {"dev/rast/pairwise_bleu": pairwise, "dev/rast/qa_f1": f1, "dev/fine_tuned/qa_f1": start_f1}
    return of_dev | {"rast/pairwise_bleu": 1.0, "rast/nll": 2.0, "rast/top1_bleu": 3.0, "beam/nll": None}


def job(weight, dev_pairwise, dev_f1, seed=0, lr=1e-4, values=None):
    found = torch.full((4, 2), 50.0, dtype=torch.float64) if values is None else values
    of_others = {name: torch.full((4, 2), 60.0, dtype=torch.float64) for name in ("fine_tuned", "nucleus")}
    known = {key: value for key, value in metrics(dev_pairwise, dev_f1).items() if value is not None}
    return Job(weight, lr, seed, known, {"rast": found, **of_others})


def test_chosen_on_development_passages_within_three_points_of_the_start():
    worst_on_test = torch.full((4, 2), 99.0, dtype=torch.float64)
    jobs = [
        job(5.0, 20.0, 80.0, values=torch.zeros(4, 2, dtype=torch.float64)),  # bought with wrong questions
        job(0.0, 40.0, 95.0),
        job(1.0, 30.0, 87.0, values=worst_on_test),  # three points below: allowed
        job(0.5, 35.0, 96.0),
    ]
    rows = summarise(jobs)
    assert [row.weight for row in rows] == [0.0, 0.5, 1.0, 5.0]
    assert [row.chosen for row in rows] == [False, False, True, False]
    assert not any(row.chosen for row in summarise([job(1.0, 30.0, 86.9)]))


def test_a_setting_that_lacks_a_seed_is_not_chosen():
    jobs = [job(0.5, 35.0, 96.0, seed=seed) for seed in (0, 1)] + [job(1.0, 10.0, 96.0)]
    assert [(row.seeds, row.chosen) for row in summarise(jobs)] == [(2, True), (1, False)]
    assert [row.lr for row in summarise([job(1.0, 1.0, 96.0, lr=3e-4), job(1.0, 2.0, 96.0)])] == [1e-4, 3e-4]


def test_numbers_are_means_over_seeds_and_passages_with_differences_passage_by_passage():
    values = [
        torch.tensor([[10.0, 80.0], [30.0, 90.0], [20.0, 70.0], [40.0, 100.0]]).double() + seed for seed in (0, 2)
    ]
    (row,) = summarise([job(1.0, 30.0, 90.0, seed, values=value) for seed, value in enumerate(values)])
    assert (row.seeds, row.dev_pairwise) == (2, 30.0)
    assert (row.pairwise.estimate.item(), row.f1.estimate.item()) == (26.0, 86.0)
    assert row.minus["nucleus"]["pairwise_bleu"].estimate.item() == -34.0
    assert row.pairwise.low < 26 < row.pairwise.high


def test_nucleus_sampling_is_tuned_by_the_same_rule():
    (row,) = summarise([job(1.0, 30.0, 90.0)])
    assert tuned_nucleus(row) is None  # one temperature: nothing to choose
    dev = {"nucleus": (30.0, 95.0), "nucleus_warm": (25.0, 87.0), "nucleus_hot": (20.0, 86.9), "beam": (1.0, 99.0)}
    means = {f"dev/{name}/{key}": n for name, of in dev.items() for key, n in zip(BY_PASSAGE, of, strict=True)}
    row = row._replace(minus=dict.fromkeys(dev, row.minus["nucleus"]), means=means)
    assert tuned_nucleus(row) == "nucleus_warm"  # three points below the start: allowed; less: not
    assert tuned_nucleus(row._replace(dev_f1_of_start=99.0)) is None


@pytest.fixture
def sweep(tmp_path):
    """Two finished jobs and one that was cut short."""
    for number, (weight, count) in enumerate([(0.0, 2), (1.0, 3)]):
        folder = tmp_path / str(number)
        (folder / "evaluate").mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(metrics(40.0 - weight, 92.0)))
        OmegaConf.save({"diversity_weight": weight, "lr": 3e-4, "seed": 0}, folder / "config.yaml")
        asked = [{"question": text, "answered": "Ada Holm" if n else "1873"} for n, text in enumerate(TEXTS)]
        methods = {"rast": asked[:count], "fine_tuned": asked[:2], "beam": asked[:1]}
        rows = [{"answer": "Ada Holm", "methods": methods} for _ in range(3)]
        (folder / "evaluate" / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "cut_short").mkdir()
    (tmp_path / "cut_short" / "metrics.json").write_text("{}")
    return tmp_path


def test_passages_come_to_what_sacrebleu_says(sweep):
    _, second = read_jobs(sweep)
    pairs = [sacrebleu.sentence_bleu(a, [b]).score for a, b in permutations(TEXTS, 2)]
    assert second.passages["rast"][0].tolist() == pytest.approx([sum(pairs) / 6, 100 * 2 / 3])
    assert second.passages["beam"][2].tolist() == [0, 0]


def test_the_sweep_leaves_a_file_a_page_and_a_table(sweep, capsys):
    LambdaReport().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(sweep)}}}))
    rows = json.loads((sweep / "lambda.json").read_text())
    assert [row["weight"] for row in rows if row["chosen"]] == [1.0]
    shown = capsys.readouterr().out
    assert "1 *" in shown
    page = (sweep / "report.html").read_text()
    assert "RAST&#39;s questions are" in page or "RAST's questions are" in page
    assert "true questions" in page


def test_a_sweep_without_results_says_so(tmp_path, caplog):
    LambdaReport().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert "no job" in caplog.text
    assert not (tmp_path / "lambda.json").exists()
