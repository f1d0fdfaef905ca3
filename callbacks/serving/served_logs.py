"""Logs of served workloads, and an index of what each was."""

from collections.abc import Sequence
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from callbacks.serving.records import ServedRequest, to_requests, write_log
from datamodules.batches import Workload
from datamodules.responses import ResponseLog


class ServedLogs(Callback):
    """Writes ``NAME.jsonl``, a log in the project's own format, as each workload ends, and a line to the index.

    A workload that was killed in the middle has neither, so it is served again.

    Args:
        folder: Where the logs go.
        index: JSON lines beside them: ``id`` (the log's name), ``model``, ``scheduler``, ``load``, ``rate_rps``,
            ``offered_rps`` (what really arrived), ``time_scale``, ``seed``, ``requests``, ``warmup``.
    """

    def __init__(self, folder: str | Path, index: str | Path):
        self.folder, self.index = Path(folder), ResponseLog(index)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Sequence[ServedRequest],
        batch: Workload,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """One workload is done: the index first, since the log says that it is."""
        measured = sum(request.measured for request in batch.requests)
        line = {
            "id": batch.name,
            "model": batch.model,
            "scheduler": batch.scheduler,
            "load": batch.load,
            "rate_rps": batch.rate_rps,
            "offered_rps": measured / batch.measured_s if batch.measured_s else None,
            "time_scale": batch.time_scale,
            "seed": batch.seed,
            "requests": measured,
            "warmup": len(batch.requests) - measured,
        }
        self.index.append([line])
        write_log(self.folder / f"{batch.name}.jsonl", to_requests(outputs))
