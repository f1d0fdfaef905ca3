"""What served models can carry: requests a second while there is always more to do."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks.serving.records import ServedRequest, last_delivery_s, to_requests, whole_tokens
from datamodules.batches import Workload
from datamodules.responses import replace_file
from datamodules.wrong_input import WrongInput


class CapacityCallback(Callback):
    """Takes the bursts of ``BurstDataModule``; of each model's the median counts.

    Leaves model → requests a second in its file, and ``final_metrics`` ``MODEL/capacity_rps`` and ``…_tps``.

    Args:
        path: The file, JSON.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.final_metrics: dict[str, float] = {}
        self._rates: dict[str, dict[str, list[float]]] = {}

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Sequence[ServedRequest],
        batch: Workload,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Requests and tokens a second of a burst, from its start to its last token."""
        wrong = [one for one in outputs if one.status != "ok"]
        if wrong:
            told: Any = wrong[0]
            raise WrongInput(
                f"{len(wrong)} of {len(outputs)} requests of a burst were not served: {told.error}",
                f"{batch.model}, {batch.scheduler}",
                "check the model and engine.*",
            )
        requests = to_requests(outputs)
        seconds = last_delivery_s(requests)
        rates = self._rates.setdefault(batch.model, {"rps": [], "tps": []})
        rates["rps"].append(len(requests) / seconds)
        rates["tps"].append(whole_tokens(requests) / seconds)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the medians, and write the file."""
        for name, rates in self._rates.items():
            self.final_metrics |= {f"{name}/capacity_{unit}": median(found) for unit, found in rates.items()}
        if trainer.is_global_zero:
            carried = {name: median(rates["rps"]) for name, rates in self._rates.items()}
            replace_file(self.path, json.dumps(carried, indent=1) + "\n")
