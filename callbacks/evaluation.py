"""How well the students talk: preference against the teacher, accuracy, KL and length, with intervals over prompts."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from callbacks.judges.verdict import Comparison, Judge, Verdict
from callbacks.statistics import Interval, bootstrap_interval, paired_difference, preference_rates, ratio_of_sums
from datamodules.responses import find_log, write_jsonl

SCORES = {"win": 1.0, "tie": 0.0, "lose": -1.0}
Answers = dict[str, dict[str, Any]]


class EvaluationCallback(Callback):
    """Compares each student's sampled answers with the teacher's when the KL pass has ended.

    Gives ``teacher/accuracy`` and, for each student, ``student/NAME/KEY`` with ``_ci_low`` and ``_ci_high``:
    win, tie, lose and preference rate, accuracy (where there is a marking rule), KL to the teacher (nats a token, on
    the teacher's answers) and response tokens. The last student is compared with each other, prompt by prompt:
    ``preference_gain_over_OTHER``. Writes ``examples.jsonl`` and ``outcomes.jsonl`` (every prompt's
    verdict and marks, for statistics across runs).

    Args:
        answers: Folder, or folders, with ``NAME.jsonl`` of each model.
        folder: Where the two files go.
        teacher: Name of the teacher's answers.
        students: Names of the students.
        judge: Who compares.
        mark: From an answer and its key to an object with ``fact``; None: no accuracy.
        prefix: Put in front of every key, e.g. ``dev/`` where a run evaluates on two splits.
        examples: How many prompts to keep for the report.
        seed: Of the resampling.
    """

    def __init__(
        self,
        answers: str | Sequence[str],
        folder: str | Path,
        students: Sequence[str],
        judge: Judge,
        *,
        teacher: str = "teacher",
        mark: Callable[[str, Mapping[str, Any]], Any] | None = None,
        prefix: str = "",
        examples: int = 12,
        seed: int = 0,
    ):
        self.answers, self.folder, self.teacher, self.students = answers, Path(folder), teacher, list(students)
        self.judge, self.mark, self.prefix, self.examples, self.seed = judge, mark, prefix, examples, seed
        self.final_metrics: dict[str, float] = {}
        self._kl: dict[str, list[tuple[float, int]]] = defaultdict(list)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the divergences."""
        self._kl[outputs.model] += zip(outputs.nats, outputs.tokens, strict=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Judge and summarise."""
        divergences = self._gathered(trainer)
        if not trainer.is_global_zero:
            return
        answers = {name: find_log(self.answers, name).read() for name in (self.teacher, *self.students)}
        metrics = self._about(self.teacher, answers[self.teacher], "teacher")
        verdicts = {name: self._judge(answers[name], answers[self.teacher]) for name in self.students}
        for name in self.students:
            prefix = f"student/{name}"
            rates = preference_rates([verdict.outcome for verdict in verdicts[name]], self.seed)
            metrics |= {f"{prefix}/{key}": value for key, value in rates.items()}
            metrics |= self._about(name, answers[name], prefix)
            if divergences[name]:
                kl = bootstrap_interval(torch.tensor(divergences[name]), ratio_of_sums, seed=self.seed)
                metrics |= _named(f"{prefix}/kl_to_teacher", kl)
        metrics |= self._gains(verdicts)
        self.final_metrics = {f"{self.prefix}{key}": value for key, value in metrics.items()}
        self._write(answers, verdicts)

    def _gathered(self, trainer: Trainer) -> dict[str, list[tuple[float, int]]]:
        """Divergences of all ranks."""
        if trainer.world_size == 1:
            return self._kl
        parts: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, dict(self._kl))
        return {name: [row for part in parts for row in part.get(name, [])] for name in self.students}

    def _about(self, name: str, answers: Answers, prefix: str) -> dict[str, float]:
        lengths = torch.tensor([row["response_tokens"] for row in answers.values()], dtype=torch.float64)
        found = _named(f"{prefix}/response_tokens", bootstrap_interval(lengths, seed=self.seed))
        if self.mark is not None:
            facts = torch.tensor([float(fact) for fact in self._facts(answers)], dtype=torch.float64)
            found |= _named(f"{prefix}/accuracy", bootstrap_interval(facts, seed=self.seed))
        return found

    def _facts(self, answers: Answers) -> list[bool]:
        assert self.mark is not None
        return [bool(self.mark(row["response"], row["key"]).fact) for row in answers.values()]

    def _judge(self, ours: Answers, theirs: Answers) -> list[Verdict]:
        comparisons = []
        for place, row in theirs.items():
            prompt = row["prompt"]
            turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            comparisons.append(Comparison(place, turns, ours[place]["response"], row["response"], row.get("key")))
        return self.judge.compare(comparisons)

    def _gains(self, verdicts: dict[str, list[Verdict]]) -> dict[str, float]:
        """Preference rate of the last student less that of each other, prompt by prompt: the run's own comparison."""
        *others, hero = self.students
        gains: dict[str, float] = {}
        for other in others:
            both = [
                (SCORES[ours.outcome], SCORES[theirs.outcome])
                for ours, theirs in zip(verdicts[hero], verdicts[other], strict=True)
                if "invalid" not in (ours.outcome, theirs.outcome)
            ]
            if both:
                ours, theirs = torch.tensor(both, dtype=torch.float64).T
                key = f"student/{hero}/preference_gain_over_{other}"
                gains |= _named(key, paired_difference(ours, theirs, seed=self.seed))
        return gains

    def _write(self, answers: dict[str, Answers], verdicts: dict[str, list[Verdict]]) -> None:
        outcomes = [
            {
                "id": place,
                "outcomes": {name: verdicts[name][i].outcome for name in self.students},
                **({"facts": self._marks_of(place, answers)} if self.mark is not None else {}),
            }
            for i, place in enumerate(answers[self.teacher])
        ]
        write_jsonl(self.folder / "outcomes.jsonl", outcomes)
        examples = [
            {
                "id": place,
                "prompt": row["prompt"],
                "answers": {name: given[place]["response"] for name, given in answers.items()},
                "verdicts": {name: verdicts[name][i].outcome for name in self.students},
                "why": {name: verdicts[name][i].why for name in self.students},
            }
            for i, (place, row) in enumerate(answers[self.teacher].items())
        ]
        # Those on which the students differ tell the most; then the first ones.
        examples.sort(key=lambda example: -len(set(example["verdicts"].values())))
        write_jsonl(self.folder / "examples.jsonl", examples[: self.examples])

    def _marks_of(self, place: str, answers: dict[str, Answers]) -> dict[str, bool]:
        assert self.mark is not None
        return {name: bool(self.mark(a[place]["response"], a[place]["key"]).fact) for name, a in answers.items()}


def _named(key: str, interval: Interval) -> dict[str, float]:
    return {
        key: interval.estimate.item(),
        f"{key}_ci_low": interval.low.item(),
        f"{key}_ci_high": interval.high.item(),
    }
