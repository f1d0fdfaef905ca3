"""Scores latency logs: the metrics of each, and what their report draws."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks.goodput.functional import Penalty
from callbacks.goodput.log_scores import LogScores
from callbacks.goodput.timeline import Origin
from datamodules.latency_logs.data_module import LogPiece
from datamodules.responses import replace_file
from datamodules.wrong_input import WrongInput


class GoodputLogsCallback(Callback):
    """Takes the pieces of ``LatencyLogsDataModule`` and scores log by log, under test.

    Leaves ``final_metrics`` ``LOG/name``, and ``goodput.json`` in its folder once all logs are through: settings, and a
    log's metrics, counts of its reading, and figures. Nothing is written if any of them is refused.

    Args:
        folder: Where ``goodput.json`` goes.
        reading_speed: Tokens a second of the reader.
        alpha: Weight of the penalty.
        penalty: f of Equation 10: ``linear_s``, ``linear_tok``, ``fraction`` or a function.
        origin: What deadlines count from: ``commit`` or ``first_token``.
        each_log: Leave every log's ``final_metrics``; without, only the file has them.
        settings: The further ones of ``GoodputReport``.

    Raises:
        WrongInput: A setting is wrong.
    """

    def __init__(
        self,
        folder: str | Path,
        reading_speed: float = 5.0,
        alpha: float = 2.5,
        penalty: Penalty = "linear_s",
        origin: Origin = "commit",
        *,
        each_log: bool = True,
        **settings: Any,
    ):
        self.folder, self.each_log = Path(folder), each_log
        self.settings = {
            "reading_speed": reading_speed,
            "alpha": alpha,
            "penalty": penalty,
            "origin": origin,
            **settings,
            "sync_on_compute": False,  # a log is scored whole, however many processes the run has
        }
        self.final_metrics: dict[str, float] = {}
        self._scores: dict[str, LogScores] = {}
        self._last: dict[str, LogPiece] = {}
        try:
            self._named = LogScores(self.settings).report.settings
        except (TypeError, ValueError) as error:
            keys = "reading_speed_tps, alpha, penalty, origin, ttft_s, tbt_s, tpot_s, e2e_s, patience_s"
            raise WrongInput(str(error), "config", f"check {keys}") from error

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._scores, self._last, self.final_metrics = {}, {}, {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: LogPiece,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Score a piece of a log."""
        scores = self._scores.setdefault(batch.name, LogScores(self.settings))
        with _told(batch):
            scores.update(**batch.requests._asdict(), window_s=batch.window_s, request_ids=batch.request_ids)
        self._last[batch.name] = batch._replace(requests=None)  # type: ignore[arg-type]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sum up, and write what the report draws."""
        logs = []
        for name, scores in self._scores.items():
            last = self._last[name]
            with _told(last):
                metrics = scores.metrics() | _choices(self._named)
            told = {"requests_" + key: float(getattr(last.tally, key)) for key in ("cancelled", "counted_by_chunk")}
            metrics |= told
            if self.each_log:
                self.final_metrics |= {f"{name}/{key}": value for key, value in metrics.items()}
            logs.append(
                {
                    "name": name,
                    "tool": last.tool,
                    "skipped": last.tally.skipped,
                    "timed": last.window_s is None,
                    "metrics": metrics,
                    **scores.figures(),
                }
            )
        content = _plain({"settings": self._named, "logs": logs})
        replace_file(self.folder / "goodput.json", json.dumps(content, allow_nan=False) + "\n")


@contextmanager
def _told(piece: LogPiece) -> Iterator[None]:
    """Turns what a metric refuses into one line about the log."""
    try:
        yield
    except ValueError as error:
        mend = "give window_s=SECONDS" if "window" in str(error) else "check the log"
        raise WrongInput(str(error), piece.path, mend) from error


def _choices(settings: dict[str, Any]) -> dict[str, float]:
    """Settings that are words, as numbers with the word in the name: ``penalty_linear_s``, ``origin_commit``."""
    return {f"{name}_{settings[name]}": 1.0 for name in ("penalty", "origin")}


def _plain(value: Any) -> Any:
    """The same data with None for what is no finite number: JSON has no other word for it."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
