"""What a sweep over methods, settings, seeds and regimes has shown: chosen on development data, reported on test."""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table as ConsoleTable

from callbacks.evaluation import SCORES
from callbacks.report import Card, Section, Table, write_page
from callbacks.report.figures import Point, scatter_with_intervals
from callbacks.statistics import Interval, nested_interval
from datamodules.responses import ResponseLog, replace_file

log = logging.getLogger(__name__)
CANDIDATE, START = "candidate", "dsft"


class Job(NamedTuple):
    """One finished job of the sweep."""

    regime: str
    method: str
    setting: int
    seed: int
    choice: dict[str, float]
    """The setting itself: lr, B, share."""
    metrics: dict[str, float]
    outcomes: dict[str, dict[str, Any]]
    """Test prompt → its verdicts and facts."""


class Summary(NamedTuple):
    """A method in a regime, at the setting chosen on development data, over all seeds."""

    regime: str
    method: str
    choice: dict[str, float]
    preference: Interval
    accuracy: Interval
    kl: Interval | None
    """None where the teacher has another tokenizer: a divergence between different tokens is none."""
    gain_over_start: Interval
    """Preference rate less that of the dSFT start, prompt by prompt."""


class ClaimReport(Callback):
    """At the end of the sweep: ``claim.json``, ``report.html`` and a table, from what its jobs left behind.

    The setting of a method is the one with the highest mean preference rate on development data over the seeds.
    Intervals resample seeds, and prompts within them; with five seeds they are too narrow where seeds differ most.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Summarise every job that has finished."""
        folder = Path(config.hydra.sweep.dir)
        jobs = [job for path in sorted(folder.glob("*/metrics.json")) if (job := read_job(path.parent)) is not None]
        if not jobs:
            log.warning("no job of the sweep has been evaluated under %s", folder)
            return
        summaries = summarise(jobs)
        replace_file(folder / "claim.json", json.dumps([_plain(s) for s in summaries], indent=1) + "\n")
        _write_report(folder / "report.html", summaries, len({job.seed for job in jobs}))
        _print(summaries)


def read_job(folder: Path) -> Job | None:
    """A job's result, or None if it has not come to its evaluation."""
    metrics = json.loads((folder / "metrics.json").read_text())
    config: Any = OmegaConf.load(folder / "config.yaml")
    outcomes = ResponseLog(folder / "evaluate" / "outcomes.jsonl").read()
    if f"dev/student/{CANDIDATE}/preference_rate" not in metrics or not outcomes:
        return None
    choice: Any = OmegaConf.to_container(config.grid[config.method][config.setting])
    return Job(config.regime, config.method, config.setting, config.seed, choice, metrics, outcomes)


def summarise(jobs: list[Job]) -> list[Summary]:
    """A row a regime and method, the start first."""
    groups: dict[tuple[str, str], dict[int, list[Job]]] = defaultdict(lambda: defaultdict(list))
    for job in jobs:
        groups[job.regime, job.method][job.setting].append(job)
    rows = []
    for regime in dict.fromkeys(job.regime for job in jobs):
        starts = {job.seed: job for job in jobs if job.regime == regime}
        rows.append(_summary(regime, START, {}, list(starts.values()), START))
        for (where, method), settings in groups.items():
            if where == regime:
                best = max(settings.values(), key=lambda group: _dev_rate(group))
                rows.append(_summary(regime, method, best[0].choice, best, CANDIDATE))
    return rows


def _dev_rate(group: list[Job]) -> float:
    return sum(job.metrics[f"dev/student/{CANDIDATE}/preference_rate"] for job in group) / len(group)


