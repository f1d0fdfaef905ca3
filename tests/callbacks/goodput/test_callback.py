"""Smooth goodput in the middle of training: served, scored, logged, and nothing else changed by it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from callbacks.goodput import GoodputReport
from callbacks.goodput.callback import SmoothGoodputCallback
from callbacks.goodput.no_model import NoModel
from datamodules.almanac import dialogues
from datamodules.instruction import InstructionDataModule
from datamodules.latency_logs import LogWriter, Request, open_logs
from datamodules.latency_logs.records import to_padded
from datamodules.workload import PromptPool
from datamodules.wrong_input import WrongInput
from lightning_modules import FineTuningModule
from lightning_modules.serving import Engine

ROWS = list(dialogues(0, "train", 48))
ENGINE = Engine(max_batch_tokens=64, max_requests=4, cache_tokens=1024, ignore_eos=True)
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture(scope="module")
def pool(tokenizer):
    return PromptPool(dialogues(0, "test", 8), tokenizer, max_length=128, max_new_tokens=4)


def goodput(folder, pool, **settings):
    return SmoothGoodputCallback(
        folder, prompts=pool, engine=ENGINE, **{"rate_rps": 20.0, "duration_s": 0.3, "warmup_s": 0.1} | settings
    )


def fit(folder, model_folder, tokenizer, *callbacks, **settings):
    torch.manual_seed(0)
    module = FineTuningModule("dsft", str(model_folder("qwen2")), tokenizer)
    data = InstructionDataModule(ROWS, tokenizer, batch_size=8, val_fraction=0.2)
    settings = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 1} | settings
    trainer = Trainer(callbacks=list(callbacks), default_root_dir=folder, **QUIET, **settings)
    trainer.fit(module, data)
    return trainer, module


def test_it_logs_what_the_served_log_is_worth(tmp_path, model_folder, tokenizer, pool):
    callback = goodput(tmp_path / "served", pool, reading_speed=7.0, alpha=3.0)
    trainer, _ = fit(tmp_path, model_folder, tokenizer, callback, logger=CSVLogger(tmp_path))
    logs = sorted((tmp_path / "served").glob("*.jsonl"))
    assert [path.name.rpartition("-")[0] for path in logs] == ["val-epoch0", "val-epoch1"]
    (log,) = open_logs(logs[-1])
    report = GoodputReport(7.0, 3.0)
    report.update(**to_padded(list(log.requests()))._asdict())
    expected = report.compute()
    logged = trainer.callback_metrics
    for name in ("smooth_goodput_tps", "idle_p99_s", "ttft_p50_s", "tokens", "reading_speed_tps", "alpha"):
        assert float(logged[f"dsft/val/goodput/{name}"]) == pytest.approx(float(expected[name]), rel=1e-6, abs=1e-9)
    assert int(expected["tokens"]) == 4 * int(expected["requests"])
    assert callback.final_metrics["dsft/val/goodput/tokens"] == float(expected["tokens"])


def test_training_goes_on_as_if_nothing_had_been_served(tmp_path, model_folder, tokenizer, pool):
    _, watched = fit(tmp_path, model_folder, tokenizer, goodput(tmp_path / "served", pool))
    _, alone = fit(tmp_path, model_folder, tokenizer)
    for name, value in alone.policy.state_dict().items():
        assert torch.equal(value, watched.policy.state_dict()[name]), name


@pytest.mark.parametrize(("every", "called"), [(2, ["val-epoch1"]), (None, ["val-end"]), (5, ["val-end"])])
def test_it_serves_every_n_epochs_or_at_the_end(tmp_path, model_folder, tokenizer, pool, every, called):
    callback = goodput(tmp_path / "served", pool, every_n_epochs=every)
    fit(tmp_path, model_folder, tokenizer, callback, logger=CSVLogger(tmp_path))
    assert [path.name.rpartition("-")[0] for path in (tmp_path / "served").glob("*.jsonl")] == called
    assert "dsft/val/goodput/smooth_goodput_tps" in callback.final_metrics
    (table,) = tmp_path.glob("lightning_logs/*/metrics.csv")
    assert "dsft/val/goodput/smooth_goodput_tps" in table.read_text()


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "run.jsonl"
    with LogWriter(path) as writer:
        for number in range(5):
            writer.write(Request(str(number), float(number), np.array([0.5, 0.6, 3.0]), 4, 3))
    return path


def no_data():
    return DataLoader([torch.zeros(1)])


@pytest.mark.parametrize("loop", ["validate", "test"])
def test_a_log_is_scored_without_any_model(tmp_path, log, loop):
    class Looks(NoModel):
        def validation_step(self, batch, batch_idx):
            pass

    callback = SmoothGoodputCallback(tmp_path / "none", log=log, reading_speed=2.0, origin="first_token")
    trainer = Trainer(callbacks=[callback], logger=False, **QUIET)
    (found,) = getattr(trainer, loop)(Looks(), no_data(), verbose=False)
    report = GoodputReport(2.0, origin="first_token")
    report.update(**to_padded(list(next(open_logs(log)).requests()))._asdict())
    stage = {"validate": "val", "test": "test"}[loop]
    assert found[f"{stage}/goodput/smooth_goodput_tps"] == pytest.approx(float(report.compute()["smooth_goodput_tps"]))
    assert not (tmp_path / "none").exists()


def test_wandb_gets_a_table_and_a_figure(tmp_path, log, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(save_dir=tmp_path, offline=True)
    seen = []
    real = logger.experiment.log
    monkeypatch.setattr(logger.experiment, "log", lambda data, *a, **k: (seen.append(data), real(data, *a, **k)))
    trainer = Trainer(callbacks=[SmoothGoodputCallback(tmp_path, log=log)], logger=logger, **QUIET)
    trainer.test(NoModel(), no_data(), verbose=False)
    wandb.finish()
    shown = {key: value for data in seen for key, value in data.items()}
    assert shown["test/goodput/requests_table"].data[0] == ["0", "ok", 0.0, 3, 0.5, 3.0]
    assert isinstance(shown["test/goodput/deliveries_figure"], wandb.Html)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "what is to be scored"),
        ({"log": "x.jsonl", "prompts": "pool", "engine": ENGINE}, "what is to be scored"),
        ({"prompts": "pool"}, "what is to be scored"),
        ({"log": "x.jsonl", "rate_rps": 0.0}, "rate_rps 0"),
        ({"log": "x.jsonl", "every_n_epochs": 0}, "every_n_epochs is 0"),
        ({"log": "x.jsonl", "alpha": -1.0}, "alpha"),
        ({"log": "x.jsonl", "reading_sped": 3.0}, "reading_sped"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, settings, said):
    with pytest.raises(WrongInput, match=said):
        SmoothGoodputCallback(tmp_path, **settings)


def test_a_module_that_cannot_serve_is_refused(tmp_path, pool):
    trainer = Trainer(callbacks=[goodput(tmp_path, pool)], logger=False, **QUIET)
    with pytest.raises(WrongInput, match="NoModel cannot serve"):
        trainer.test(NoModel(), no_data(), verbose=False)


def two_processes(folder: str) -> None:
    """Run by the test below in each of two processes: a module that says how its share went."""

    class Shares(LightningModule):
        name = "shared"

        def test_step(self, batch, batch_idx):
            pass

        def serve(self, workload, engine):
            from lightning_modules.serving import Served

            return [
                Served(one.request_id, one.arrival_s, [0.1, 1.0 + self.global_rank], 3, 2, 2, "ok", "")
                for one in workload.requests
                if one.measured
            ]

    class Words:
        def requests(self, arrivals, seed, warmup_s):
            return PromptPool.requests(self, arrivals, seed, warmup_s=warmup_s)

        prompts, max_length, max_new_tokens = [[1, 2, 3]], 16, 2

    callback = SmoothGoodputCallback(folder, prompts=Words(), engine=ENGINE, rate_rps=20.0, duration_s=1.0)
    trainer = Trainer(
        callbacks=[callback], devices=2, strategy="ddp", logger=False, use_distributed_sampler=False, **QUIET
    )
    trainer.test(Shares(), no_data(), verbose=False)
    (Path(folder) / f"rank{trainer.global_rank}.json").write_text(json.dumps(callback.final_metrics))


@pytest.mark.slow
def test_two_processes_serve_a_share_each_and_make_one_figure(tmp_path):
    import os
    import subprocess
    import sys

    import train

    code = f"from tests.callbacks.goodput.test_callback import two_processes; two_processes({str(tmp_path)!r})"
    root = Path(train.__file__).parent
    script = tmp_path / "run.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    (log,) = open_logs(tmp_path / "test.jsonl")
    requests = list(log.requests())
    assert {float(one.token_s[-1]) for one in requests} == {1.0, 2.0}
    report = GoodputReport()
    report.update(**to_padded(requests)._asdict())
    for name in ("smooth_goodput_tps", "requests", "window_s"):
        assert first[f"shared/test/goodput/{name}"] == pytest.approx(float(report.compute()[name]), abs=1e-9)
