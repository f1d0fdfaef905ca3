"""Figures of latency logs: deliveries against the reader, waits, readers of other speeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from callbacks.report.figure_style import (
    INK,
    LOSE,
    MUTED,
    PAPER,
    SERIES,
    new_figure,
    only_horizontal_grid,
    styled,
    to_svg,
)
from callbacks.report.goodput_numbers import told_number, told_seconds

_TICKS = {0.01: "10 ms", 0.1: "0.1 s", 1.0: "1 s", 10.0: "10 s", 60.0: "1 min", 600.0: "10 min", 3600.0: "1 h"}


@styled
def deliveries_figure(deliveries: Mapping[str, Any], speed: float, origin: str, title: str) -> str:
    """Tokens delivered over time beside the reader's line, for the worst, the median and the best request.

    Args:
        deliveries: ``worst``, ``median`` and ``best``, as ``callbacks.goodput.deliveries`` leaves them.
        speed: Of the reader, tokens a second.
        origin: ``commit`` or ``first_token``: where the reader's line starts.
        title: Of the log.
    """
    names = [name for name in ("worst", "median", "best") if name in deliveries]
    figure = new_figure(2.45)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        one = deliveries[name]
        start = one["first_s"] if origin == "first_token" else 0.0
        times, tokens, total = one["time_s"], one["token"], one["tokens"]
        right = 1.04 * max(times[-1], start + 1 / speed)
        axes.step([0, *times, right], [0, *tokens, total], where="post", color=SERIES[0])
        end = min(right, start + total / speed)
        axes.plot([start, end], [0, (end - start) * speed], color=MUTED, linewidth=1.1, linestyle=(0, (4, 2)))
        token, came = one["latest"]
        if one["idle_s"] > 0:
            due = start + token / speed
            axes.plot([due, came], [token, token], color=LOSE, linewidth=2.4, marker="|", markersize=6)
        waits = f"waits {told_seconds(one['idle_s'])}" if one["idle_s"] > 0 else "never waits"
        label = {"worst": "Worst", "median": "Median", "best": "Best"}[name]
        axes.set_title(f"{label}: its reader {waits}", fontsize=8.5, color=INK, loc="left")
        axes.set(xlim=(0, right), ylim=(0, 1.06 * total), xlabel="seconds since submission")
        axes.yaxis.get_major_locator().set_params(integer=True)
        only_horizontal_grid(axes)
    panels[0].set_ylabel("tokens")
    handles = [
        panels[0].plot([], [], color=SERIES[0], label="tokens delivered")[0],
        panels[0].plot([], [], color=MUTED, linewidth=1.1, linestyle=(0, (4, 2)), label="what the reader could read")[
            0
        ],
        panels[0].plot([], [], color=LOSE, linewidth=2.4, label="the longest wait")[0],
    ]
    figure.legend(
        handles=handles, loc="outside upper left", ncols=3, handlelength=1.6, columnspacing=1.6, title=title,
        title_fontproperties={"weight": "bold", "size": 8.5}, alignment="left",
    )  # fmt: skip
    return to_svg(
        figure, f"{title}: tokens delivered to a reader of {speed:g} tokens per second, {', '.join(names)} request"
    )


@styled
def waits_figure(logs: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """For every length of time, the share of requests whose reader waits longer, a line a log.

    Args:
        logs: Name → shares (ascending, of 1) and the idle latency in seconds that this share does not exceed.
    """
    figure = new_figure(2.9)
    axes = figure.subplots()
    most = max(max(seconds) for _, seconds in logs.values())
    left, right = 0.01, max(1.3 * most, 1.0)
    for number, (name, (shares, seconds)) in enumerate(logs.items()):
        clipped = [min(max(wait, left), right) for wait in seconds]
        style = "-" if number < len(SERIES) else "--"
        longer = [100 * (1 - share) for share in shares]
        axes.step(clipped, longer, where="post", label=name, color=SERIES[number % len(SERIES)], linestyle=style)
    axes.set_xscale("log")
    ticks = {place: label for place, label in _TICKS.items() if place <= right}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xticks([], minor=True)
    axes.set(xlim=(left, right), ylim=(0, 102), xlabel="idle latency", ylabel="requests whose reader waits longer")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}\u00a0%")
    only_horizontal_grid(axes)
    if len(logs) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=2, handlelength=1.3, columnspacing=1.4)
    return to_svg(figure, f"Share of requests whose reader waits longer than a time: {', '.join(logs)}")


@styled
def reader_lines_figure(
    speeds: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    alphas: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    speed_label: str,
    alpha_label: str,
) -> str:
    """Smooth goodput over the reading speed and, beside it, over alpha, a line a log.

    Args:
        speeds: Name → speeds and the smooth goodput at each, tokens a second.
        alphas: Name → alphas and the smooth goodput at each.
        speed_label: Of the first x axis.
        alpha_label: Of the second.
    """
    figure = new_figure(2.5 + 0.17 * ((len(speeds) - 1) // 3))
    panels = figure.subplots(1, 2)
    for axes, lines, label in ((panels[0], speeds, speed_label), (panels[1], alphas, alpha_label)):
        for number, (name, (x, y)) in enumerate(lines.items()):
            style = "-" if number < len(SERIES) else "--"
            axes.plot(x, y, color=SERIES[number % len(SERIES)], linestyle=style, label=name)
        axes.set(xlabel=label, ylabel="smooth goodput (tokens/s)")
        axes.margins(x=0.02)
        only_horizontal_grid(axes)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=3, handlelength=1.3, columnspacing=1.4)
    return to_svg(figure, f"Smooth goodput over {speed_label} and over {alpha_label}: {', '.join(speeds)}")


@styled
def readers_figure(
    title: str, speeds: Sequence[float], alphas: Sequence[float], values: Sequence[Sequence[float | None]],
    chosen: tuple[float, float], *, half: bool,
) -> str:  # fmt: skip
    """Smooth goodput for other readers, a cell each: blue what they gain, orange what they lose.

    Args:
        title: Of the log.
        speeds: Reading speeds, tokens a second.
        alphas: Weights of the penalty, from the bottom.
        values: Smooth goodput in tokens a second, a row an alpha.
        chosen: Speed and alpha of the run, which are framed.
        half: Whether it takes half of the page's width.
    """
    figure = new_figure(2.15 if half else 2.3, half=half)
    axes = figure.subplots()
    known = [value for row in values for value in row if value is not None]
    largest = {True: max([1e-9, *known]), False: -min([-1e-9, *known])}  # of what is gained, and of what is lost
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if value is not None:
                colour, strength = (SERIES[0] if value > 0 else LOSE), 0.04 + 0.5 * abs(value) / largest[value > 0]
                _cell(axes, column, row, colour, strength)
                text = told_number(value) if abs(value) < 9_950 else f"{value / 1000:.0f}k"
                axes.text(column, row, text, ha="center", va="center", fontsize=6 if half else 8, color=INK)
    column, row = speeds.index(chosen[0]), alphas.index(chosen[1])
    frame = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)]
    axes.plot([column + x for x, _ in frame], [row + y for _, y in frame], color=INK, linewidth=1.4, clip_on=False)
    axes.set_xticks(range(len(speeds)), [f"{speed:g}" for speed in speeds])
    axes.set_yticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    axes.set(xlim=(-0.5, len(speeds) - 0.5), ylim=(-0.5, len(alphas) - 0.5))
    axes.set(xlabel="reading speed (tokens/s)", ylabel="α")
    axes.set_title(title, fontsize=8.5, color=INK, loc="left")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return to_svg(figure, f"Smooth goodput of {title} over reading speed and alpha")


def _cell(axes: Axes, column: float, row: float, colour: str, strength: float) -> None:
    axes.fill(
        [column - 0.5, column + 0.5, column + 0.5, column - 0.5], [row - 0.5, row - 0.5, row + 0.5, row + 0.5],
        facecolor=colour, alpha=strength, edgecolor=PAPER, linewidth=0.8,
    )  # fmt: skip
