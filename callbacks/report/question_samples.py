"""What the policy asked at the last validation of its training, question by question."""

from collections.abc import Mapping, Sequence
from typing import Any

from callbacks.report.page import Section, Table
from callbacks.report.question_numbers import told

_COLUMNS = {"template": "template", "question": "question", "answer": "answer", "qa_answer": "the reward's QA model"}


def last_samples(rows: Sequence[Mapping[str, Any]]) -> Section | None:
    """A table of the samples, as they came.

    Args:
        rows: Of ``RunFiles.samples``.
    """
    if not rows:
        return None
    shown = [
        [*(str(row.get(field) or "–") for field in _COLUMNS), told(row.get("reward"), 2), str(row.get("example", ""))]
        for row in rows
    ]
    steps = ", ".join(dict.fromkeys(str(row.get("step", "?")) for row in rows))
    text = (
        f"Sampled at the last validation in training (step {steps}), the first {len(rows)} and not chosen: each "
        "question, the template that was drawn for it, the answer it should have, what the reward's QA model answers, "
        "and the weighted reward."
    )
    return Section("Samples of the training", text, tables=[Table([*_COLUMNS.values(), "reward", "passage"], shown)])
