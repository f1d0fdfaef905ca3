"""Time, losses and memory of training steps, in Lightning's loop and in transformers'."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from transformers import TrainerCallback


class Clock:
    """Seconds of each step but the first, with losses and useful shares of all; memory over all of them."""

    def __init__(self, threads: int):
        # One thread's time on its core: on a shared machine the wall clock times the others too.
        self.now = time.process_time if threads == 1 else time.perf_counter
        self.last: float | None = None
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.shares: list[float] = []
        self.extra_bytes = 0.0

    def begin(self, parameters: Any) -> None:
        """Before the first step."""
        self.moments = 8 * sum(p.numel() for p in parameters)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        self.before = _kib("VmRSS")

    def tick(self) -> None:
        """After each step."""
        now = self.now()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now

    def end(self) -> None:
        """Bytes of the peak above what was there, less the optimizer's two moments."""
        self.extra_bytes = 1024 * (_kib("VmHWM") - self.before) - self.moments


def _kib(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])


class OurWatch(Callback):
    """A clock in Lightning's loop."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.clock.begin(pl_module.parameters())

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.clock.tick()
        self.clock.losses.append(float(outputs["loss"]))
        self.clock.shares.append(float(trainer.callback_metrics["dadpo/train/useful_token_share"]))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.clock.end()


class TheirWatch(TrainerCallback):
    """A clock in transformers' loop."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **settings: Any) -> None:
        self.clock.begin(model.parameters())

    def on_step_end(self, args: Any, state: Any, control: Any, **settings: Any) -> None:
        self.clock.tick()

    def on_train_end(self, args: Any, state: Any, control: Any, **settings: Any) -> None:
        self.clock.end()
