"""What a sweep over λ has shown: variety against answerability, on a page, in a table and in a file."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table as ConsoleTable

from callbacks.report.figures import Point, scatter_with_intervals
from callbacks.report.lambda_numbers import (
    F1_MAY_FALL,
    HERO,
    PAIRWISE,
    QA_F1,
    Job,
    Row,
    over_seeds,
    read_jobs,
    summarise,
    tuned_nucleus,
)
from callbacks.report.page import Card, Section, Table, write_page
from callbacks.report.question_numbers import label, told, with_sign
from callbacks.statistics import Interval
from datamodules.responses import replace_file

log = logging.getLogger(__name__)
_OF_ROW = {"nll": "nll ↓", "top1_bleu": "Top-1", "oracle_bleu": "Oracle"}
_OF_START = ("Pairwise ↓", "− start", "QA F1", "− start")
_SETTINGS = ("λ", "lr", "dev Pairwise", "dev F1 − start", *_OF_START, *_OF_ROW.values())
_STAR = "*: the temperature of nucleus sampling that λ's rule chooses on development passages."
_METHODS = {
    "top1_bleu": "Top-1",
    "oracle_bleu": "Oracle",
    "self_bleu": "Self-BLEU ↓",
    "overall": "Overall",
    "qa_em": "QA EM",
    "nll": "nll ↓",
    "distinct_2": "distinct-2",
    "template_adherence": "adherence",
}


class LambdaReport(Callback):
    """At the end of the sweep: ``lambda.json``, ``report.html`` and a table, a row a λ and learning rate."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Summarise every job that has finished."""
        write_report(Path(config.hydra.sweep.dir))


def write_report(folder: Path) -> None:
    """See ``LambdaReport``; of the folder that holds the jobs' folders."""
    jobs = read_jobs(folder)
    if not jobs:
        log.warning("no job of the sweep has been evaluated under %s", folder)
        return
    rows = summarise(jobs)
    replace_file(folder / "lambda.json", json.dumps([_plain(row) for row in rows], indent=1) + "\n")
    seeds = len({job.seed for job in jobs})
    rule = (
        "Chosen on development passages: the lowest Pairwise BLEU among those whose judge F1 there is at most "
        f"{F1_MAY_FALL:g} points below the start's. All else is on test passages; 95 % intervals over seeds and "
        f"passages, with {seeds} {'seed' if seeds == 1 else 'seeds'} too narrow where seeds differ most."
    )
    fluency = "nll: nats a token of the questions under a language model that RAST did not train."
    sections = [
        Section("The trade-off", rule, [_figure(rows, jobs)]),
        Section("Every setting", fluency, tables=[_settings(rows)]),
    ]
    chosen = next((row for row in rows if row.chosen), None)
    if chosen is not None:
        ours = [job for job in jobs if (job.weight, job.lr) == (chosen.weight, chosen.lr)]
        sections.append(Section("The chosen setting against all methods", "", tables=_against(chosen, ours)))
    write_page(folder / "report.html", "What λ buys, and what it costs", _lead(chosen), _cards(chosen), sections)
    _print(rows)


def _plain(row: Row) -> dict[str, Any]:
    plain: dict[str, Any] = row._asdict() | {"pairwise": _numbers(row.pairwise), "f1": _numbers(row.f1)}
    plain["minus"] = {o: {k: _numbers(i) for k, i in found.items()} for o, found in row.minus.items()}
    return plain


def _numbers(interval: Interval) -> list[float]:
    return [bound.item() for bound in interval]


def _told(interval: Interval, sign: bool = False) -> str:
    value, low, high = _numbers(interval)
    return f"{with_sign(value) if sign else told(value)}\n{told(low)} to {told(high)}"


def _mean(row: Row, method: str, key: str) -> str:
    return told(row.means.get(f"{method}/{key}"), 3 if key == "nll" else 1)


