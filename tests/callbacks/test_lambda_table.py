"""The chosen λ is the most varied whose questions are still about the answers, on development passages alone."""

import json
from types import SimpleNamespace

from omegaconf import OmegaConf

from callbacks.lambda_table import LambdaTable, summarise


def metrics(pairwise, f1, start_f1=90.0, test_pairwise=50.0):
    of_dev = {"dev/rast/pairwise_bleu": pairwise, "dev/rast/qa_f1": f1, "dev/fine_tuned/qa_f1": start_f1}
    of_test = {"rast/pairwise_bleu": test_pairwise, "rast/qa_f1": 1.0, "rast/pairwise_bleu_minus_fine_tuned": -2.0}
    ends = {"rast/pairwise_bleu_ci_low": 40.0, "rast/pairwise_bleu_ci_high": 60.0, "beam/pairwise_bleu": 9.0}
    return of_dev | of_test | ends | {f"rast/{name}": 7.0 for name in ("top1_bleu", "oracle_bleu", "overall")}


JOBS = [
    (5.0, metrics(20.0, 80.0, test_pairwise=1.0)),  # bought with wrong questions
    (0.0, metrics(40.0, 95.0)),
    (1.0, metrics(30.0, 87.0)),  # three points below: allowed
    (0.5, metrics(35.0, 96.0, test_pairwise=2.0)),
]


def test_chosen_on_development_passages_within_three_points_of_the_start():
    rows = summarise(JOBS)
    assert [row["diversity_weight"] for row in rows] == [0.0, 0.5, 1.0, 5.0]
    assert [row["chosen"] for row in rows] == [False, False, True, False]
    assert not [key for key in rows[0] if key.startswith("beam")]


def test_seeds_of_one_weight_are_averaged():
    (row,) = summarise([(1.0, metrics(30.0, 90.0)), (1.0, metrics(20.0, 80.0))])
    assert (row["jobs"], row["dev/rast/pairwise_bleu"], row["dev/rast/qa_f1"]) == (2, 25.0, 85.0)
    assert not row["chosen"]


def test_the_sweep_leaves_a_file_and_a_table(tmp_path, capsys):
    for number, (weight, found) in enumerate(JOBS):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "metrics.json").write_text(json.dumps(found))
        OmegaConf.save({"diversity_weight": weight}, tmp_path / str(number) / "config.yaml")
    (tmp_path / "cut_short").mkdir()
    (tmp_path / "cut_short" / "metrics.json").write_text("{}")
    LambdaTable().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    rows = json.loads((tmp_path / "lambda.json").read_text())
    assert [row["diversity_weight"] for row in rows if row["chosen"]] == [1.0]
    shown = capsys.readouterr().out
    assert "1 *" in shown
    assert "[40.0, 60.0]" in shown
    assert shown.index("0.5") < shown.index("1 *")


def test_a_sweep_without_results_says_so(tmp_path, caplog):
    LambdaTable().on_multirun_end(SimpleNamespace(hydra=SimpleNamespace(sweep=SimpleNamespace(dir=str(tmp_path)))))
    assert "no job" in caplog.text
    assert not (tmp_path / "lambda.json").exists()
