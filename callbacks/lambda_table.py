"""What a sweep over λ has shown: variety against answerability, λ chosen on development passages, reported on test."""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from datamodules.responses import replace_file

log = logging.getLogger(__name__)
HERO, START = "rast", "fine_tuned"
F1_MAY_FALL = 3.0
"""Points of judge QA F1 below the start at which diversity is bought with questions that ask for something else."""


class LambdaTable(Callback):
    """At the end of the sweep: ``lambda.json`` and a table, a row a λ.

    Chosen is the λ with the lowest Pairwise BLEU on development passages, means over seeds, among those whose judge QA
    F1 there is at most ``F1_MAY_FALL`` points below the start's. Never by Overall, which wrong questions can win, and
    never on test.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Summarise every job that has finished."""
        folder = Path(config.hydra.sweep.dir)
        jobs = [job for path in sorted(folder.glob("*/metrics.json")) if (job := read_job(path.parent)) is not None]
        if not jobs:
            log.warning("no job of the sweep has been evaluated under %s", folder)
            return
        rows = summarise(jobs)
        replace_file(folder / "lambda.json", json.dumps(rows, indent=1) + "\n")
        Console(width=150).print(table(rows))


def read_job(folder: Path) -> tuple[float, dict[str, float]] | None:
    """λ and metrics of a job, or None if it has not come to its evaluation."""
    metrics = json.loads((folder / "metrics.json").read_text())
    if f"{HERO}/pairwise_bleu" not in metrics or f"dev/{HERO}/pairwise_bleu" not in metrics:
        return None
    config: Any = OmegaConf.load(folder / "config.yaml")
    return float(config.diversity_weight), metrics


def summarise(jobs: Sequence[tuple[float, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """A row a λ, rising: means over its jobs (seeds), and whether it is the chosen one."""
    by_weight: dict[float, list[Mapping[str, float]]] = defaultdict(list)
    for weight, metrics in jobs:
        by_weight[weight].append(metrics)
    rows = [{"diversity_weight": weight, "jobs": len(found), **_means(found)} for weight, found in by_weight.items()]
    rows.sort(key=lambda row: row["diversity_weight"])
    sound = [row for row in rows if row[f"dev/{HERO}/qa_f1"] >= row[f"dev/{START}/qa_f1"] - F1_MAY_FALL]
    chosen = min(sound, key=lambda row: row[f"dev/{HERO}/pairwise_bleu"], default=None)
    return [row | {"chosen": row is chosen} for row in rows]


def _means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    wanted = [key for key in found[0] if key.removeprefix("dev/").startswith((f"{HERO}/", f"{START}/"))]
    shared = [key for key in wanted if all(metrics.get(key) is not None for metrics in found)]
    return {key: sum(metrics[key] for metrics in found) / len(found) for key in shared}


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows as a reader wants them; intervals are of one job, and left out where there are more."""
    header = ("λ", "dev Pairwise", "dev QA F1", "Pairwise", "− start", "QA F1", "− start", "Top-1", "Oracle", "Overall")
    shown = Table(*header, title="RAST over λ; * chosen on development passages; − start: against the fine-tuned start")
    for row in rows:

        def cell(key: str, row: Mapping[str, Any] = row) -> str:
            low, high = row.get(f"{key}_ci_low"), row.get(f"{key}_ci_high")
            number = f"{row[key]:.1f}" if key in row else "–"
            return number if low is None or high is None or row["jobs"] > 1 else f"{number} [{low:.1f}, {high:.1f}]"

        of_dev = [f"{row[f'dev/{HERO}/{name}']:.1f}" for name in ("pairwise_bleu", "qa_f1")]
        of_test = [
            cell(f"{HERO}/{name}{end}") for name in ("pairwise_bleu", "qa_f1") for end in ("", f"_minus_{START}")
        ]
        rest = [cell(f"{HERO}/{name}") for name in ("top1_bleu", "oracle_bleu", "overall")]
        shown.add_row(f"{row['diversity_weight']:g}{' *' if row['chosen'] else ''}", *of_dev, *of_test, *rest)
    return shown
