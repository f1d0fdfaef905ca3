"""Generated questions to disk."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from datamodules.responses import write_jsonl

FIELDS = ("id", "context", "answer", "answer_start")


class QuestionWriter(Callback):
    """Appends each batch of questions to its method's log; in the end writes one method's as a data set.

    A row: ``{"id", "context", "answer", "answer_start", "reference", "questions": [{"question", "template", "score",
    "retrieval_score", "cluster", "rewards": {NAME: number}}, …]}``; null where a method has none.

    Args:
        output: The data set, JSON lines, in the order of the data. None: only the logs.
        method: Whose; None: there is one method only.
    """

    def __init__(self, output: str | Path | None = None, method: str | None = None):
        self.output, self.method = Path(output) if output is not None else None, method
        self.final_metrics: dict[str, float] = {}
        self._asked = 0

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Put the batch on disk."""
        rows = [
            {name: getattr(example, name) for name in FIELDS}
            | {"reference": example.question or None, "questions": [question._asdict() for question in questions]}
            for example, questions in zip(outputs.examples, outputs.questions, strict=True)
        ]
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        data.log_of(outputs.method).append(rows)
        self._asked += sum(len(questions) for questions in outputs.questions)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the data set, once all is asked."""
        trainer.strategy.barrier()
        self.final_metrics = {"questions": self._asked}
        if self.output is not None and trainer.is_global_zero:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            asked = data.log_of(self.method or data.methods[0]).read()
            write_jsonl(self.output, [asked[place] for place in data.examples])
