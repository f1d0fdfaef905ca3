"""The variants from the command line: each runs tiny, does what its key says, and is refused early where it cannot."""

import json
import statistics
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import train
from lightning_modules import DaDPOModule
from tests.conf.test_wrong_inputs import one_line
from tests.conf.tiny import CONF, TINY


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One tiny run up to the scores; gives a function that trains on them with other settings."""
    folder = tmp_path_factory.mktemp("variants")

    def go(*overrides, stages="scores,dadpo"):
        out = [f"paths.output_dir={folder}/out", f"paths.cache_dir={folder}/cache", "name=test", "logger=csv"]
        with initialize_config_dir(CONF, version_base="1.3"):
            settings = ["experiment=dadpo_quickstart", *TINY, *out, f"stages=[{stages}]", *overrides]
            metrics = train.run(compose("train", overrides=settings))
        return metrics, folder / "out"

    go(stages="teacher,teacher_responses,dsft,pairs,scores")
    return go


def margins(folder: Path, stage: str = "dadpo") -> dict:
    return json.loads((folder / stage / "target_margin.json").read_text())


def curve(folder: Path, key: str) -> list[float]:
    """What was logged of each step, the last line of a step counting."""
    lines = [json.loads(line) for line in (folder / "dadpo" / "curve.jsonl").read_text().splitlines()]
    return list({line["step"]: line[f"dadpo/train/{key}"] for line in lines if f"dadpo/train/{key}" in line}.values())


def test_a_target_scale_sets_beta_teacher_by_the_scores_and_spares_the_baseline(run):
    plain, folder = run()
    before = margins(folder)
    metrics, folder = run("target_scale=0.01", stages="scores,dadpo,ddpo")
    found = metrics["dadpo/train/beta_teacher"]
    assert statistics.median(map(abs, margins(folder)["values"])) == pytest.approx(0.01, rel=1e-2)
    assert found == pytest.approx(0.4 * 0.01 / statistics.median(map(abs, before["values"])), rel=1e-2)
    assert margins(folder)["overshoot_factor"] == pytest.approx(found / 0.5 + 1 / 0.5)
    assert metrics["dadpo/train/overshoot_factor"] == pytest.approx(found / 0.5 + 1 / 0.5)
    assert plain["dadpo/train/beta_teacher"] == pytest.approx(0.4)
    assert metrics["ddpo/train/beta_teacher"] == 0.0
    assert metrics["scores/computed"] == 0


@pytest.mark.slow
def test_a_schedule_moves_beta_teacher_over_the_run_and_goes_on_after_a_kill(run, monkeypatch):
    settings = ["beta_schedule=cosine", "beta_teacher_start=0.1", "checkpoint_every=3"]
    whole, folder = run(*settings)
    betas = curve(folder, "beta_teacher")
    assert betas[0] == pytest.approx(0.1)
    assert betas[-1] == pytest.approx(0.4)
    assert betas == sorted(betas)

    step, dead = DaDPOModule.training_step, []

    def killed(self, batch, batch_idx):
        if self.global_step == 5 and not dead:
            dead.append(True)
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DaDPOModule, "training_step", killed)
    again = [*settings, "beta_ref=0.10000000001"]  # a stage of its own
    with pytest.raises(RuntimeError, match="killed"):
        run(*again)
    resumed, folder = run(*again)
    assert dead
    assert curve(folder, "beta_teacher") == pytest.approx(betas)
    for key in ("dadpo/val/loss", "dadpo/val/margin", "dadpo/train/beta_teacher"):
        assert resumed[key] == pytest.approx(whole[key], rel=1e-5)


@pytest.mark.slow
def test_the_sft_term_is_in_the_loss_and_apart(run):
    plain, folder = run()
    first, loss = curve(folder, "sft_loss")[0], curve(folder, "loss")[0]
    metrics, folder = run("sft_weight=2.0")
    assert curve(folder, "loss")[0] == pytest.approx(loss + 2 * first, rel=1e-5)
    assert metrics["dadpo/val/sft_loss"] < plain["dadpo/val/sft_loss"]


@pytest.mark.slow
def test_normalised_margins_are_of_tokens(run):
    plain, folder = run()
    whole = margins(folder)
    metrics, folder = run("length_normalised=true", "beta_ref=0.5", "beta_teacher=2.0")
    normalised = margins(folder)
    tokens = [metrics[f"dadpo/val/{side}_tokens"] for side in ("chosen", "rejected")]
    assert min(tokens) > 1
    # 5 times the betas, and some 8 tokens a response
    size = [statistics.mean(map(abs, each["values"])) for each in (normalised, whole)]
    assert 5 / 12 < size[0] / size[1] < 5 / 4
    assert normalised["overshoot_factor"] > 0.8 + 1 / 2.5
    assert metrics["dadpo/val/loss"] != plain["dadpo/val/loss"]


WRONG = {
    "length_normalised=maybe": "length_normalised",
    "sft_weight=-1": "sft_weight",
    "sft_weight=a": "sft_weight",
    "beta_schedule=step": "constant, linear, cosine",
    "beta_teacher_start=0.1": "beta_schedule=linear",
    "beta_schedule=linear beta_teacher_start=9": "beta_ref + beta_teacher = 0.5",
    "target_scale=0": "target_scale",
    "target_scale=1 mode=live": "mode=cached",
    "beta_teacher=-1": "must not be negative",
    "mode=online": "cached or live",
}


@pytest.mark.parametrize("settings", sorted(WRONG))
def test_wrong_settings_are_told_before_any_stage_runs(command, settings, tmp_path):
    one_line(command("experiment=dadpo_quickstart", *TINY, *settings.split()), WRONG[settings])
    assert not list(tmp_path.glob("cache/stages/*"))


def test_a_scale_that_the_betas_have_no_room_for(run):
    with pytest.raises(Exception, match="nats need beta_teacher=.*beta_teacher is 0.5"):
        run("target_scale=1000")
