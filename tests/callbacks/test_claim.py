import json

import pytest
from omegaconf import OmegaConf

from callbacks.claim import ClaimReport, read_job, summarise

DEV = {("dadpo", 0): 0.1, ("dadpo", 1): 0.3, ("ddpo", 0): 0.2, ("ddpo", 1): 0.0}
"""Mean preference rate on development data of each method's settings."""


@pytest.fixture
def sweep(tmp_path):
    """Two seeds, two methods, two settings; on test data the setting that loses on development data is better."""
    for seed in (0, 1):
        for (method, setting), dev in DEV.items():
            folder = tmp_path / f"method={method},seed={seed},setting={setting}"
            (folder / "evaluate").mkdir(parents=True)
            metrics = {
                "dev/student/candidate/preference_rate": dev + (0.05 if seed else -0.05),
                "student/candidate/kl_to_teacher": 0.1 + seed * 0.2,
                "student/dsft/kl_to_teacher": 0.05,
            }
            (folder / "metrics.json").write_text(json.dumps(metrics))
            grid = {method: [{"lr": 1.0, "b": 0.1}, {"lr": 2.0, "b": 0.2}]}
            config = {"regime": "short", "method": method, "setting": setting, "seed": seed, "grid": grid}
            OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
            wins = 3 if dev in (0.1, 0.0) else 2  # of four prompts
            rows = [
                {
                    "id": f"p{i}",
                    "outcomes": {"dsft": "lose", "candidate": "win" if i < wins else "tie"},
                    "facts": {"dsft": False, "candidate": i < wins},
                }
                for i in range(4)
            ]
            (folder / "evaluate" / "outcomes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_settings_are_chosen_on_development_data_and_reported_on_test(sweep):
    jobs = [read_job(path) for path in sorted(sweep.iterdir())]
    start, *rows = summarise([job for job in jobs if job is not None])
    by = {row.method: row for row in rows}
    assert start.method == "dsft"
    assert start.preference.estimate == -1
    assert by["dadpo"].choice == {"lr": 2.0, "b": 0.2}
    assert by["ddpo"].choice == {"lr": 1.0, "b": 0.1}
    assert by["dadpo"].preference.estimate == pytest.approx(0.5)  # not the 0.75 of the other setting
    assert by["dadpo"].accuracy.estimate == pytest.approx(0.5)
    assert by["dadpo"].gain_over_start.estimate == pytest.approx(1.5)
    assert by["dadpo"].kl.estimate == pytest.approx(0.2)
    assert by["dadpo"].kl.low < by["dadpo"].kl.estimate < by["dadpo"].kl.high


def test_a_job_that_has_not_come_to_its_evaluation_is_left_out(sweep):
    cut = next(iter(sorted(sweep.iterdir())))
    (cut / "metrics.json").write_text("{}")
    assert read_job(cut) is None
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(sweep)}}})
    ClaimReport().on_multirun_end(config)
    assert json.loads((sweep / "claim.json").read_text())


def test_the_sweep_leaves_a_table_and_a_page(sweep, capsys):
    ClaimReport().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(sweep)}}}))
    rows = json.loads((sweep / "claim.json").read_text())
    assert [(row["regime"], row["method"]) for row in rows] == [("short", m) for m in ("dsft", "dadpo", "ddpo")]
    assert all(row["preference_ci_low"] <= row["preference"] <= row["preference_ci_high"] for row in rows)
    assert "gain over dSFT" in capsys.readouterr().out
    assert "<svg" in (sweep / "report.html").read_text()


def test_a_teacher_of_another_tokenizer_has_no_divergence(sweep, capsys):
    for path in sweep.glob("*/metrics.json"):
        known = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in known.items() if "kl_to_teacher" not in key}))
    ClaimReport().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(sweep)}}}))
    rows = json.loads((sweep / "claim.json").read_text())
    assert len(rows) == 3
    assert not any("kl" in key for row in rows for key in row)
    assert "–" in capsys.readouterr().out
    assert "<svg" not in (sweep / "report.html").read_text()


def test_an_empty_sweep_says_so(tmp_path, caplog):
    ClaimReport().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert "no job" in caplog.text
