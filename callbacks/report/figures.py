"""Figures from plain numbers: each function takes data and labels and returns one SVG element as text."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from callbacks.report.figure_style import (
    PAPER,
    SERIES,
    in_percent,
    new_figure,
    only_horizontal_grid,
    styled,
    to_svg,
)
from callbacks.report.label_placement import Label, place_labels

_MOST_POINTS = 300  # of a curve: more than the page has pixels to show


class Point(NamedTuple):
    """One thing measured twice.

    Attributes:
        label: Its name, written beside it.
        x: Horizontal value, in the axis' unit.
        y: Vertical value, in the axis' unit.
        x_interval: Low and high bound of x, or None.
        y_interval: Low and high bound of y, or None.
    """

    label: str
    x: float
    y: float
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None


@styled
def scatter_with_intervals(
    points: Sequence[Point],
    x_label: str,
    y_label: str,
    *,
    percent_x: bool = False,
    percent_y: bool = False,
    colours: Mapping[str, str] | None = None,
) -> str:
    """Labelled points with an interval in each direction, e.g. quality against divergence, or a frontier.

    Args:
        points: What was measured.
        x_label: What x is, with its unit.
        y_label: What y is, with its unit.
        percent_x: Whether x is a fraction to be shown in percent.
        percent_y: Whether y is.
        colours: Label → colour, from ``SERIES``; a label without one takes its turn.
    """
    figure = new_figure(3.5)
    axes = figure.subplots()
    for number, point in enumerate(points):
        draw_point(axes, point, _colour(colours, point.label, number))
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.margins(0.12)
    for axis, percent in ((axes.xaxis, percent_x), (axes.yaxis, percent_y)):
        if percent:
            in_percent(axis)
    labels = [Label(p.label, p.x, p.y, _colour(colours, p.label, n)) for n, p in enumerate(points)]
    whiskers = [(*p.x_interval, p.y, p.y) for p in points if p.x_interval]
    whiskers += [(p.x, p.x, *p.y_interval) for p in points if p.y_interval]
    place_labels(axes, labels, whiskers)
    return to_svg(figure, f"{y_label} against {x_label}: {', '.join(point.label for point in points)}")


@styled
def lines_figure(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    *,
    percent_y: bool = False,
    half: bool = False,
    colours: Mapping[str, str] | None = None,
) -> str:
    """Named lines; a NaN leaves a gap.

    Args:
        lines: Name → x values and y values, in the axes' units.
        x_label: What x is, with its unit.
        y_label: What y is, with its unit.
        percent_y: Whether y is a fraction to be shown in percent.
        half: Whether it takes half of the page's width.
        colours: Name → colour, from ``SERIES``; a name without one takes its turn.
    """
    figure = new_figure(2.5, half=half)
    axes = figure.subplots()
    for number, (name, (x, y)) in enumerate(lines.items()):
        dashes = "-" if number < len(SERIES) else "--"
        axes.plot(
            x, y, label=name, color=_colour(colours, name, number), linestyle=dashes, marker="o" if len(x) == 1 else ""
        )
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.margins(x=0.02)
    only_horizontal_grid(axes)
    if percent_y:
        in_percent(axes.yaxis)
    if len(lines) > 1:
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3 if half else 6, handlelength=1.3, columnspacing=1.4
        )
    return to_svg(figure, f"{y_label} against {x_label}: {', '.join(lines)}")


def curves_figure(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    y_label: str,
    *,
    x_label: str = "step",
    percent_y: bool = False,
    half: bool = False,
    colours: Mapping[str, str] | None = None,
) -> str:
    """Training curves; a long one is drawn as the means of equal stretches of steps.

    Args:
        curves: Name → steps in order and the value at each.
        y_label: What the value is, with its unit.
        x_label: What the steps count.
        percent_y: Whether the value is a fraction to be shown in percent.
        half: Whether it takes half of the page's width.
        colours: Name → colour, from ``SERIES``; a name without one takes its turn.
    """
    thinned = {name: (_stretches(steps), _stretches(values)) for name, (steps, values) in curves.items()}
    return lines_figure(thinned, x_label, y_label, percent_y=percent_y, half=half, colours=colours)


def _colour(colours: Mapping[str, str] | None, name: str, number: int) -> str:
    """The colour that a name keeps from figure to figure, else the next one."""
    return (colours or {}).get(name, SERIES[number % len(SERIES)])


def _stretches(values: Sequence[float]) -> list[float]:
    """Means of so many neighbours that at most ``_MOST_POINTS`` remain."""
    size = -(-len(values) // _MOST_POINTS) or 1
    return [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]


def draw_point(axes: Axes, point: Point, colour: str) -> None:
    """A dot with its intervals; one that is not known has no whisker."""
    for interval, across in ((point.x_interval, True), (point.y_interval, False)):
        if interval:
            x, y = (interval, (point.y, point.y)) if across else ((point.x, point.x), interval)
            axes.plot(x, y, color=colour, linewidth=1.5, alpha=0.55)
    axes.plot(point.x, point.y, "o", color=colour, markersize=6, markeredgecolor=PAPER, markeredgewidth=0.8)
