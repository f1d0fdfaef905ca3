"""The page of a RAST run: how varied its questions are, and whether they still ask for the answer."""

from collections.abc import Mapping
from pathlib import Path

from callbacks.report import question_sections as sections
from callbacks.report.page import Card, build_sections, unread, write_page
from callbacks.report.question_cautions import what_to_know
from callbacks.report.question_claims import START, lead
from callbacks.report.question_examples import side_by_side
from callbacks.report.question_numbers import (
    HERO,
    LOWER_IS_BETTER,
    QuestionNumbers,
    label,
    told,
    told_bounds,
    with_sign,
)
from callbacks.report.question_samples import last_samples
from callbacks.report.run_files import RunFiles


def write_question_report(run_dir: Path, metrics: Mapping[str, float], config_yaml: str) -> Path:
    """Write ``report.html`` into a run's folder.

    Everything is optional: a section without data is left out, and data that cannot be read are named at the end of
    the page instead of ending the run.

    Args:
        run_dir: The run's folder, with ``STAGE/curve.jsonl``, ``rl/samples.jsonl`` and ``evaluate/questions.jsonl``
            where those stages ran: the last a row a passage, ``{"id", "context", "answer", "answer_start", "reference",
            "methods": {METHOD: [{"question", "template", "score", "answered", …}, …]}}``, null for what there is not.
        metrics: The run's flat metrics, see ``QuestionNumbers``.
        config_yaml: The resolved config.

    Returns:
        The page's path.

    Raises:
        OSError: Where the page cannot be written.
    """
    files, numbers = RunFiles(run_dir), QuestionNumbers(metrics)
    rows, curves = files.questions(), files.curves()
    shown, broken = build_sections(
        [
            lambda: sections.trade_off(numbers),
            lambda: sections.every_number(numbers),
            lambda: what_to_know(numbers, rows),
            lambda: side_by_side(rows),
            lambda: sections.training(curves),
            lambda: last_samples(files.samples()),
        ]
    )
    shown += unread(numbers.notes + files.notes + broken)
    path = run_dir / "report.html"
    title = "RAST: questions in retrieved styles"
    write_page(path, title, lead(numbers), cards(numbers), shown, config_yaml)
    return path


def cards(numbers: QuestionNumbers) -> list[Card]:
    """Key figures of RAST, each beside what it is to be held against."""
    wanted = (
        ("Pairwise BLEU", "pairwise_bleu"),
        ("F1 of the judge's answers", "qa_f1"),
        ("Top-1 BLEU", "top1_bleu"),
        ("Oracle BLEU", "oracle_bleu"),
    )
    found = []
    for name, metric in wanted:
        if (value := numbers.get(HERO, metric)) is None:
            continue
        difference, start = numbers.difference(HERO, START, metric), numbers.get(START, metric)
        about = ["lower is more varied"] if metric in LOWER_IS_BETTER else []
        about += [f"{label(START)} {told(start)}"] if start is not None else []
        if difference and difference.interval:
            about.append(f"difference {with_sign(difference.value)}, 95 % interval {told_bounds(difference.interval)}")
        elif bounds := numbers.interval(HERO, metric):
            about.append(f"95 % interval {told_bounds(bounds)}")
        found.append(Card(name, told(value), "; ".join(about)))
    return found
