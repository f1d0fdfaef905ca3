"""Latency logs for a trainer: a loader a log, a batch a piece of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from lightning import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from datamodules.latency_logs.opening import check_kind, open_logs
from datamodules.latency_logs.records import PaddedRequests, Tally, to_padded


class LogPiece(NamedTuple):
    """Some requests of one log, and whose they are."""

    name: str  #: of the log, no two alike
    path: str
    tool: str  #: that wrote it
    window_s: float | None  #: T, where the log or the user states it
    requests: PaddedRequests  #: N requests
    request_ids: list[str]  #: N, as the tool named them
    tally: Tally  #: of the reading so far; of the whole log in its last piece


class LatencyLogsDataModule(LightningDataModule):
    """Reads logs of any tool, one after the other, in pieces of bounded size: one log at a time is open.

    Args:
        logs: Name → file. Where a file holds several runs, each has its number behind the name.
        window_s: T in seconds of every log, where the user knows better than the logs or they have none.
        max_cells: Numbers in a padded piece, if one request allows.
    """

    def __init__(self, logs: Mapping[str, str], *, window_s: float | None = None, max_cells: int = 1 << 20):
        super().__init__()
        self.files, self.window_s, self.max_cells = dict(logs), window_s, max_cells

    def setup(self, stage: str) -> None:
        """Look at the beginning of each file, before any is scored.

        Raises:
            WrongInput: One is not there, or is of a tool that is not known or whose logs have no time of each token.
        """
        for path in self.files.values():
            check_kind(path)

    def test_dataloader(self) -> DataLoader:
        """Log after log; each batch is a ``LogPiece``."""
        return DataLoader(_Pieces(self.files, self.window_s, self.max_cells), batch_size=None)


class _Pieces(IterableDataset):
    """The pieces of all logs."""

    def __init__(self, files: Mapping[str, str], window_s: float | None, max_cells: int):
        self.files, self.window_s, self.max_cells = files, window_s, max_cells

    def __iter__(self) -> Iterator[LogPiece]:
        taken = set(self.files)
        for name, path in self.files.items():
            for log in open_logs(path, self.window_s):
                called = name + log.name.removeprefix(log.path.stem)  # the reader adds a number to each of several runs
                while called != name and called in taken:
                    called += "_"
                taken.add(called)
                for piece in log.pieces(self.max_cells):
                    ids = [request.request_id for request in piece]
                    tally = replace(log.tally)
                    yield LogPiece(called, path, log.tool, log.window_s, to_padded(piece), ids, tally)
