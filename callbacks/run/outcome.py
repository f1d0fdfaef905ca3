"""What a run has come to: ``metrics.json`` and the table it ends with."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from datamodules.responses import replace_file

CONSOLE_WIDTH = 150
LOG_COLUMNS = (
    ("smooth_goodput_tps", "smooth goodput\ntokens/s"),
    ("token_throughput_tps", "throughput\ntokens/s"),
    ("goodput_ttft_tbt_tps", "goodput\nTTFT+TBT"),
    ("tbt_p99_s", "TBT\np99 s"),
    ("idle_p50_s", "idle\np50 s"),
    ("idle_p99_s", "idle\np99 s"),
    ("requests", "requests"),
    ("requests_failed", "failed"),
)
"""Of a latency log's numbers, those in the table, the first of which tells that there is a log."""


QUESTION_COLUMNS = ("top1_bleu", "oracle_bleu", "pairwise_bleu", "self_bleu", "overall", "qa_em", "qa_f1")
"""Of what is known of a method's questions, what the table shows; the third tells that there is such a method."""


def write_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Write ``metrics.json``, flat, sorted by name. Numbers that are not finite are written as null."""
    known = {key: value if abs(value) < float("inf") else None for key, value in sorted(metrics.items())}
    replace_file(folder / "metrics.json", json.dumps(known, indent=1) + "\n")


def print_table(metrics: Mapping[str, float]) -> None:
    """Print a row a student, or a row a load or a latency log, or, where there is none of them, a row a metric."""
    console = Console(width=None if Console().is_terminal else CONSOLE_WIDTH)
    students: dict[str, dict[str, float]] = defaultdict(dict)
    for key, value in metrics.items():
        group, _, rest = key.partition("/")
        name, _, column = rest.rpartition("/")
        if group == "student":
            students[name][column] = value
        elif group == "teacher" and rest.startswith(("accuracy", "response_tokens", "peak_")):
            students["teacher"][rest] = value
    logs = [key.rpartition("/")[0] for key in metrics if re.fullmatch(f"[^/]+/{LOG_COLUMNS[0][0]}", key)]
    loads = [
        key.rpartition("/")[0] for key in metrics if re.fullmatch(f"[^/]+/(load|rate)[^/]+/{LOG_COLUMNS[0][0]}", key)
    ]
    if logs and not students:
        table = log_table(metrics, logs)
    elif loads and not students:
        table = load_table(metrics, loads)
    elif methods := [key.rpartition("/")[0] for key in metrics if key.endswith(f"/{QUESTION_COLUMNS[2]}")]:
        table = question_table(metrics, methods)
    elif not any(name != "teacher" for name in students):
        table = Table("metric", "value")
        for key, value in sorted(metrics.items()):
            table.add_row(key, f"{value:.4g}")
    else:
        table = student_table(students)
    console.print(table)
    for name, values in students.items():
        if sentence := in_a_sentence(name, values):
            console.print(sentence)


def in_a_sentence(student: str, values: Mapping[str, float]) -> str | None:
    """How well a student talks and how well it streams, where both were measured."""
    if not {"win_rate", "lose_rate", "peak_goodput_ratio"} <= values.keys():
        return None
    low, high = (values[f"peak_goodput_ratio_{end}"] for end in ("low", "high"))
    return (
        f"The student {student} wins {100 * values['win_rate']:.0f} % and loses {100 * values['lose_rate']:.0f} % "
        f"against its teacher, and serves {values['peak_goodput_ratio']:.2f} times its smooth goodput "
        f"({low:.2f} to {high:.2f} over seeds, each at its best rate)."
    )


def student_table(students: Mapping[str, Mapping[str, float]]) -> Table:
    """A row a student; a number with an interval shows it."""
    shown = list(
        dict.fromkeys(c for values in students.values() for c in values if not c.endswith(("_ci_low", "_ci_high")))
    )
    shown = [
        column
        for column in shown
        if "_gain_over_" not in column
        and not column.endswith(("_ratio_low", "_ratio_high"))
        and (column != "invalid_rate" or any(v.get(column) for v in students.values()))
    ]
    table = Table("student", *(column.replace("_", " ") for column in shown))
    for name, values in students.items():
        table.add_row(name, *(_cell(values, column) for column in shown))
    return table


def question_table(metrics: Mapping[str, float], methods: Sequence[str]) -> Table:
    """A row a method that asked questions, and a row a comparison; per cent."""
    table = Table("questions by", *(column.replace("_", " ") for column in QUESTION_COLUMNS))
    rows = {name: {key: value for key, value in metrics.items() if key.startswith(f"{name}/")} for name in methods}
    for name, values in rows.items():
        cells = {key.removeprefix(f"{name}/"): value for key, value in values.items()}
        table.add_row(name, *(_cell(cells, column) for column in QUESTION_COLUMNS))
    marker = f"{QUESTION_COLUMNS[2]}_minus_"
    for key in metrics:
        name, _, rest = key.rpartition("/")
        if rest.startswith(marker) and "_ci_" not in rest:
            other = rest.removeprefix(marker)
            cells = {
                k.removeprefix(f"{name}/").replace(f"_minus_{other}", ""): metrics[k] for k in rows[name] if other in k
            }
            table.add_row(f"{name} − {other}", *(_cell(cells, column) for column in QUESTION_COLUMNS))
    return table


def load_table(metrics: Mapping[str, float], loads: Sequence[str]) -> Table:
    """A row a load of a served model."""
    table = Table(Column("load", overflow="fold"), "offered\nrequests/s", *(header for _, header in LOG_COLUMNS))
    columns = ("offered_rps", *(key for key, _ in LOG_COLUMNS))
    for name in loads:
        table.add_row(
            name, *(f"{metrics[f'{name}/{key}']:.4g}" if f"{name}/{key}" in metrics else "–" for key in columns)
        )
    return table


def log_table(metrics: Mapping[str, float], logs: Sequence[str]) -> Table:
    """A row a latency log, under the settings that its figures depend on."""
    told: dict[str, None] = {}
    table = Table(Column("log", overflow="fold"), *(header for _, header in LOG_COLUMNS))
    for name in logs:
        table.add_row(name, *(f"{metrics[f'{name}/{key}']:.4g}".replace("nan", "–") for key, _ in LOG_COLUMNS))
        chosen = [key.rpartition("/")[2] for key in metrics if key.startswith((f"{name}/penalty_", f"{name}/origin_"))]
        speed, alpha = metrics[f"{name}/reading_speed_tps"], metrics[f"{name}/alpha"]
        words = ", ".join(choice.replace("_", " ", 1) for choice in sorted(chosen, reverse=True))
        told[f"reading speed {speed:g} tokens/s, α {alpha:g}, {words}"] = None
    table.caption = "; ".join(told)
    return table


def _cell(values: Mapping[str, float], column: str) -> str:
    if column not in values:
        return ""
    low, high = values.get(f"{column}_ci_low"), values.get(f"{column}_ci_high")
    number = f"{values[column]:.3g}"
    return number if low is None or high is None else f"{number}\n[{low:.3g}, {high:.3g}]"
