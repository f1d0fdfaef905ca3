"""A distribution, and where in it something happens."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from callbacks.report.figure_style import MUTED, PAPER, SERIES, new_figure, only_horizontal_grid, styled, to_svg


@styled
def histogram_figure(
    values: Sequence[float], x_label: str, *, markers: Mapping[str, float] | None = None, count_label: str = "pairs"
) -> str:
    """A distribution, with vertical lines where something happens.

    Args:
        values: The numbers, in the axis' unit.
        x_label: What they are, with the unit.
        markers: Label → position. One far from all values is told at the edge, so that it does not squeeze the rest.
        count_label: What is counted.
    """
    figure = new_figure(2.7)
    axes = figure.subplots()
    low, high = min(values), max(values)
    axes.hist(
        values, bins=min(60, max(8, round(2 * len(values) ** 0.4))), color=SERIES[0], edgecolor=PAPER, linewidth=0.5
    )
    _draw_markers(axes, markers or {}, low, high)
    axes.set(xlabel=x_label, ylabel=count_label)
    only_horizontal_grid(axes)
    return to_svg(figure, f"Distribution of {x_label}")


def _draw_markers(axes: Axes, markers: Mapping[str, float], low: float, high: float) -> None:
    """Dashed lines with their labels above the axes, on as many levels as keep them apart."""
    reach = 0.6 * ((high - low) or 1.0)
    for position in markers.values():
        if low - reach <= position <= high + reach:
            axes.axvline(position, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    left, right = axes.get_xlim()
    ends: list[float] = []  # how far to the right each level is taken, as a share of the axes
    for label, position in sorted(markers.items(), key=lambda marker: marker[1]):
        place = min(max((position - left) / (right - left), 0.0), 1.0)
        text = f"← {label}" if position < left else f"{label} →" if position > right else label
        width = 0.0085 * len(text)  # generous: it costs a level, where too little would cost the reading
        start = min(max(place - width / 2, 0.0), 1.0 - width)
        level = next((level for level, end in enumerate(ends) if end <= start), len(ends))
        ends[level : level + 1] = [start + width]
        axes.text(
            start + width / 2, 1.03 + 0.1 * level, text, transform=axes.transAxes, ha="center", va="bottom",
            color=MUTED, fontsize=8,
        )  # fmt: skip
