"""Sampled responses to disk, and the data set they make."""

from pathlib import Path
from typing import Any, Protocol

from lightning import Callback, LightningModule, Trainer

from datamodules.encoding import Prompt
from datamodules.pairs import as_completion
from datamodules.responses import ResponseLog, write_jsonl
from datamodules.rows import Row
from datamodules.wrong_input import WrongInput


class Prompts(Protocol):
    """What is asked of the datamodule."""

    rows: dict[str, Row]
    prompts: dict[str, Prompt]
    answering: list[str]

    def log_of(self, name: str) -> ResponseLog:
        """The responses of a model."""
        ...


class ResponseWriter(Callback):
    """Appends responses to their model's log; in the end joins them to rows of TRL's formats.

    A row of the data set has the prompt, and for each model a field of its name (``completion``, or ``chosen`` and
    ``rejected``). Left out, and counted: rows with an unfinished response (training would learn to stop in the middle),
    with an empty one, and pairs of two equal responses, which say nothing.

    Args:
        output: The data set, JSON lines. None: only the logs.
        keep_unfinished: Keep responses that were cut at ``max_new_tokens``; they are counted all the same.
    """

    def __init__(self, output: str | Path | None = None, *, keep_unfinished: bool = False):
        self.output = Path(output) if output is not None else None
        self.keep_unfinished = keep_unfinished
        self.final_metrics: dict[str, float] = {}
        self._sampled = 0

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Put the batch's responses on disk, each as soon as it is there."""
        for responses in outputs:
            self._write(trainer, responses)

    def _write(self, trainer: Trainer, outputs: Any) -> None:
        data: Prompts = trainer.datamodule  # type: ignore[attr-defined]
        rows = [
            {"id": place, "prompt": data.prompts[place], "response": text, "response_tokens": tokens, "finished": done}
            | {field: data.rows[place].fields[field] for field in ("key",) if field in data.rows[place].fields}
            for place, text, tokens, done in zip(*outputs[1:], strict=True)
        ]
        data.log_of(outputs.model).append(rows)
        self._sampled += len(rows)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the logs, once every model has answered."""
        trainer.strategy.barrier()
        self.final_metrics = {"sampled": self._sampled}
        if self.output is None or not trainer.is_global_zero:
            return
        data: Prompts = trainer.datamodule  # type: ignore[attr-defined]
        logs = {name: data.log_of(name).read() for name in data.answering}
        counts = {"rows": 0, "unfinished": 0, "empty": 0, "equal": 0}
        joined = []
        for place, row in data.rows.items():
            sampled = {name: log.get(place) for name, log in logs.items()}
            unfinished = any(response is not None and not response["finished"] for response in sampled.values())
            counts["unfinished"] += unfinished
            if unfinished and not self.keep_unfinished:
                continue
            answers = {name: _text(row, name, response) for name, response in sampled.items()}
            if any(not text.strip() for text in answers.values()):
                counts["empty"] += 1
            elif len(answers) > 1 and len(set(answers.values())) == 1:
                counts["equal"] += 1
            else:
                counts["rows"] += 1
                prompt = data.prompts[place]
                named = {name: as_completion(prompt, text) for name, text in answers.items()}
                joined.append({"id": place, "prompt": prompt, **named})
        if not joined:
            raise WrongInput(
                f"no row is left of {len(data.rows)}: {counts}",
                str(self.output),
                "raise max_new_tokens, or train longer",
            )
        write_jsonl(self.output, joined)
        self.final_metrics |= counts


def _text(row: Row, name: str, response: dict[str, Any] | None) -> str:
    """The sampled response, or the one that the data gave."""
    if response is not None:
        return response["response"]
    given = row.fields[name]
    return given if isinstance(given, str) else given[-1]["content"]
