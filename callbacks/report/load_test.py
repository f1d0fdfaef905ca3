"""The page of a load test, from what its stages left on disk."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from callbacks.report import load_sections as sections
from callbacks.report.goodput_numbers import told_number, told_rate, told_seconds
from callbacks.report.load_figures import curve_name
from callbacks.report.page import Card, Section, write_page


def write_load_report(run_dir: Path, metrics: Mapping[str, float], config_yaml: str) -> Path:
    """Write ``report.html`` into a run's folder.

    A section whose data are odd is named at the end of the page instead of ending the run.

    Args:
        run_dir: The run's folder, with ``score_load/curves.json``.
        metrics: The run's flat metrics; the page is drawn from the file.
        config_yaml: The config.

    Returns:
        The page's path.

    Raises:
        OSError: Where the page cannot be written.
    """
    notes: list[str] = []
    content: Mapping[str, Any] = {"curves": [], "settings": {}}
    try:
        content = json.loads((run_dir / "score_load" / "curves.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as broken:
        notes.append(f"score_load/curves.json: {type(broken).__name__} {broken}.")
    curves, settings = content["curves"], content["settings"]
    builders: list[Callable[..., Section | None]] = [
        sections.over_the_rate,
        sections.peaks_by_alpha,
        sections.numbers,
    ]
    shown: list[Section] = []
    for build in builders:
        try:
            section = build(curves, settings)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as broken:  # odd data, not the run
            notes.append(f"A section could not be drawn: {type(broken).__name__} {broken}.")
        else:
            shown += [section] if section else []
    if notes:
        shown.append(Section("What could not be read", "\n\n".join(notes)))
    path = run_dir / "report.html"
    write_page(path, "Smooth goodput under load", _lead(curves), _cards(curves, settings), shown, config_yaml)
    return path


def _best(curves: sections.Curves) -> Mapping[str, Any] | None:
    return max(curves, key=lambda one: sections.peak_of(one)["figures"]["smooth_goodput_tps"]["mean"], default=None)


def _lead(curves: sections.Curves) -> str:
    """The outcome in one sentence."""
    best = _best(curves)
    if best is None:
        return "This run holds no load test."
    peak, last = sections.peak_of(best), best["points"][-1]
    text = (
        f"{curve_name(best, curves)} serves its readers best at {told_number(peak['rps'])} requests/s, with "
        f"{told_rate(peak['figures']['smooth_goodput_tps']['mean'])} of smooth goodput"
    )
    if peak is last:
        return f"{text}, the highest rate that was tried."
    lost = 1 - last["figures"]["smooth_goodput_tps"]["mean"] / peak["figures"]["smooth_goodput_tps"]["mean"]
    return f"{text}; at {told_number(last['rps'])} requests/s, {100 * lost:.0f}\u00a0% of that is lost to waiting."


def _cards(curves: sections.Curves, settings: Mapping[str, Any]) -> list[Card]:
    """Peak and what lies at it, a card a curve."""
    found = []
    for curve in curves[:4]:
        peak = sections.peak_of(curve)
        figures = peak["figures"]
        spread = figures["smooth_goodput_tps"]
        note = (
            f"at {told_number(peak['rps'])} requests/s; {told_number(spread['low'])} to {told_number(spread['high'])} "
            f"over seeds; idle p99 {told_seconds(figures.get('idle_p99_s', {}).get('mean'))}; "
            f"reading {settings['reading_speed_tps']:g} tokens/s, α = {settings['alpha']:g}"
        )
        found.append(Card(f"Peak, {curve_name(curve, curves)}", told_rate(spread["mean"]), note))
    return found
