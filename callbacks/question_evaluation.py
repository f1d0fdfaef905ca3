"""How good, and how different, the methods' questions are: one table, with intervals over passages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks.questions import OF_ONE_QUESTION, Asked, question_differences, question_metrics
from datamodules.asked_questions import REFERENCE, asked_rows, question_id
from datamodules.responses import ResponseLog, write_jsonl
from datamodules.wrong_input import WrongInput

Rows = dict[str, dict[str, Any]]
FIELDS = ("id", "context", "answer", "answer_start", "reference")


class QuestionEvaluation(Callback):
    """Keeps the answers to all questions; when all are answered, compares the methods.

    Gives ``METHOD/NAME`` for every number of ``question_metrics`` and, passage by passage, ``HERO/NAME_minus_OTHER``
    for every number of ``question_differences``, each with ``_ci_low`` and ``_ci_high``. Of the true questions,
    ``reference/NAME``: what they come to under the same judge is what the methods can hope for.

    Writes ``questions.jsonl``: a row a passage, ``{"id", "context", "answer", "answer_start", "reference", "methods":
    {METHOD: [{"question", "template", "template_id", "score", "retrieval_score", "cluster", "rewards", "answered"},
    …]}}``, and where likelihoods are known, also ``logp`` and ``tokens`` of each question.

    Args:
        questions: Folder, or folders, with ``NAME.jsonl`` of each method.
        folder: Where ``questions.jsonl`` goes.
        methods: Names of the methods.
        hero: Who is compared with others; left out where it is none of the methods.
        others: With whom; those that are none of the methods are left out.
        likelihoods: Folder with ``NAME.jsonl`` of what a language model finds of each method's questions. None: no
            ``nll``.
        prefix: Put in front of every key, e.g. ``dev/`` where a run evaluates on two splits.
        seed: Of the resampling.
    """

    def __init__(
        self,
        questions: str | Sequence[str],
        folder: str | Path,
        methods: Sequence[str],
        *,
        hero: str = "rast",
        others: Sequence[str] = ("fine_tuned", "nucleus"),
        likelihoods: str | None = None,
        prefix: str = "",
        seed: int = 0,
    ):
        self.questions, self.folder, self.methods = questions, Path(folder), [*methods, REFERENCE]
        self.hero, self.others, self.prefix, self.seed = hero, list(others), prefix, seed
        self.likelihoods = likelihoods
        self.final_metrics: dict[str, float] = {}

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Put the answers on disk."""
        rows = [{"id": key, "answer": text} for key, text in zip(outputs.row_ids, outputs.texts, strict=True)]
        self._answers(trainer, self.methods[dataloader_idx]).append(rows)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare, once all is answered."""
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        asked = asked_rows(self.questions, self.methods[:-1])
        for name, rows in asked.items():
            answers = self._answers(trainer, name).read()
            likely = ResponseLog(Path(self.likelihoods) / f"{name}.jsonl").read() if self.likelihoods else {}
            for place, row in rows.items():
                for number, question in enumerate(row["questions"]):
                    key = question_id(place, number)
                    question["answered"] = answers[key]["answer"]
                    if self.likelihoods:
                        question["logp"], question["tokens"] = likely[key]["logp"], likely[key]["tokens"]
        metrics = self._compared(asked)
        if self.likelihoods is None:
            metrics = {key: value for key, value in metrics.items() if not key.partition("/")[2].startswith("nll")}
        self.final_metrics = {f"{self.prefix}{key}": value for key, value in metrics.items()}
        write_jsonl(self.folder / "questions.jsonl", joined(asked))

    def _answers(self, trainer: Trainer, name: str) -> ResponseLog:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        return data.log_of(name)

    def _compared(self, asked: Mapping[str, Rows]) -> dict[str, float]:
        places = list(next(iter(asked.values())))
        inputs = {name: [as_asked(asked[name][place]) for place in places] for name in self.methods[:-1]}
        metrics: dict[str, float] = {}
        for name, of_it in inputs.items():
            metrics |= {f"{name}/{key}": value for key, value in question_metrics(of_it, seed=self.seed).items()}
        true = question_metrics([as_asked(asked[REFERENCE][place]) for place in places], seed=self.seed)
        metrics |= {f"{REFERENCE}/{key}": value for key, value in true.items() if key.startswith(OF_ONE_QUESTION)}
        for other in self.others:
            if self.hero in inputs and other in inputs:
                found = question_differences(inputs[self.hero], inputs[other], seed=self.seed)
                metrics |= {f"{self.hero}/{_minus(key, other)}": value for key, value in found.items()}
        return metrics


def as_asked(row: Mapping[str, Any]) -> Asked:
    """A row of ``questions.jsonl``'s logs as the metrics take it.

    Raises:
        WrongInput: The passage has no true question to be compared with.
    """
    questions = row["questions"]
    if not row["reference"]:
        raise WrongInput("the row has no question to compare with", row["id"], "give eval_data= rows with `question`")
    return Asked(
        row["reference"],
        row["context"],
        [question["question"] for question in questions],
        [question["score"] for question in questions],
        [question["template"] or "" for question in questions],
        row["answer"],
        [question["answered"] for question in questions],
        [(question["logp"], question["tokens"]) for question in questions if "logp" in question],
    )


def joined(asked: Mapping[str, Rows]) -> list[dict[str, Any]]:
    """A row a passage, with every method's questions about it."""
    first = next(iter(asked.values()))
    return [
        {field: row[field] for field in FIELDS}
        | {"methods": {name: rows[place]["questions"] for name, rows in asked.items() if name != REFERENCE}}
        for place, row in first.items()
    ]


def _minus(key: str, other: str) -> str:
    """``pairwise_bleu_ci_low`` → ``pairwise_bleu_minus_OTHER_ci_low``."""
    for end in ("_ci_low", "_ci_high"):
        if key.endswith(end):
            return f"{key.removesuffix(end)}_minus_{other}{end}"
    return f"{key}_minus_{other}"
