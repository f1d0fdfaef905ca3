"""How well students talk beside how well they stream: the frontier."""

from collections.abc import Mapping
from typing import Any

from callbacks.report.figures import Point, scatter_with_intervals
from callbacks.report.goodput_numbers import told_number, told_reader, told_seconds
from callbacks.report.load_figures import rates_over_load_figure
from callbacks.report.load_sections import peak_of
from callbacks.report.page import Section, Table
from callbacks.report.student_numbers import StudentNumbers, percent


def talk_and_stream(numbers: StudentNumbers, load: Mapping[str, Any]) -> Section | None:
    """Preference against smooth goodput, the curves behind it, and both in a table.

    Args:
        numbers: Of the run.
        load: ``score_load/curves.json``, empty where nothing was served.
    """
    curves = load.get("curves", [])
    if not curves:
        return None
    shown = {curve["model"]: curve for curve in reversed(curves)}  # of several schedulers the first
    points, rows = [], []
    for model, curve in reversed(shown.items()):
        peak, last = peak_of(curve), curve["points"][-1]
        spread = peak["figures"]["smooth_goodput_tps"]
        teacher = model == "teacher"
        quality = 0.0 if teacher else numbers.get(model, "preference_rate")
        interval = None if teacher else numbers.interval(model, "preference_rate")
        label = numbers.label(model)
        if quality is not None:
            points.append(Point(label, spread["mean"], quality, (spread["low"], spread["high"]), interval))
        rows.append(
            [
                label,
                "–" if teacher else percent(quality),
                percent(numbers.get(model, "accuracy")),
                f"{told_number(spread['mean'])}\n{told_number(spread['low'])} to {told_number(spread['high'])}",
                told_number(peak["rps"]),
                told_number(last["figures"]["smooth_goodput_tps"]["mean"]),
                told_seconds(last["figures"].get("idle_p99_s", {}).get("mean")),
            ]
        )
    header = ["model", "preference", "accuracy", "peak smooth goodput", "at requests/s"]
    header += ["smooth goodput, full load", "idle p99, full load"]
    highest = told_number(curves[0]["points"][-1]["rps"])
    caption = (
        "Smooth goodput in tokens/s; small: range over seeds of arrivals. Full load: the highest rate that was tried, "
        f"{highest} requests/s."
    )
    text = (
        "Up is preferred more often to the teacher, right is worth more to readers on the same machine: each model at "
        f"the rate at which it serves best. Here: {told_reader(load['settings'])}.\n\n{_sentence(numbers, list(shown))}"
    )
    figures = [rates_over_load_figure(curves)]
    if len(points) > 1:
        x = "peak smooth goodput (tokens/s)"
        figures.insert(0, scatter_with_intervals(points, x, "preference rate", percent_y=True))
    return Section("How well it talks, how well it streams", text.strip(), figures, [Table(header, rows, caption)])


def _sentence(numbers: StudentNumbers, models: list[str]) -> str:
    told = []
    for model in models:
        win, ratio = numbers.get(model, "win_rate"), numbers.get(model, "peak_goodput_ratio")
        low, high = (numbers.get(model, f"peak_goodput_ratio_{end}") for end in ("low", "high"))
        if model != "teacher" and None not in (win, ratio, low, high):
            told.append(
                f"{numbers.label(model)} wins {percent(win, 0)} of the prompts against its teacher and serves "
                f"{ratio:.2f} times its smooth goodput ({low:.2f} to {high:.2f} over seeds)."
            )
    return " ".join(told)