def _summary(regime: str, method: str, choice: dict[str, float], jobs: list[Job], student: str) -> Summary:
    def rows(value: Any) -> torch.Tensor:  # (seeds, prompts)
        return torch.tensor([[float(value(row)) for row in job.outcomes.values()] for job in jobs])

    # Each seed has prompts of its own: the world is made from the seed.
    score = rows(lambda row: SCORES.get(row["outcomes"][student], 0.0))
    start = rows(lambda row: SCORES.get(row["outcomes"][START], 0.0))
    kl = [[job.metrics[key]] for job in jobs if (key := f"student/{student}/kl_to_teacher") in job.metrics]
    return Summary(
        regime,
        method,
        choice,
        nested_interval(score, shared_prompts=False),
        nested_interval(rows(lambda row: row["facts"][student]), shared_prompts=False),
        nested_interval(torch.tensor(kl), shared_prompts=False) if len(kl) == len(jobs) else None,
        nested_interval(score - start, shared_prompts=False),
    )


def _plain(summary: Summary) -> dict[str, Any]:
    plain: dict[str, Any] = {"regime": summary.regime, "method": summary.method, "choice": summary.choice}
    for name, value in summary._asdict().items():
        if isinstance(value, Interval):
            plain |= {
                name: value.estimate.item(),
                f"{name}_ci_low": value.low.item(),
                f"{name}_ci_high": value.high.item(),
            }
    return plain


def _cells(summary: Summary) -> list[str]:
    def shown(interval: Interval, scale: float = 1.0) -> str:
        low, high = interval.low.item() * scale, interval.high.item() * scale
        return f"{interval.estimate.item() * scale:.3g}\n[{low:.3g}, {high:.3g}]"

    choice = ", ".join(f"{key} {value:g}" for key, value in summary.choice.items()) or "–"
    percent = [shown(i, 100) for i in (summary.preference, summary.accuracy)]
    kl = "–" if summary.kl is None else shown(summary.kl)
    return [summary.method, choice, *percent, kl, shown(summary.gain_over_start, 100)]


HEADER = ("method", "chosen on dev", "preference rate %", "accuracy %", "KL to teacher, nats/token", "gain over dSFT")


def _print(summaries: list[Summary]) -> None:
    for regime in dict.fromkeys(summary.regime for summary in summaries):
        table = ConsoleTable(*HEADER, title=f"regime {regime}, test prompts, 95 % over seeds and prompts")
        for summary in summaries:
            if summary.regime == regime:
                table.add_row(*_cells(summary))
        Console(width=140).print(table)


def _write_report(path: Path, summaries: list[Summary], seeds: int) -> None:
    sections = []
    for regime in dict.fromkeys(summary.regime for summary in summaries):
        rows = [summary for summary in summaries if summary.regime == regime]
        points = [
            Point(
                row.method,
                row.kl.estimate.item(),
                row.preference.estimate.item(),
                (row.kl.low.item(), row.kl.high.item()),
                (row.preference.low.item(), row.preference.high.item()),
            )
            for row in rows
            if row.kl is not None
        ]
        axes = "KL to the teacher, nats a token", "preference rate against the teacher"
        figures = [scatter_with_intervals(points, *axes, percent_y=True)] if points else []
        table = Table(HEADER, [_cells(row) for row in rows], "Test prompts; 95 % intervals over seeds and prompts.")
        sections.append(Section(f"Regime {regime}", "", figures, [table]))
    lead = (
        f"Each method at the setting of its grid that was best on development data; {seeds} seeds. "
        "Intervals over so few seeds are too narrow where seeds differ most."
    )
    write_page(path, "Does the teacher's distribution help?", lead, _cards(summaries), sections)


def _cards(summaries: list[Summary]) -> list[Card]:
    by: Mapping[tuple[str, str], Summary] = {(s.regime, s.method): s for s in summaries}
    return [
        Card(f"daDPO less dDPO, {regime}", f"{100 * (ours - theirs):+.1f} points", "preference rate, test")
        for regime in dict.fromkeys(s.regime for s in summaries)
        if (regime, "dadpo") in by and (regime, "ddpo") in by
        for ours, theirs in [(by[regime, m].preference.estimate.item() for m in ("dadpo", "ddpo"))]
    ]