def _lead(chosen: Row | None) -> str:
    if chosen is None:
        return f"No λ kept the judge's F1 within {F1_MAY_FALL:g} points of the start's on development passages."
    parts = []
    for other, found in chosen.minus.items():
        value, low, high = _numbers(found[PAIRWISE])
        way = "more varied than" if high < 0 else "less varied than" if low > 0 else "not told apart in variety from"
        parts.append(f"{way} {label(other)} ({with_sign(value)})")
    f1 = _numbers(chosen.minus[next(iter(chosen.minus))][QA_F1])
    first = label(next(iter(chosen.minus)))
    return f"At λ = {chosen.weight:g}, RAST's questions are {'; '.join(parts)}; F1 against {first}: {with_sign(f1[0])}."


def _cards(chosen: Row | None) -> list[Card]:
    if chosen is None:
        return []
    cards = [Card("λ", f"{chosen.weight:g}", f"lr {chosen.lr:g}, {chosen.seeds} seeds")]
    for name, title in ((PAIRWISE, "Pairwise BLEU"), (QA_F1, "judge F1")):
        value, low, high = _numbers(chosen.minus["fine_tuned"][name])
        cards.append(Card(f"{title} − start", f"{with_sign(value)}", f"{told(low)} to {told(high)}, test"))
    return cards


def _figure(rows: Sequence[Row], jobs: Sequence[Job]) -> str:
    """RAST at every λ of the chosen (or else the first) learning rate, and the methods that λ does not touch."""
    lr = next((row.lr for row in rows if row.chosen), rows[0].lr)
    dots = [_dot(f"λ {row.weight:g}", row.pairwise, row.f1) for row in rows if row.lr == lr]
    by_seed = list({job.seed: job for job in jobs}.values())
    for other in rows[0].minus:
        found = over_seeds(by_seed, other)
        dots.append(_dot(label(other), found[PAIRWISE], found[QA_F1]))
    return scatter_with_intervals(
        dots, "Pairwise BLEU (lower is more varied)", f"F1 of the judge's answers (%), lr {lr:g}"
    )


def _dot(name: str, x: Interval, y: Interval) -> Point:
    (at_x, *x_ends), (at_y, *y_ends) = _numbers(x), _numbers(y)
    return Point(name, at_x, at_y, (x_ends[0], x_ends[1]), (y_ends[0], y_ends[1]))


def _cells(row: Row) -> list[str]:
    start = row.minus["fine_tuned"]
    return [
        f"{row.weight:g}{' *' if row.chosen else ''}",
        f"{row.lr:g}",
        told(row.dev_pairwise),
        with_sign(row.dev_f1 - row.dev_f1_of_start),
        _told(row.pairwise),
        _told(start[PAIRWISE], sign=True),
        _told(row.f1),
        _told(start[QA_F1], sign=True),
        *(_mean(row, HERO, name) for name in _OF_ROW),
    ]


def _settings(rows: Sequence[Row]) -> Table:
    caption = "*: chosen. − start: RAST less the fine-tuned start, passage by passage."
    return Table(_SETTINGS, [_cells(row) for row in rows], caption)


def _against(chosen: Row, jobs: Sequence[Job]) -> list[Table]:
    names = {name: label(name) for name in [HERO, *chosen.minus]}
    caption = "Means over seeds."
    if tuned := tuned_nucleus(chosen):
        names[tuned] += " *"
        caption += f" {_STAR}"
    shown = []
    for name, title in names.items():
        found = over_seeds(jobs, name)
        rest = [_mean(chosen, name, key) for key in _METHODS]
        shown.append([title, _told(found[PAIRWISE]), _told(found[QA_F1]), *rest])
    true = [_mean(chosen, "reference", key) for key in (QA_F1, *_METHODS)]
    shown.append(["true questions", "–", *true])
    less = [
        [names[other], *(_told(found[name], sign=True) for name in (PAIRWISE, QA_F1))]
        for other, found in chosen.minus.items()
    ]
    return [
        Table(["method", "Pairwise ↓", "QA F1", *_METHODS.values()], shown, caption),
        Table(["RAST minus", "Pairwise ↓", "QA F1"], less, "Differences on the same passages."),
    ]


def _print(rows: Sequence[Row]) -> None:
    table = ConsoleTable(*_SETTINGS, title="RAST over λ; *: chosen on development passages; 95 % intervals")
    for row in rows:
        table.add_row(*_cells(row))
    Console(width=150).print(table)
