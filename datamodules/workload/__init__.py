"""Workloads for a served model: who asks what, and when."""

from datamodules.workload.arrivals import poisson_arrivals, replayed_arrivals
from datamodules.workload.data_module import BurstDataModule, WorkloadDataModule
from datamodules.workload.offered_load import check_load
from datamodules.workload.prompts import PromptPool
from datamodules.workload.trace import Trace, read_trace

__all__ = [
    "BurstDataModule",
    "PromptPool",
    "Trace",
    "WorkloadDataModule",
    "check_load",
    "poisson_arrivals",
    "read_trace",
    "replayed_arrivals",
]
