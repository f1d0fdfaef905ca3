"""Every experiment and every choice of a group composes, and each stage's config resolves."""

from itertools import product
from pathlib import Path

import pytest

from callbacks.run.plan import check_config, stage_config
from tests.conf.tiny import CONF

EXPERIMENTS = sorted(path.stem for path in (Path(CONF) / "experiment").glob("*.yaml"))
NEEDS = {
    "goodput_endpoint": ["url=http://127.0.0.1:8000"],
    "goodput_logs": ["data=log.jsonl"],
    "goodput_model": ["served.model=/m", "data=prompts.jsonl"],
    "rast_generate": ["trained=/run", "data=passages.jsonl"],
}
"""What an experiment asks its user for."""


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(composed, experiment, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "for a judge that nobody asks here")
    config = composed(f"experiment={experiment}", *NEEDS.get(experiment, []))
    check_config(config)
    for name in config.stages:
        stage = stage_config(config, name)
        assert {"run", "module", "datamodule", "trainer"} <= stage.keys()
        assert stage["name"] == name


@pytest.mark.parametrize("trainer", ["cpu", "gpu", "gpu_80gb", "ddp", "fsdp2", "fsdp2_8x80gb"])
def test_every_trainer_composes(composed, trainer):
    config = composed("experiment=dadpo_quickstart", f"trainer={trainer}")
    assert config.trainer._target_ == "lightning.Trainer"


@pytest.mark.parametrize("logger", ["csv", "wandb", "tensorboard"])
def test_every_logger_composes(composed, logger):
    config = composed("experiment=dadpo_quickstart", f"logger={logger}")
    assert logger in config.logger._target_.lower()


@pytest.mark.parametrize("regime", ["short", "long"])
def test_every_candidate_of_the_claim_resolves(composed, regime):
    config = composed("experiment=dadpo_claim", f"regime={regime}")
    for method, setting in product(config.grid, range(4)):
        config.method, config.setting = method, setting
        if setting == 0:  # what the checks look at is of the method
            check_config(config)
        choice = config.grid[method][setting]
        assert config.beta_ref + config.beta_teacher == pytest.approx(choice.b)
        assert stage_config(config, method)["module"]["optimizer"]["lr"] == choice.lr


def test_grids_of_the_claim_are_of_equal_size(composed):
    grid = composed("experiment=dadpo_claim").grid
    assert len({len(settings) for settings in grid.values()}) == 1


def test_short_keys_reach_the_stages(composed):
    keys = ["teacher=/t", "student=/s", "data=/d.jsonl", "beta_ref=0.3", "beta_teacher=0.7", "lr=0.5", "seed=7"]
    config = composed("experiment=dadpo_qwen", *keys, "stages=[scores,dadpo]")
    module, data = (stage_config(config, "dadpo")[part] for part in ("module", "datamodule"))
    assert (module["student"], module["teacher"], module["beta_ref"], module["beta_teacher"]) == ("/s", "/t", 0.3, 0.7)
    assert (data["data"], data["seed"], module["optimizer"]["lr"]) == ("/d.jsonl", 7, 0.5)
