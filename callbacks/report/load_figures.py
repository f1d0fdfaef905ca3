"""Figures of load tests: smooth goodput over the rate, and what alpha does to its peak."""

from collections.abc import Mapping, Sequence
from typing import Any

from callbacks.report.figure_style import INK, MUTED, PAPER, SERIES, new_figure, only_horizontal_grid, styled, to_svg


def curve_name(curve: Mapping[str, Any], curves: Sequence[Mapping[str, Any]]) -> str:
    """What tells a curve from the others: its model, its scheduler, or both."""
    models, schedulers = {one["model"] for one in curves}, {one["scheduler"] for one in curves}
    parts = [curve["model"]] if len(models) > 1 or len(schedulers) == 1 else []
    return ", ".join(parts + ([curve["scheduler"]] if len(schedulers) > 1 else []))


@styled
def rates_over_load_figure(curves: Sequence[Mapping[str, Any]]) -> str:
    """Smooth goodput (with the range over seeds, its peak marked) and throughput over the rate; beside it, the waits.

    Args:
        curves: As `callbacks.serving.rate_curves` leaves them.
    """
    figure = new_figure(3.2)
    worth, waits = figure.subplots(1, 2, width_ratios=[1.55, 1])
    for number, curve in enumerate(curves):
        colour, points = SERIES[number % len(SERIES)], curve["points"]
        rates = [point["rps"] for point in points]
        spread = [point["figures"]["smooth_goodput_tps"] for point in points]
        name = curve_name(curve, curves)
        worth.fill_between(
            rates,
            [one["low"] for one in spread],
            [one["high"] for one in spread],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
        worth.plot(rates, [one["mean"] for one in spread], color=colour, marker="o", markersize=3, label=name)
        delivered = [point["figures"]["token_throughput_tps"]["mean"] for point in points]
        worth.plot(rates, delivered, color=colour, linewidth=0.9, linestyle=(0, (3, 2)))
        best = points[curve["peaks"][curve["alpha"]]]
        top = best["figures"]["smooth_goodput_tps"]["mean"]
        worth.plot([best["rps"]], [top], marker="o", markersize=8, color=PAPER, markeredgecolor=colour, zorder=4)
        waits.plot(
            rates, [point["figures"]["idle_p99_s"]["mean"] for point in points], color=colour, marker="o", markersize=3
        )
    worth.plot([], [], color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)), label="delivered (throughput)")
    worth.axhline(0, color=MUTED, linewidth=0.6)
    worth.set(xlabel="requests offered a second", ylabel="smooth goodput (tokens/s)")
    waits.set(xlabel="requests offered a second", ylabel="idle latency, p99 (s)")
    for axes in (worth, waits):
        axes.margins(x=0.03)
        axes.set_xlim(left=0)
        only_horizontal_grid(axes)
    handles, names = worth.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=4, handlelength=1.6, columnspacing=1.4)
    told = ", ".join(curve_name(curve, curves) for curve in curves)
    return to_svg(figure, f"Smooth goodput and p99 idle latency over the offered rate: {told}")


@styled
def alpha_figure(curve: Mapping[str, Any], title: str) -> str:
    """Smooth goodput over the rate for several alphas, each with its peak.

    Args:
        curve: One of them.
        title: Its name.
    """
    figure = new_figure(2.7, half=True)
    axes = figure.subplots()
    points = curve["points"]
    rates = [point["rps"] for point in points]
    for number, (alpha, peak) in enumerate(curve["peaks"].items()):
        values, colour = [point["by_alpha"][alpha] for point in points], SERIES[number % len(SERIES)]
        axes.plot(rates, values, color=colour, label=f"α = {alpha}", linewidth=2.2 if alpha == curve["alpha"] else 1.2)
        axes.plot(
            [rates[peak]], [values[peak]], marker="o", markersize=6, color=colour, markeredgecolor=PAPER, zorder=4
        )
    highest = max(max(point["by_alpha"].values()) for point in points)
    axes.set_ylim(bottom=-0.25 * highest, top=1.08 * highest)
    axes.set_xlim(left=0)
    axes.axhline(0, color=MUTED, linewidth=0.6)
    axes.set(xlabel="requests offered a second", ylabel="smooth goodput (tokens/s)")
    axes.set_title(title, fontsize=8.5, color=INK, loc="left")
    only_horizontal_grid(axes)
    figure.legend(loc="outside lower center", ncols=3, handlelength=1.3, columnspacing=1.2)
    return to_svg(figure, f"Smooth goodput of {title} over the rate, for several alphas")
