"""Smooth goodput of a model in the middle of its training, or of a log that is there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning import Callback, LightningModule, Trainer

from callbacks.goodput.functional import Penalty
from callbacks.goodput.log_scores import LogScores
from callbacks.goodput.timeline import Origin
from callbacks.goodput.wandb_panels import MOST_ROWS, show
from callbacks.serving.records import ServedRequest, to_requests, write_log
from datamodules.batches import Workload
from datamodules.latency_logs.opening import open_logs
from datamodules.latency_logs.records import Request, to_padded
from datamodules.workload.arrivals import poisson_arrivals
from datamodules.workload.prompts import PromptPool
from datamodules.wrong_input import WrongInput


class Servable(Protocol):
    """A module whose model can be served as it stands."""

    def serve(self, workload: Workload, engine: Any) -> Sequence[ServedRequest]:
        """Serve a workload and leave no trace in the model or the process."""
        ...


class SmoothGoodputCallback(Callback):
    """Serves held-out prompts with the module's model at validation and logs what the answers were worth to readers.

    Logs ``[NAME/]val/goodput/METRIC`` (``test`` under test), NAME being the module's, and at W&B a table of the
    requests and a figure of their deliveries. Each run leaves a log in the project's own format. In several processes
    each serves its share of the requests at the same time, and all of them make one figure.

    With `log` there is nothing to serve: that file is scored, whatever the module is.

    Args:
        folder: Where the logs go.
        prompts: What is asked; with `engine` and a module that can ``serve`` (every policy of this project can).
        engine: The serving engine's limits, handed to the module.
        log: A latency log of any known tool, instead.
        rate_rps: Mean arrivals a second (Poisson), of all processes together.
        duration_s: Of the measured arrivals.
        warmup_s: Of the arrivals before them.
        scheduler: ``fifo`` or ``prefill_first``.
        seed: Of arrivals and prompts: each time the same, so that epochs compare.
        every_n_epochs: At every n-th epoch's validation; None: once, when training has ended.
        reading_speed: Tokens a second of the reader.
        alpha: Weight of the penalty.
        penalty: f of Equation 10.
        origin: What deadlines count from.
        settings: The further ones of ``GoodputReport``.

    Raises:
        WrongInput: A setting is wrong, or neither or both of `log` and `prompts` are given.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        prompts: PromptPool | None = None,
        engine: Any = None,
        log: str | Path | None = None,
        rate_rps: float = 4.0,
        duration_s: float = 10.0,
        warmup_s: float = 1.0,
        scheduler: str = "fifo",
        seed: int = 0,
        every_n_epochs: int | None = 1,
        reading_speed: float = 5.0,
        alpha: float = 2.5,
        penalty: Penalty = "linear_s",
        origin: Origin = "commit",
        **settings: Any,
    ):
        if (log is None) == (prompts is None) or (prompts is None) != (engine is None):
            raise WrongInput("what is to be scored?", "SmoothGoodputCallback", "give prompts= and engine=, or log=")
        if not (0 < rate_rps < math.inf and 0 < duration_s < math.inf and 0 <= warmup_s < math.inf):
            what = f"rate_rps {rate_rps}, duration_s {duration_s}, warmup_s {warmup_s}"
            raise WrongInput(what, "SmoothGoodputCallback", "give numbers above 0")
        if every_n_epochs is not None and every_n_epochs < 1:
            raise WrongInput(f"every_n_epochs is {every_n_epochs}", "SmoothGoodputCallback", "1 or more, or null")
        self.folder, self.prompts, self.engine, self.log_file = Path(folder), prompts, engine, log
        self.rate_rps, self.duration_s, self.warmup_s = rate_rps, duration_s, warmup_s
        self.scheduler, self.seed, self.every_n_epochs = scheduler, seed, every_n_epochs
        self.settings = {"reading_speed": reading_speed, "alpha": alpha, "penalty": penalty, "origin": origin}
        # every process has all requests before it scores them: nothing is left to be added up
        self.settings |= settings | {"sync_on_compute": False}
        try:
            LogScores(self.settings)
        except (TypeError, ValueError) as error:
            raise WrongInput(str(error), "SmoothGoodputCallback", "check its settings") from error
        self.final_metrics: dict[str, float] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing has been scored yet."""
        self.final_metrics = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score, if this epoch is one of those."""
        if trainer.sanity_checking:
            return
        epoch, every = trainer.current_epoch, self.every_n_epochs
        if trainer.state.fn != "fit" or (every is not None and (epoch + 1) % every == 0):
            pl_module.log_dict(
                self._score(trainer, pl_module, f"val-epoch{epoch}-step{trainer.global_step}", "val"), sync_dist=True
            )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score."""
        pl_module.log_dict(self._score(trainer, pl_module, "test", "test"), sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score, if it is to be done at the end only, or there was no validation to do it at."""
        if not self.final_metrics:
            numbers = self._score(trainer, pl_module, f"val-end-step{trainer.global_step}", "val")
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=trainer.global_step)

    def _score(self, trainer: Trainer, module: LightningModule, called: str, stage: str) -> dict[str, float]:
        """Serve or read, then score: the same numbers in every process."""
        scores, rows = LogScores(self.settings), []
        if self.log_file is not None:
            for log in open_logs(self.log_file):
                for piece in log.pieces():
                    _add(scores, piece, log.window_s, str(self.log_file))
                    rows += piece[: MOST_ROWS - len(rows)]
        else:
            requests = self._serve(trainer, module)
            path = self.folder / f"{called}.jsonl"
            if trainer.is_global_zero:
                write_log(path, requests)
            _add(scores, requests, None, str(path))
            rows = requests[:MOST_ROWS]
        name = getattr(module, "name", None)
        prefix = f"{name}/{stage}/goodput" if isinstance(name, str) else f"{stage}/goodput"
        found = {key: float(value) for key, value in scores.report.compute().items()}
        numbers = {f"{prefix}/{key}": value for key, value in found.items() if math.isfinite(value)}
        self.final_metrics = numbers
        if trainer.is_global_zero:
            show(trainer, prefix, rows, scores)
        return numbers

    def _serve(self, trainer: Trainer, module: Any) -> list[Request]:
        """This process's share of the requests served, then all processes' put together."""
        if not hasattr(module, "serve"):
            mend = "give the module a method serve(workload, engine), or the callback log=FILE"
            raise WrongInput(f"{type(module).__name__} cannot serve", "SmoothGoodputCallback", mend)
        assert self.prompts is not None
        arrivals = poisson_arrivals(self.rate_rps, self.warmup_s + self.duration_s, self.seed)
        requests = self.prompts.requests(arrivals, self.seed, warmup_s=self.warmup_s)
        if not any(request.measured for request in requests):
            raise WrongInput("there is no request to measure", "rate_rps, duration_s", "raise one of them")
        share = requests[trainer.global_rank :: trainer.world_size]
        workload = Workload("validation", "policy", self.scheduler, None, self.rate_rps, self.seed, None, share)
        trainer.strategy.barrier()  # one beginning of time
        served = to_requests(module.serve(workload, self.engine))
        if trainer.world_size > 1:
            shares: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(shares, served)
            served = sorted((one for share in shares for one in share), key=lambda one: one.submit_s or 0.0)
        return served


def _add(scores: LogScores, requests: Sequence[Request], window_s: float | None, where: str) -> None:
    try:
        ids = [request.request_id for request in requests]
        scores.update(**to_padded(requests)._asdict(), window_s=window_s, request_ids=ids)
    except ValueError as error:
        raise WrongInput(str(error), where, "check the log") from error
