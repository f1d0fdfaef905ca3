"""Latency logs: one reader a tool, all to the same columns, in seconds.

`open_logs` tells by the content which tool wrote a file and yields its runs; `LatencyLog.pieces` reads one in pieces of
bounded size; `to_padded` turns a piece into the tensors that the metrics take::

    for log in open_logs("bench.json"):
        for piece in log.pieces():
            report.update(**to_padded(piece)._asdict(), window_s=log.window_s)
"""

from datamodules.latency_logs.opening import open_logs
from datamodules.latency_logs.records import LatencyLog, PaddedRequests, Request, Tally, to_padded
from datamodules.latency_logs.writing import LogWriter, write_parquet

__all__ = [
    "LatencyLog",
    "LogWriter",
    "PaddedRequests",
    "Request",
    "Tally",
    "open_logs",
    "to_padded",
    "write_parquet",
]
