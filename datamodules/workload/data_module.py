"""Workloads for a trainer: bursts that show what a model can carry, and rates from idle to overload."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.batches import LoadRequest, Workload
from datamodules.workload.arrivals import poisson_arrivals, replayed_arrivals
from datamodules.workload.offered_load import check_times, offered_rates
from datamodules.workload.prompts import PromptPool
from datamodules.workload.trace import Trace, read_trace
from datamodules.wrong_input import WrongInput


class _Workloads(LightningDataModule):
    """One ``predict`` loader, a workload a batch."""

    def __init__(self, prompts: PromptPool, models: Sequence[str], schedulers: Sequence[str], trace: str | None):
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        if not models or not schedulers:
            raise WrongInput("nothing to serve with", "models, schedulers", "name at least one of each")
        self.prompts, self.models, self.schedulers = prompts, list(models), list(schedulers)
        self.trace: Trace | None = read_trace(trace) if trace is not None else None

    def workloads(self) -> Iterator[Workload]:
        """The workloads in the order in which they are served: a model is loaded once."""
        raise NotImplementedError

    def predict_dataloader(self) -> DataLoader:
        """A batch is a ``Workload``. Of several processes the first serves alone: others would be in its way."""
        first = self.trainer is None or self.trainer.is_global_zero
        return DataLoader(list(self.workloads()) if first else [], batch_size=None)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch: Workload, device: Any, dataloader_idx: int) -> Workload:
        """As it is: there are no tensors in it."""
        return batch


class BurstDataModule(_Workloads):
    """Each model gets bursts: all requests at once, as many as keep it busy for a while.

    Args:
        prompts: What is asked.
        models: Names.
        schedulers: Names, of which the first is used.
        requests: In a burst.
        repeats: Bursts.
        trace: File whose first requests give the lengths; see ``read_trace``.
    """

    def __init__(
        self,
        prompts: PromptPool,
        models: Sequence[str],
        schedulers: Sequence[str],
        requests: int = 256,
        repeats: int = 3,
        trace: str | None = None,
    ):
        super().__init__(prompts, models, schedulers, trace)
        if requests < 1 or repeats < 1:
            raise WrongInput(f"{repeats} bursts of {requests} requests", "burst_requests", "give 1 or more")
        self.repeats = repeats
        self.count = requests if self.trace is None else min(requests, len(self.trace.arrival_s))

    def workloads(self) -> Iterator[Workload]:
        """The bursts of each model."""
        scheduler = self.schedulers[0]
        for model in self.models:
            for seed in range(self.repeats):
                requests = self.prompts.requests(np.zeros(self.count), seed, trace=self.trace)
                yield Workload(f"{model}-burst{seed}", model, scheduler, None, math.inf, seed, None, requests)


class _Rate(NamedTuple):
    load: float | None
    rate_rps: float
    time_scale: float | None  # where it is what was given

    @property
    def name(self) -> str:
        return f"load{self.load:g}" if self.load is not None else f"rate{self.rate_rps:.4g}"


class WorkloadDataModule(_Workloads):
    """Requests at several rates, for each model, scheduler and seed; finished ones are left out.

    Models and schedulers get the same requests at the same times. Exactly one of `loads`, `rates` and `time_scales`
    is given.

    Args:
        prompts: What is asked.
        models: Names.
        schedulers: Names.
        folder: Where ``NAME.jsonl`` is the log of a finished workload.
        seeds: Each gives other arrivals and other prompts; of a trace, its next stretch.
        duration_s: Of the measured arrivals.
        warmup_s: Of the arrivals before them.
        loads: Rates as multiples of what the models can carry, which is read from `capacity`.
        rates: Mean arrivals a second; of a trace, the next so many of its requests in the time, closer or wider.
        time_scales: By what the trace's times are multiplied.
        trace: File whose arrivals and lengths are replayed (see ``read_trace``); null: Poisson arrivals.
        capacity: File with the requests a second that each model can carry, for `loads`.
        relative_to: The model whose capacity all loads are multiples of (null: each model's own).
    """

    def __init__(
        self,
        prompts: PromptPool,
        models: Sequence[str],
        schedulers: Sequence[str],
        *,
        folder: str | Path,
        seeds: Sequence[int] = (0,),
        duration_s: float = 10.0,
        warmup_s: float = 1.0,
        loads: Sequence[float] | None = None,
        rates: Sequence[float] | None = None,
        time_scales: Sequence[float] | None = None,
        trace: str | None = None,
        capacity: str | Path | None = None,
        relative_to: str | None = None,
    ):
        super().__init__(prompts, models, schedulers, trace)
        self.kind, self.values = offered_rates(loads, rates, time_scales, trace)
        check_times(seeds, duration_s, warmup_s)
        self.folder, self.seeds = Path(folder), list(seeds)
        self.duration_s, self.warmup_s = duration_s, warmup_s
        self.capacity, self.relative_to = capacity, relative_to

    def workloads(self) -> Iterator[Workload]:
        """Those whose log is not there yet."""
        carried = self._carried() if self.kind == "loads" else {}
        for model in self.models:
            for scheduler in self.schedulers:
                for rate in self._rates(carried.get(self.relative_to or model, 0.0)):
                    for seed in self.seeds:
                        name = f"{model}-{scheduler}-{rate.name}-seed{seed}"
                        if not (self.folder / f"{name}.jsonl").exists():
                            requests, scale = self._requests(rate, seed)
                            if not any(request.measured for request in requests):
                                mend = "raise duration_s or the rate, or give a longer trace"
                                raise WrongInput(f"workload {name} has no request", "duration_s", mend)
                            told = rate.load, rate.rate_rps, seed, scale
                            yield Workload(name, model, scheduler, *told, requests, self.duration_s)

    def _requests(self, rate: _Rate, seed: int) -> tuple[list[LoadRequest], float | None]:
        """What comes in at a rate, and the time scale; of a trace each seed has a stretch of its own."""
        whole, place = self.warmup_s + self.duration_s, self.seeds.index(seed)
        trace, scale = self.trace, rate.time_scale
        if trace is None:
            arrivals = poisson_arrivals(rate.rate_rps, whole, seed)
        elif scale is not None:
            trace = trace.since(place * whole / scale)
            arrivals = replayed_arrivals(trace, scale, whole)
        else:  # as many requests as the rate asks for: recorded services are idle for minutes, then busy
            count = max(2, round(rate.rate_rps * whole))
            trace = trace.stretch(place * count, count)
            span = float(trace.arrival_s[-1]) if len(trace.arrival_s) == count else 0.0
            if not span:
                mend = "give a longer one, or fewer seeds, lower loads or a shorter duration_s"
                raise WrongInput(f"the trace is over before seed {seed} at {rate.rate_rps:.4g}/s", "trace", mend)
            scale = whole * (count - 1) / count / span
            arrivals = trace.arrival_s * scale
        return self.prompts.requests(arrivals, seed, warmup_s=self.warmup_s, trace=trace), scale

    def _rates(self, carried_rps: float) -> list[_Rate]:
        if self.kind == "loads":
            return [_Rate(load, load * carried_rps, None) for load in self.values]
        if self.kind == "rates":
            return [_Rate(None, rate, None) for rate in self.values]
        assert self.trace is not None
        return [_Rate(None, self.trace.rate_rps / scale, scale) for scale in self.values]

    def _carried(self) -> dict[str, float]:
        """Requests a second by model."""
        path = Path(self.capacity or "capacity.json")
        if not path.is_file():
            mend = "run the stage `capacity`, or give rates"
            raise WrongInput("loads are multiples of a capacity that has not been measured", str(path), mend)
        carried = json.loads(path.read_text())
        for model in {self.relative_to or model for model in self.models}:
            if model not in carried:
                raise WrongInput(f"no capacity of {model}", str(path), f"name one of {', '.join(carried)}")
        return carried
