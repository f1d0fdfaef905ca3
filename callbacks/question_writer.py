"""Generated questions to disk."""

import logging
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from datamodules.responses import write_jsonl
from datamodules.templates.bank import line_of

log = logging.getLogger(__name__)

FIELDS = ("id", "context", "answer", "answer_start")


class QuestionWriter(Callback):
    """Appends each batch of questions to its method's log; in the end writes one method's as a data set.

    A row: ``{"id", "context", "answer", "answer_start", "reference", "questions": [{"question", "template",
    "template_id", "score", "retrieval_score", "cluster", "rewards": {NAME: number}}, …]}``; null where a method has
    none. ``template_id`` is the line of the bank's file on which the template stands, the first of them on line 2.

    Args:
        output: The data set, JSON lines, in the order of the data. None: only the logs.
        method: Whose; None: there is one method only. Not written where it is none of the methods that ask.
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
            | {"reference": example.question or None, "questions": [as_row(question) for question in questions]}
            for example, questions in zip(outputs.examples, outputs.questions, strict=True)
        ]
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        data.log_of(outputs.method).append(rows)
        self._asked += sum(len(questions) for questions in outputs.questions)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the data set, once all is asked."""
        trainer.strategy.barrier()
        self.final_metrics = {"questions": self._asked}
        if self.output is None or not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        method = self.method or data.methods[0]
        if method not in data.methods:
            log.warning("%s is none of the methods that ask, so there is no %s", method, self.output.name)
            return
        asked = data.log_of(method).read()
        write_jsonl(self.output, [asked[place] for place in data.examples])


def as_row(question: Any) -> dict[str, Any]:
    """A question as it stands in a file: its template named by its line in the bank."""
    fields = question._asdict()
    number = fields.pop("template_number")
    line = None if number is None else line_of(number)
    asked, template = fields.pop("question"), fields.pop("template")
    return {"question": asked, "template": template, "template_id": line, **fields}
