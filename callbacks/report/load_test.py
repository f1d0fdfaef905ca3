"""The page of a load test, from what its stages left on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from callbacks.report import load_sections as sections
from callbacks.report.goodput_numbers import told_number, told_rate, told_seconds
from callbacks.report.load_figures import curve_name
from callbacks.report.page import Card, build_sections, unread, write_page
from callbacks.report.run_files import RunFiles


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
    files = RunFiles(run_dir)
    content = files.load_curves()
    curves, settings = content.get("curves", []), content.get("settings", {})
    shown, broken = build_sections(
        [
            lambda: sections.over_the_rate(curves, settings),
            lambda: sections.peaks_by_alpha(curves),
            lambda: sections.numbers(curves, settings),
        ]
    )
    shown += unread(files.notes + broken)
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
    worth, left = (point["figures"]["smooth_goodput_tps"]["mean"] for point in (peak, last))
    if worth <= 0:
        return f"{text}: to these readers no rate was worth more than nothing."
    lost = "all" if left <= 0 else f"{100 * (1 - left / worth):.0f}\u00a0%"
    return f"{text}; at {told_number(last['rps'])} requests/s, {lost} of that is lost to waiting."


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
