"""Served requests at W&B: a table of them and a figure of their deliveries."""

from collections.abc import Iterable

from lightning import Trainer
from lightning.pytorch.loggers import WandbLogger

from callbacks.goodput.log_scores import LogScores
from callbacks.report.goodput_figures import deliveries_figure
from datamodules.latency_logs.records import Request

MOST_ROWS = 1000
"""Of the table."""


def show(trainer: Trainer, prefix: str, rows: Iterable[Request], scores: LogScores) -> None:
    """Add table and figure to the trainer's W&B loggers, if it has any.

    Args:
        trainer: With its loggers.
        prefix: Of their keys, ``PREFIX/requests_table`` and ``PREFIX/deliveries_figure``.
        rows: Requests of the table.
        scores: Of all of them.
    """
    loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    if not loggers:
        return
    import wandb  # only who logs there pays for it

    columns = ["request_id", "status", "submit_s", "tokens", "ttft_s", "last_token_s"]
    data = [
        [row.request_id, row.status, row.submit_s, len(row.token_s), *(_ends(row.token_s.tolist()))] for row in rows
    ]
    report = scores.report
    figure = deliveries_figure(scores.figures()["deliveries"], report.reading_speed, report.origin, prefix)
    for logger in loggers:
        logger.log_table(f"{prefix}/requests_table", columns=columns, data=data)
        logger.experiment.log(
            {f"{prefix}/deliveries_figure": wandb.Html(figure), "trainer/global_step": trainer.global_step}
        )


def _ends(times: list[float]) -> tuple[float | None, float | None]:
    return (times[0], times[-1]) if times else (None, None)
