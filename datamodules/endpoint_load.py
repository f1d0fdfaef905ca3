"""What a served model is asked under load: at each level of it, so many conversations of a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.pairs import RowSource, open_rows, read_prompt, source_name
from datamodules.rows import Messages
from datamodules.wrong_input import WrongInput


class LoadLevel(NamedTuple):
    """One level of load."""

    name: str  #: ``rate-2`` or ``concurrency-4``, no two alike
    rate: float | None  #: requests a second, arriving as a Poisson process; None: as `concurrency` says
    concurrency: int | None  #: requests under way at any time, each followed by the next; None: as many as come
    requests: int  #: that are measured
    warmup_requests: int  #: that go before them and are not
    conversations: list[Messages]  #: what is asked, in this order, over again where there are fewer than requests


class EndpointLoadDataModule(LightningDataModule):
    """A batch a level of load, each with conversations of its own as long as there are enough rows.

    A server that caches prefixes would answer faster at later levels if all levels asked the same.

    Args:
        data: Rows with ``prompt``, as turns that end with the user's, or as text, which becomes the user's turn.
        rates: Requests a second, a level each.
        concurrency: Instead of `rates`: requests under way at any time, a level each.
        requests: Measured requests a level.
        warmup_requests: Requests a level that go before the measured ones.

    Raises:
        WrongInput: Neither `rates` nor `concurrency`, or both; a level that is no load, or is there twice.
    """

    def __init__(
        self,
        data: RowSource,
        *,
        rates: Sequence[float] | None = None,
        concurrency: Sequence[int] | None = None,
        requests: int = 20,
        warmup_requests: int = 2,
    ):
        super().__init__()
        if not rates and not concurrency:
            raise WrongInput("there is no load to make", "rates", "give rates=[1,2,4], or concurrency=[1,4] instead")
        if rates and concurrency:
            raise WrongInput("load by rate and by concurrency", "concurrency", "for the latter, set rates=null")
        if not _is_count(requests, least=1) or not _is_count(warmup_requests, least=0):
            what = f"{requests!r} requests after {warmup_requests!r} to warm up"
            raise WrongInput(what, "requests, warmup_requests", "give whole numbers, at least one measured request")
        self.data, self.requests, self.warmup_requests = data, requests, warmup_requests
        self._loads: dict[str, tuple[float | None, int | None]] = {}
        for rate in rates or []:
            self._add(f"rate-{_checked_rate(rate):g}", rate, None)
        for together in concurrency or []:
            if not _is_count(together, least=1) or together > requests:
                mend = f"give whole numbers from 1 to the {requests} of requests="
                raise WrongInput(f"{together!r} requests at a time", "concurrency", mend)
            self._add(f"concurrency-{together}", None, together)
        self.levels: list[LoadLevel] = []

    def setup(self, stage: str) -> None:
        """Read as many prompts as the levels ask for.

        Raises:
            WrongInput: A row without a prompt, or none at all.
        """
        each = self.requests + self.warmup_requests
        rows = islice(open_rows(self.data), each * len(self._loads))
        prompts = [_as_turns(read_prompt(row)) for row in rows]
        if not prompts:
            raise WrongInput("there are no prompts", source_name(self.data), "give rows with a `prompt`")
        self.levels = [
            LoadLevel(
                name,
                rate,
                concurrency,
                self.requests,
                self.warmup_requests,
                [prompts[(number * each + k) % len(prompts)] for k in range(each)],
            )
            for number, (name, (rate, concurrency)) in enumerate(self._loads.items())
        ]

    def test_dataloader(self) -> DataLoader:
        """A ``LoadLevel`` a batch, in the order given."""
        return DataLoader(self.levels, batch_size=None, collate_fn=lambda level: level)  # type: ignore[arg-type]

    def _add(self, name: str, rate: float | None, concurrency: int | None) -> None:
        if name in self._loads:
            raise WrongInput(f"{name} is there twice", "rates, concurrency", "give each level once")
        self._loads[name] = (rate, concurrency)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _checked_rate(rate: float) -> float:
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise WrongInput(f"a rate of {rate!r}", "rates", "give requests a second, above 0")
    return rate


def _as_turns(prompt: str | Messages) -> Messages:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
