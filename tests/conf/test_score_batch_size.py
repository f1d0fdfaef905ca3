"""``score_batch_size=`` from the command line."""

import json

import pytest

from tests.conf.test_wrong_inputs import distil, one_line  # noqa: F401


@pytest.mark.slow
def test_auto_says_what_it_takes_and_scores_the_same(distil, tmp_path):  # noqa: F811
    margins = []
    for size in ("auto", "2"):
        code, err = distil(extra=[f"score_batch_size={size}", f"paths.cache_dir={tmp_path}/{size}"])
        assert code == 0, err
        assert ("batches of the teacher have" in err) is (size == "auto")
        found = json.loads((tmp_path / "outputs/dadpo_qwen/metrics.json").read_text())
        margins.append(found["dadpo/train/target_margin"])
    assert margins[0] == pytest.approx(margins[1], abs=1e-4)
    code, err = distil(extra=["score_batch_size=auto", f"paths.cache_dir={tmp_path}/auto"])
    assert code == 0, err
    assert "batches of the" not in err  # nothing is left to score, and no model is loaded


@pytest.mark.parametrize("wrong", ["0", "some", "1.5"])
def test_a_wrong_size(distil, wrong, tmp_path):  # noqa: F811
    one_line(distil(extra=[f"score_batch_size={wrong}"]), "batches of", "score_batch_size", "set auto")
    assert not (tmp_path / "cache").exists()


def test_the_plan_counts_the_least(distil, tmp_path):  # noqa: F811
    stages = {}
    for size in ("auto", "2", "4"):
        code, err = distil(extra=[f"score_batch_size={size}", "plan=true", "plan_tflops=0.1", "estimate.gbps=10"])
        assert code == 0, err
        stages[size] = json.loads((tmp_path / "outputs/dadpo_qwen/plan.json").read_text())["stages"]["scores"]
    assert stages["auto"]["peak"] == stages["2"]["peak"] < stages["4"]["peak"]
    assert any("score_batch_size=auto" in said for said in stages["auto"]["assumed"])
    assert not any("score_batch_size" in said for said in stages["2"]["assumed"])
