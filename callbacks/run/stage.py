"""One stage: skipped if its inputs are unchanged, gone on with if it was killed, recorded when it is done."""

import json
import os
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import lightning
import torch
from filelock import FileLock
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from callbacks.run.checkpoints import AtomicCheckpointIO, check_checkpoint, newest_checkpoint
from callbacks.run.fingerprint import fingerprint
from callbacks.run.plan import stage_config
from callbacks.run.same_steps import SameSteps
from datamodules.responses import replace_file
from datamodules.wrong_input import WrongInput

RUNS = ("fit", "predict", "test", "validate")


class StageRecord(NamedTuple):
    """What is known of a finished stage."""

    name: str
    metrics: dict[str, float]
    seconds: float
    reused: bool
    """It had been done before, on the same inputs."""


def first_process() -> bool:
    """Whether this is the one of a run's processes that writes and speaks."""
    return getattr(rank_zero_only, "rank", 0) == 0


def run_stage(config: DictConfig, name: str, digests: dict[str, str], logger: Logger | None = None) -> StageRecord:
    """Run a stage of the composed config, unless it has been run on the same inputs.

    The stage's folder lies in the cache, named by the digest of its inputs, so that runs and the jobs of a sweep share
    it; ``${paths.output_dir}/NAME`` is a link to it.

    Args:
        config: The whole composed config.
        name: Of the stage.
        digests: Path → digest; see ``fingerprint``.
        logger: Of the run; all stages share it.

    Raises:
        WrongInput: What the stage needs or is told is wrong.
    """
    stage = stage_config(config, name)
    paths: Any = OmegaConf.to_container(config.paths, resolve=True)
    mark = fingerprint(stage, paths, digests)
    folder = Path(paths["cache_dir"]).absolute() / "stages" / f"{name}-{mark[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    first = first_process()
    # Another job of a sweep may be at the same stage; the further ranks of one job follow its first.
    with FileLock(f"{folder}.lock") if first else nullcontext():
        _link(Path(paths["output_dir"]) / name, folder)
        record = folder / "stage.json"
        if record.is_file() and not stage.get("always"):
            done = json.loads(record.read_text())
            return StageRecord(name, done["metrics"], done["seconds"], True)
        start = time.monotonic()
        metrics = _run(config, stage, name, folder, logger)
        seconds = round(time.monotonic() - start, 1)
        if first:
            done = {"name": name, "inputs": mark, "metrics": metrics, "seconds": seconds}
            replace_file(record, json.dumps(done, indent=1))
    return StageRecord(name, metrics, seconds, False)


def _run(config: DictConfig, stage: dict[str, Any], name: str, folder: Path, logger: Logger | None) -> dict[str, float]:
    if stage["run"] not in RUNS:
        raise WrongInput(f"cannot run {stage['run']!r}", f"stage.{name}.run", f"one of {', '.join(RUNS)}")
    lightning.seed_everything(stage.get("seed", config.seed), workers=True, verbose=False)
    if threads := config.get("threads"):
        torch.set_num_threads(threads)
    data: LightningDataModule = _made(stage["datamodule"])
    module: LightningModule = _made(stage["module"])
    callbacks: list[Callback] = [_made(callback) for callback in (stage.get("callbacks") or {}).values() if callback]
    trainer: Trainer = _made(
        stage["trainer"],
        callbacks=[*callbacks, SameSteps()],
        logger=logger or False,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(folder),
    )
    if stage["run"] == "fit":
        begun = newest_checkpoint(folder / "checkpoints")
        if begun is None and stage.get("resume"):
            begun = check_checkpoint(stage["resume"])
        trainer.fit(module, datamodule=data, ckpt_path=begun, weights_only=True)
    elif stage["run"] == "predict":
        trainer.predict(module, datamodule=data, return_predictions=False)
    else:
        getattr(trainer, stage["run"])(module, datamodule=data, verbose=False)
    metrics = _metrics(trainer, name, (data, module, *callbacks))
    if logger is not None and trainer.is_global_zero:
        logger.log_metrics({key: value for key, value in metrics.items() if key not in trainer.callback_metrics})
        logger.save()
    trainer.strategy.barrier()  # what this stage leaves is there before any rank asks for it
    return metrics


def _made(config: dict[str, Any], **arguments: Any) -> Any:
    return hydra.utils.instantiate(config, _convert_="all", **arguments)


def _metrics(trainer: Trainer, name: str, parts: tuple[Any, ...]) -> dict[str, float]:
    """Last logged numbers, and the ``final_metrics`` of whoever has them; short names get the stage's in front."""
    metrics = {key: value.item() for key, value in trainer.callback_metrics.items() if "/" in key}
    for part in parts:
        for key, value in getattr(part, "final_metrics", {}).items():
            metrics[key if "/" in key else f"{name}/{key}"] = float(value)
    return metrics


def _link(link: Path, folder: Path) -> None:
    """Point the run's link at the stage's folder, in one step."""
    if link.exists() and not link.is_symlink():
        raise WrongInput(
            "a file or folder stands where the stage's link goes", str(link), "move it, or paths.output_dir="
        )
    link.parent.mkdir(parents=True, exist_ok=True)
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        aside.unlink()
    aside.symlink_to(os.path.relpath(folder, link.parent.resolve()))
    os.replace(aside, link)
