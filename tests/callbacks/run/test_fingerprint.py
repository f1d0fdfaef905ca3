import pytest

from callbacks.run.fingerprint import fingerprint
from datamodules.wrong_input import WrongInput


@pytest.fixture
def setting(tmp_path):
    """A stage with one needed file, and the paths of its run."""
    data = tmp_path / "data.jsonl"
    data.write_text("one")
    stage = {
        "run": "fit",
        "needs": {"data": str(data)},
        "module": {"lr": 1e-3, "source": str(data)},
        "trainer": {"max_steps": 3, "enable_progress_bar": True},
        "callbacks": {"export": {"folder": f"{tmp_path}/out/dsft/model"}},
    }
    return stage, {"output_dir": f"{tmp_path}/out", "cache_dir": f"{tmp_path}/cache"}, data


def test_content_counts_and_time_does_not(setting):
    stage, paths, data = setting
    before = fingerprint(stage, paths, {})
    data.write_text("two")
    assert fingerprint(stage, paths, {}) != before
    data.write_text("one")
    assert fingerprint(stage, paths, {}) == before


def test_settings_count_and_what_is_only_shown_does_not(setting):
    stage, paths, _ = setting
    before = fingerprint(stage, paths, {})
    assert fingerprint(stage | {"module": {"lr": 2e-3}}, paths, {}) != before
    shown = {"max_steps": 3, "enable_progress_bar": False, "log_every_n_steps": 1}
    assert fingerprint(stage | {"trainer": shown}, paths, {}) == before
    assert fingerprint(stage | {"trainer": {"max_steps": 4}}, paths, {}) != before


def test_a_run_may_move(setting, tmp_path):
    stage, paths, data = setting
    before = fingerprint(stage, paths, {})
    moved = tmp_path / "elsewhere.jsonl"
    data.rename(moved)
    stage["needs"]["data"] = stage["module"]["source"] = str(moved)
    stage["callbacks"]["export"]["folder"] = "/new/out/dsft/model"
    assert fingerprint(stage, {"output_dir": "/new/out", "cache_dir": "/new/cache"}, {}) == before


def test_the_code_counts(setting, monkeypatch):
    stage, paths, _ = setting
    before = fingerprint(stage, paths, {})
    monkeypatch.setattr("callbacks.run.fingerprint._code", lambda: "another version")
    assert fingerprint(stage, paths, {}) != before


def test_what_an_earlier_stage_leaves_is_asked_for_by_name(setting, tmp_path):
    stage, paths, _ = setting
    stage["needs"] = {"pairs": f"{tmp_path}/out/pairs/pairs.jsonl"}
    with pytest.raises(WrongInput, match="needs what stage pairs leaves.*add pairs to stages="):
        fingerprint(stage, paths, {})


def test_lists_of_needs_and_rows_made_in_process(setting, tmp_path):
    stage, paths, data = setting
    stage["needs"] = {"answers": [str(data)], "data": {"_target_": "datamodules.almanac.dialogues"}, "teacher": None}
    before = fingerprint(stage, paths, {})
    data.write_text("two")
    assert fingerprint(stage, paths, {}) != before
    stage["needs"]["answers"] = [str(tmp_path / "gone.jsonl")]
    with pytest.raises(WrongInput, match="no such file or folder.*check answers="):
        fingerprint(stage, paths, {})


def test_a_hub_id_stands_for_itself(setting):
    stage, paths, _ = setting
    stage["needs"] = {"teacher": "Qwen/Qwen2.5-7B-Instruct"}
    first = fingerprint(stage, paths, {})
    stage["needs"] = {"teacher": "Qwen/Qwen2.5-3B-Instruct"}
    assert fingerprint(stage, paths, {}) != first
