"""Which log comes first by which measure: drawn, and said in words."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from callbacks.report.figure_style import INK, MUTED, PAPER, SERIES, new_figure, styled, to_svg
from callbacks.report.goodput_figures import reader_lines_figure
from callbacks.report.goodput_numbers import COMPARED, SMOOTH, Log, Measure, told_seconds
from callbacks.report.page import Section

_MOST_PAIRS = 6
_MOST_LOGS = 8


def places_section(logs: Sequence[Log], settings: Mapping[str, Any]) -> Section | None:
    """Where two logs change places between throughput, tail TBT, classic goodput and smooth goodput."""
    if len(logs) < 2:
        return None
    pairs = [(one, other, text) for one, other in combinations(logs, 2) if (text := changes_places(one, other))]
    pairs.sort(key=lambda pair: -_gap(pair[0], pair[1]))
    told = [text for _, _, text in pairs[:_MOST_PAIRS]]
    if len(pairs) > _MOST_PAIRS:
        told.append(f"{len(pairs) - _MOST_PAIRS} more pairs change places.")
    if not told:
        told = ["No two logs change places: throughput, tail TBT, classic and smooth goodput put them in one order."]
    told += [text for one, other, _ in pairs[:_MOST_PAIRS] if (text := overtakes(one, other, settings, len(logs) == 2))]
    shown = list(logs[:_MOST_LOGS])
    figures = [_places_figure(shown), _reader_lines(shown, settings)]
    return Section("Who comes first depends on what is asked", "\n\n".join(told), figures)


def changes_places(one: Log, other: Log) -> str:
    """In words, by what each of two logs is ahead; empty where the measures agree."""
    ahead = {True: [], False: []}
    for measure in COMPARED:
        first = one.ahead(other, measure)
        if first is not None:
            ahead[first].append(measure)
    if not ahead[True] or not ahead[False]:
        return ""
    winner, loser = (one, other) if SMOOTH in ahead[True] or SMOOTH not in ahead[False] else (other, one)
    by_winner, by_loser = ahead[winner is one], ahead[winner is other]
    return (
        f"By {_listed(by_loser, loser, winner)} {loser.name} is ahead of {winner.name}; by "
        f"{_listed(by_winner, winner, loser)} it is the other way round. {_waits(winner, loser)}"
    )


def overtakes(one: Log, other: Log, settings: Mapping[str, Any], also_none: bool = True) -> str:
    """In words, at which reading speeds two logs change places by smooth goodput, at the run's alpha.

    ``also_none``: whether to say so where they do not.
    """
    ours, theirs = (_along_speeds(log, settings["alpha"]) for log in (one, other))
    known = [(speed, a - b) for (speed, a), (_, b) in zip(ours, theirs, strict=True) if a is not None and b is not None]
    crossings = [
        (after, one if gap > 0 else other)
        for (_, before), (after, gap) in zip(known, known[1:], strict=False)
        if (before > 0) != (gap > 0)
    ]
    if not known or not (crossings or also_none):
        return ""
    between, at = f"{one.name} and {other.name}", f"α = {settings['alpha']:g}"
    if not crossings:
        first, low, high = (one if known[0][1] > 0 else other), known[0][0], known[-1][0]
        return (
            f"Of {between}, {first.name} serves more smooth goodput to readers of every speed from {low:g} to "
            f"{high:g} tokens/s ({at})."
        )
    turns = " and ".join(f"from about {speed:g} tokens/s on {log.name} is ahead" for speed, log in crossings)
    return f"Between {between} it depends on the reader: {turns} by smooth goodput ({at})."


def _listed(measures: Sequence[Measure], ahead: Log, behind: Log) -> str:
    told = [f"{m.label} ({m.told(ahead.get(m.key))} against {m.told(behind.get(m.key))})" for m in measures]
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"


def _waits(winner: Log, loser: Log) -> str:
    ours, theirs = (told_seconds(log.get("idle_p50_s")) for log in (winner, loser))
    return f"In the median a reader of {winner.name} waits {ours}, one of {loser.name} {theirs}."


def _gap(one: Log, other: Log) -> float:
    """How far apart two logs are by smooth goodput."""
    ours, theirs = one.get(SMOOTH.key), other.get(SMOOTH.key)
    return 0.0 if ours is None or theirs is None else abs(ours - theirs)


def _along_speeds(log: Log, alpha: float) -> list[tuple[float, float | None]]:
    readers = log.content["readers"]
    row = readers["smooth_goodput_tps"][readers["alphas"].index(alpha)]
    return list(zip(readers["speeds_tps"], row, strict=True))


def _reader_lines(logs: Sequence[Log], settings: Mapping[str, Any]) -> str:
    """Smooth goodput over the reading speed, and over alpha, a line a log."""
    nan = float("nan")
    speeds, alphas = {}, {}
    for log in logs:
        readers = log.content["readers"]
        along = _along_speeds(log, settings["alpha"])
        speeds[log.name] = [speed for speed, _ in along], [nan if value is None else value for _, value in along]
        column = readers["speeds_tps"].index(settings["reading_speed_tps"])
        values = [row[column] for row in readers["smooth_goodput_tps"]]
        alphas[log.name] = readers["alphas"], [nan if value is None else value for value in values]
    at_alpha, at_speed = f"α = {settings['alpha']:g}", f"{settings['reading_speed_tps']:g} tokens/s"
    return reader_lines_figure(speeds, alphas, f"reading speed (tokens/s), {at_alpha}", f"α, reading speed {at_speed}")


@styled
def _places_figure(logs: Sequence[Log]) -> str:
    """Each log's place by each measure, the first on top; a line that goes up is a log that gains."""
    figure = new_figure(0.95 + 0.42 * len(logs))
    axes = figure.subplots()
    places: dict[str, list[int]] = {log.name: [] for log in logs}
    for measure in COMPARED:
        sign = -1 if measure.higher_is_better else 1
        value = {log.name: log.get(measure.key) for log in logs}
        order = sorted(value, key=lambda name: (value[name] is None, sign * (value[name] or 0.0)))  # noqa: B023
        for log in logs:
            places[log.name].append(order.index(log.name))
    for number, log in enumerate(logs):
        colour = SERIES[number % len(SERIES)]
        axes.plot(range(len(COMPARED)), places[log.name], color=colour, marker="o", markersize=6, linewidth=2.2)
        for column, measure in enumerate(COMPARED):
            told = measure.told(log.get(measure.key)).replace("\u00a0tokens", " tokens")
            axes.annotate(
                told, (column, places[log.name][column]), (0, 7), textcoords="offset points", ha="center", va="bottom",
                color=INK, fontsize=8, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6}, zorder=3,
            )  # fmt: skip
        axes.annotate(
            log.name, (len(COMPARED) - 1, places[log.name][-1]), (9, 0), textcoords="offset points", ha="left",
            va="center", color=colour, fontsize=8, fontweight="bold",
        )  # fmt: skip
    axes.set_xticks(range(len(COMPARED)), [measure.label for measure in COMPARED], color=INK)
    axes.set_yticks(range(len(logs)), [f"{place}." for place in range(1, len(logs) + 1)])
    axes.set(xlim=(-0.35, len(COMPARED) - 0.1), ylim=(len(logs) - 0.55, -0.55))
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelcolor=MUTED)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False, axis="y")
    return to_svg(figure, f"Places of {', '.join(places)} by {', '.join(measure.label for measure in COMPARED)}")
