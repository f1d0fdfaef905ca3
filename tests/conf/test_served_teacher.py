"""``teacher_scorer=endpoint`` from the command line: the teacher's weights are not here."""

import json
import shutil

import pytest

from tests.conf.test_wrong_inputs import GOOD, GOOD2, one_line, pairs
from tests.lightning_modules.endpoint.served import Server

pytest.importorskip("openai")

KEY = "sk-very-secret-42"
QUICK = ["trainer=cpu", "+trainer.enable_progress_bar=false", "dtype=float32", "trainer.precision=32-true"]


@pytest.fixture
def distil(command, model_folder, tmp_path, monkeypatch):
    """``stages=[scores,dadpo]`` with a teacher's folder without weights."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    teacher = tmp_path / "teacher"
    shutil.copytree(model_folder(seed=1), teacher)
    for weights in teacher.glob("*.safetensors"):
        weights.unlink()

    def run(*overrides, teacher=teacher):
        data = pairs(tmp_path / "pairs.jsonl", GOOD, GOOD2)
        folders = [f"teacher={teacher}", f"student={model_folder(seed=2)}", f"data={data}", "stages=[scores,dadpo]"]
        return command("experiment=dadpo_qwen", *folders, *QUICK, *overrides)

    return run


def numbers(tmp_path):
    return json.loads((tmp_path / "outputs/dadpo_qwen/metrics.json").read_text())


@pytest.mark.slow
def test_a_run_with_a_served_teacher_learns_what_one_with_its_weights_does(distil, model_folder, tmp_path):
    server = Server(model_folder(seed=1))
    named = ["teacher_scorer=endpoint", "teacher_endpoint.model=tiny", "teacher_endpoint.revision=2026-01"]
    try:
        for protocol in ("prompt_logprobs", "echo"):
            asked = len(server.bodies)
            address = [f"teacher_endpoint.url={server.url}", f"teacher_endpoint.protocol={protocol}"]
            code, err = distil(*named, *address, f"paths.cache_dir={tmp_path}/{protocol}")
            assert code == 0, err
            assert len(server.bodies) - asked == 4
            far = numbers(tmp_path)
            held = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
            held += [path for path in (tmp_path / protocol).rglob("*") if path.is_file()]
            assert held
            assert not [path for path in held if KEY.encode() in path.read_bytes()]
            assert KEY not in err
            code, err = distil(teacher=model_folder(seed=1))
            assert code == 0, err
            near = numbers(tmp_path)
            shared = [key for key in near if key.startswith("dadpo/")]
            assert "dadpo/train/loss" in shared
            for key in shared:
                assert far[key] == pytest.approx(near[key], rel=1e-4, abs=1e-4)
    finally:
        server.close()
    code, err = distil(*named, *address, f"paths.cache_dir={tmp_path}/echo")
    assert code == 0, err  # nobody needs the server any more
    assert numbers(tmp_path)["scores/computed"] == 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["teacher_scorer=remote"], "unknown scorer 'remote'"),
        (["teacher_scorer=endpoint"], "teacher_endpoint.url"),
        (["teacher_scorer=endpoint", "teacher_endpoint.url=http://h", "teacher_endpoint.model=m"], "revision"),
        (
            [
                "teacher_scorer=endpoint",
                "teacher_endpoint={url: http://h, model: m, revision: 1}",
                "stages=[dadpo]",
                "mode=live",
            ],
            "live mode runs the teacher here",
        ),
    ],
)
def test_wrong_settings_are_told_before_any_stage_runs(distil, overrides, said, tmp_path):
    one_line(distil(*overrides), said)
    assert not (tmp_path / "outputs/dadpo_qwen/scores").exists()


@pytest.mark.slow
def test_a_served_teacher_of_other_tokens(distil, model_folder, tmp_path):
    from tests.other_tokenizers import saved_model, word_tokenizer

    teacher = saved_model(tmp_path / "words", word_tokenizer())
    server = Server(teacher)
    settings = f"{{url: '{server.url}', model: words, revision: 1}}"
    try:
        code, err = distil(
            "teacher_scorer=endpoint",
            f"teacher_endpoint={settings}",
            f"teacher_tokenizer={teacher}",
            teacher=teacher,
        )
        assert code == 0, err
        far = numbers(tmp_path)
        code, err = distil(f"teacher_tokenizer={teacher}", teacher=teacher)
        assert code == 0, err
        near = numbers(tmp_path)
        assert far["dadpo/train/target_margin"] == pytest.approx(near["dadpo/train/target_margin"], abs=1e-4)
    finally:
        server.close()


def test_the_plan_counts_no_teacher_that_is_served(distil, tmp_path):
    served = ["teacher_scorer=endpoint", "teacher_endpoint={url: http://h, model: m, revision: 1}"]
    code, err = distil(*served, "plan=true", "plan_tflops=0.1", "estimate.gbps=10")
    assert code == 0, err
    plan = json.loads((tmp_path / "outputs/dadpo_qwen/plan.json").read_text())
    assert set(plan["stages"]["scores"]["parameters"]) == {"reference"}
