"""Numbers of a sweep over λ and learning rate: chosen on development passages, told on test."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor

from callbacks.questions import sentence_bleu, word_f1
from callbacks.statistics import Interval, nested_interval

HERO, START, NUCLEUS = "rast", "fine_tuned", "nucleus"
F1_MAY_FALL = 3.0
"""Points of judge QA F1 below the start at which diversity is bought with questions that ask for something else."""
PAIRWISE, QA_F1 = "pairwise_bleu", "qa_f1"
BY_PASSAGE = (PAIRWISE, QA_F1)


class Job(NamedTuple):
    """One finished job."""

    weight: float
    """λ."""
    lr: float
    """Of the policy."""
    seed: int
    metrics: Mapping[str, float]
    passages: Mapping[str, Tensor]
    """Method → (P, 2) float64: ``BY_PASSAGE`` of each test passage's questions, per cent."""


class Row(NamedTuple):
    """One λ and learning rate, over its seeds."""

    weight: float
    lr: float
    seeds: int
    dev_pairwise: float
    dev_f1: float
    dev_f1_of_start: float
    pairwise: Interval
    """Test passages; as all that follows."""
    f1: Interval
    minus: dict[str, dict[str, Interval]]
    """Other method → name of ``BY_PASSAGE`` → RAST less the other, passage by passage."""
    means: dict[str, float]
    """Every number of the jobs' metrics, mean over seeds."""
    chosen: bool = False


class PassageNumbers:
    """What single passages come to; methods that are the same in several jobs are counted once.

    Args:
        shared: Names of the methods that depend on the seed alone.
    """

    def __init__(self, shared: Sequence[str]):
        self._shared, self._known = set(shared), dict[tuple[int, str], Tensor]()

    def of(self, seed: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Method → (P, 2); see ``Job.passages``."""
        found = {}
        for name in rows[0]["methods"]:
            key = seed, name
            if name not in self._shared or key not in self._known:
                self._known[key] = torch.tensor(
                    [_of_passage(row["methods"][name], row["answer"]) for row in rows], dtype=torch.float64
                )
            found[name] = self._known[key]
        return found


def _of_passage(asked: Sequence[Mapping[str, Any]], answer: str) -> tuple[float, float]:
    texts = [one["question"] for one in asked]
    pairs = [sentence_bleu(one, [other]).score for one, other in permutations(texts, 2)]
    f1 = [word_f1(one["answered"], answer) for one in asked]
    return sum(pairs) / max(len(pairs), 1), 100 * sum(f1) / len(f1)


def read_jobs(folder: Path) -> list[Job]:
    """The jobs of a sweep that have come to their evaluation."""
    found: list[Job] = []
    numbers: PassageNumbers | None = None
    for path in sorted(folder.glob("*/metrics.json")):
        metrics = json.loads(path.read_text())
        questions = path.parent / "evaluate" / "questions.jsonl"
        if f"{HERO}/{PAIRWISE}" not in metrics or f"dev/{HERO}/{PAIRWISE}" not in metrics or not questions.is_file():
            continue
        rows = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
        config: Any = OmegaConf.load(path.parent / "config.yaml")
        numbers = numbers or PassageNumbers([name for name in rows[0]["methods"] if name != HERO])
        known = {key: value for key, value in metrics.items() if value is not None}
        weight, lr, seed = float(config.diversity_weight), float(config.lr), int(config.seed)
        found.append(Job(weight, lr, seed, known, numbers.of(seed, rows)))
    return found


def summarise(jobs: Sequence[Job]) -> list[Row]:
    """A row a learning rate and λ, rising; one of those that have all seeds is the chosen one, if any is sound.

    Chosen is the lowest Pairwise BLEU on development passages, mean over seeds, among those whose judge QA F1 there is
    at most ``F1_MAY_FALL`` points below the start's. Never by Overall, which wrong questions can win; never on test.
    """
    groups: dict[tuple[float, float], list[Job]] = defaultdict(list)
    for job in jobs:
        groups[job.lr, job.weight].append(job)
    rows = [_row(groups[key]) for key in sorted(groups)]
    most = max((row.seeds for row in rows), default=0)
    sound = [row for row in rows if row.seeds == most and row.dev_f1 >= row.dev_f1_of_start - F1_MAY_FALL]
    chosen = min(sound, key=lambda row: row.dev_pairwise, default=None)
    return [row._replace(chosen=row is chosen) for row in rows]


def tuned_nucleus(row: Row) -> str | None:
    """Nucleus sampling at the temperature that RAST's own rule chooses; None where there is one temperature alone.

    It has a setting that buys variety with wrong questions, as RAST has λ: both sides are tuned.
    """
    known = [name for name in row.minus if name.startswith(NUCLEUS) and f"dev/{name}/{PAIRWISE}" in row.means]
    sound = [name for name in known if row.means[f"dev/{name}/{QA_F1}"] >= row.dev_f1_of_start - F1_MAY_FALL]
    return min(sound, key=lambda name: row.means[f"dev/{name}/{PAIRWISE}"]) if len(known) > 1 and sound else None


def _row(jobs: Sequence[Job]) -> Row:
    means = {
        key: sum(job.metrics[key] for job in jobs) / len(jobs)
        for key in jobs[0].metrics
        if all(key in job.metrics for job in jobs)
    }
    found = over_seeds(jobs, HERO)
    others = [name for name in jobs[0].passages if name != HERO]
    return Row(
        weight=jobs[0].weight,
        lr=jobs[0].lr,
        seeds=len(jobs),
        dev_pairwise=means[f"dev/{HERO}/{PAIRWISE}"],
        dev_f1=means[f"dev/{HERO}/{QA_F1}"],
        dev_f1_of_start=means[f"dev/{START}/{QA_F1}"],
        pairwise=found[PAIRWISE],
        f1=found[QA_F1],
        minus={other: over_seeds(jobs, HERO, other) for other in others},
        means=means,
    )


def over_seeds(jobs: Sequence[Job], method: str, other: str | None = None) -> dict[str, Interval]:
    """Name → mean over seeds and passages of a method's number, less another's where one is named.

    The intervals resample seeds and, in each, passages: a seed has a world and passages of its own.
    """
    values = torch.stack([job.passages[method] - (job.passages[other] if other else 0) for job in jobs])  # (S, P, 2)
    return {name: nested_interval(values[..., place], shared_prompts=False) for place, name in enumerate(BY_PASSAGE)}
