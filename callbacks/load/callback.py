"""Puts a served model under load, level by level, and keeps a latency log of each."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import Progress

from callbacks.load.aiperf import AIPerf
from callbacks.load.endpoint import Endpoint
from callbacks.load.export import EXPORT, complaint, drop_cut_off_row, first_error, requests_sent, tally_of
from datamodules.endpoint_load import LoadLevel
from datamodules.latency_logs import Tally
from datamodules.wrong_input import WrongInput

log = logging.getLogger(__name__)
_LOOK_S = 2.0


class LoadCallback(Callback):
    """Runs AIPerf for each ``LoadLevel`` that has no log yet, under test.

    Leaves ``LEVEL.jsonl`` in its folder, AIPerf's export, and ``final_metrics`` ``LEVEL/requests_sent`` and
    ``LEVEL/requests_cut_off``, those that AIPerf leaves out of its export since they were still under way at the end.
    What AIPerf writes besides, and the log of a level that was not finished, is in ``aiperf/LEVEL``.

    Args:
        folder: Where the logs go.
        url: Of the server, ``http://HOST:PORT``.
        model: Name of the model there; None: the one that the server lists.
        max_tokens: Tokens of an answer, at most.
        request: Further fields of each request; None leaves one out.
        allow_remote: Whether the server may be on another machine.
        api_key_env: Name of the environment variable with the API key, if the server needs one.
        probe_timeout_s: Seconds that the server's first answer may keep still.
        aiperf: AIPerf's command, a name or a path.
        progress: Whether to draw a progress bar on standard error.
        settings: The further ones of ``AIPerf``.

    Raises:
        WrongInput: A setting is wrong, or AIPerf is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        url: str,
        model: str | None = None,
        *,
        max_tokens: int = 64,
        request: Mapping[str, Any] | None = None,
        allow_remote: bool = False,
        api_key_env: str = "OPENAI_API_KEY",
        probe_timeout_s: float = 120.0,
        aiperf: str = "aiperf",
        progress: bool = True,
        **settings: Any,
    ):
        self.folder, self.progress = Path(folder), progress
        self.key = os.environ.get(api_key_env, "").strip()
        self.endpoint = Endpoint(url, self.key, allow_remote=allow_remote, timeout_s=probe_timeout_s)
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise WrongInput(f"answers of {max_tokens!r} tokens", "max_tokens", "give a whole number, at least 1")
        streamed = {"max_tokens": max_tokens, "stream": True, "stream_options": {"include_usage": True}}
        self.fields = {name: value for name, value in (streamed | dict(request or {})).items() if value is not None}
        self.aiperf = AIPerf(aiperf, self.endpoint.url, key=self.key, **settings)
        self.model = model
        self.final_metrics: dict[str, float] = {}
        self._served: str | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self.final_metrics, self._served = {}, None
        self.folder.mkdir(parents=True, exist_ok=True)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: LoadLevel,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Make a level of load, unless it has been measured."""
        kept, work = self.folder / f"{batch.name}.jsonl", self.folder / "aiperf" / batch.name
        if not kept.is_file():
            start = time.monotonic()
            self._measure(trainer, batch, work)
            os.replace(work / EXPORT, kept)
            log.info("%s: measured in %.0f s → %s", batch.name, time.monotonic() - start, kept)
        else:
            log.info("%s: measured before → %s", batch.name, kept)
        self._count(batch, tally_of(kept), requests_sent(work))

    def _measure(self, trainer: Trainer, level: LoadLevel, work: Path) -> None:
        """Make a level of load, and see that a log has come of it."""
        model = self._ready(level)
        bodies = [{"model": model, "messages": turns} | self.fields for turns in level.conversations]
        console = Console(stderr=True)
        with Progress(console=console, disable=not (self.progress and console.is_terminal)) as bar:
            task = bar.add_task(level.name, total=level.requests + level.warmup_requests)
            look = self._look(trainer, level.name, lambda rows: bar.update(task, completed=rows))
            ended = self.aiperf.run(level, bodies, work, look)
        if not self.endpoint.listening():
            raise self._gone(level.name)
        if ended.code and not ended.late:
            first = first_error(work / EXPORT)
            what = f"AIPerf failed at {level.name} (exit code {ended.code}): {complaint(work)}"
            what += f" The first: {first}" if first else ""
            raise WrongInput(what, str(work / "output.txt"), "see there; then start this command again")
        if ended.late:
            log.warning("%s: AIPerf did not end by itself and was interrupted; what it measured is kept", level.name)
        drop_cut_off_row(work / EXPORT)
        if not tally_of(work / EXPORT).requests:
            mend = "raise time_limit_s= or drain_s=, or lower the load"
            raise WrongInput(f"no request of {level.name} came to an end", str(work / "output.txt"), mend)

    def _ready(self, level: LoadLevel) -> str:
        """See that the server answers a request of the first level that is to be measured; returns the model's name."""
        if self._served is None:
            names = self.endpoint.models()
            model = self.model or _only(names, self.endpoint.url)
            self.endpoint.check({"model": model, "messages": level.conversations[0]} | self.fields)
            self._served = model
        return self._served

    def _look(self, trainer: Trainer, name: str, show: Callable[[int], None]) -> Callable[[int], None]:
        """What is done a few times a second under load: show how far it is, and see that there is a server."""
        last, refused = time.monotonic(), 0

        def look(rows: int) -> None:
            nonlocal last, refused
            show(rows)
            if getattr(trainer, "received_sigterm", False):
                raise SystemExit(128 + signal.SIGTERM)
            if time.monotonic() - last > _LOOK_S:
                last, refused = time.monotonic(), 0 if self.endpoint.listening() else refused + 1
            if refused > 1:
                raise self._gone(name)

        return look

    def _gone(self, name: str) -> WrongInput:
        measured = ", ".join(sorted(path.stem for path in self.folder.glob("*.jsonl"))) or "no level yet"
        so_far = self.folder / "aiperf" / name / EXPORT
        mend = (
            f"start it and this command again: {name} is measured anew; kept: {measured}, and {name} so far in {so_far}"
        )
        return WrongInput(f"the server died under {name}", self.endpoint.url, mend)

    def _count(self, level: LoadLevel, tally: Tally, sent: int | None) -> None:
        """Tell how many requests the log is about, and which are missing in it."""
        if sent is None:
            return
        name, cut_off = level.name, max(0, sent - tally.requests)
        self.final_metrics |= {f"{name}/requests_sent": float(sent), f"{name}/requests_cut_off": float(cut_off)}
        if sent < level.requests:
            log.warning("%s: %d of %d requests were sent: raise time_limit_s= for all", name, sent, level.requests)
        if cut_off:
            what = (
                "%s: %d of %d requests were still under way at the end and are not in AIPerf's log, which flatters it"
            )
            log.warning(f"{what}: raise drain_s=", name, cut_off, sent)


def _only(names: list[str] | None, url: str) -> str:
    """The model, where there is but one."""
    if names and len(names) == 1:
        return names[0]
    told = f"the server lists {', '.join(names[:8])}" if names else "the server lists none"
    raise WrongInput(f"which model? {told}", url, "give model_name=NAME")
