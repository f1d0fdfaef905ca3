"""Sections on load tests: curves over the rate, their peaks, and the numbers behind them."""

from collections.abc import Mapping, Sequence
from typing import Any

from callbacks.report.goodput_numbers import told_count, told_number, told_rate, told_reader, told_seconds, told_share
from callbacks.report.load_figures import alpha_figure, curve_name, rates_over_load_figure
from callbacks.report.page import Section, Table

Curves = Sequence[Mapping[str, Any]]

_COLUMNS = (
    ("smooth goodput", "smooth_goodput_tps", told_number),
    ("delivered", "token_throughput_tps", told_number),
    ("goodput", "goodput_ttft_tbt_tps", told_number),
    ("never wait", "attainment_reading", told_share),
    ("idle mean", "idle_mean_s", told_seconds),
    ("idle p99", "idle_p99_s", told_seconds),
    ("TTFT p99", "ttft_p99_s", told_seconds),
    ("TBT p99", "tbt_p99_s", told_seconds),
    ("requests", "requests", told_count),
    ("failed", "requests_failed", told_count),
)


def peak_of(curve: Mapping[str, Any]) -> Mapping[str, Any]:
    """The point at which smooth goodput is highest."""
    return curve["points"][curve["peaks"][curve["alpha"]]]


def over_the_rate(curves: Curves, settings: Mapping[str, Any]) -> Section | None:
    """The curves."""
    if not curves:
        return None
    text = (
        "Requests arrive by the clock, however slow the answers are. As the rate grows, more tokens are delivered, "
        "until the server is full; from there on requests queue, readers wait, and what is delivered is worth less to "
        "them. Solid: smooth goodput, mean and range over the seeds, the peak circled. Dashed: the tokens "
        f"delivered, whenever they came.\n\nHere: {told_reader(settings)}."
    )
    told = [_told_peak(curve, curves) for curve in curves]
    return Section("Smooth goodput over the rate", f"{text}\n\n{' '.join(told)}", [rates_over_load_figure(curves)])


def peaks_by_alpha(curves: Curves) -> Section | None:
    """What alpha does to the peak."""
    if not curves:
        return None
    moved = []
    for curve in curves:
        alphas = list(curve["peaks"])
        first, last = (curve["points"][curve["peaks"][alpha]]["rps"] for alpha in (alphas[0], alphas[-1]))
        way = "does not move" if first == last else f"moves from {told_number(first)} to {told_number(last)} requests/s"
        moved.append(f"{curve_name(curve, curves)}: from α = {alphas[0]} to {alphas[-1]} the best rate {way}.")
    text = (
        "The more an idle second weighs, the lower the rate at which a server should be kept. "
        f"{' '.join(moved)} Points: the best of the rates that were tried."
    )
    drawn = [alpha_figure(curve, curve_name(curve, curves)) for curve in curves]
    return Section("Where the peak lies depends on α", text, drawn)


def numbers(curves: Curves, settings: Mapping[str, Any]) -> Section | None:
    """Every rate of every curve."""
    if not curves:
        return None
    tables = []
    columns = [column for column in _COLUMNS if column[1] != "requests_failed" or _failed(curves)]
    for curve in curves:
        scaled = any(point["time_scale"] is not None for point in curve["points"])
        header = ["requests/s", *(["load"] if curve["points"][0]["load"] is not None else [])]
        header += ["time scale"] if scaled else []
        rows = []
        for point in curve["points"]:
            row = [told_number(point["rps"])]
            row += [f"{point['load']:g} ×"] if point["load"] is not None else []
            row += [f"{point['time_scale']:.3g}"] if scaled else []
            row += [tell(point["figures"].get(key, {}).get("mean")) for _, key, tell in columns]
            rows.append(row)
        tables.append(Table([*header, *(name for name, _, _ in columns)], rows, curve_name(curve, curves)))
    text = (
        "Means over the seeds. Load: multiples of the requests a second of a burst. Goodput: tokens of requests that "
        f"meet TTFT {settings['ttft_s']:g} s and TBT {settings['tbt_s']:g} s. Rates in tokens/s; warm-up requests are "
        "no part of it, and every measured request is served to its end."
    )
    return Section("The numbers", text, tables=tables)


def _failed(curves: Curves) -> bool:
    figures = (point["figures"].get("requests_failed", {}) for curve in curves for point in curve["points"])
    return any(figure.get("high") for figure in figures)


def _told_peak(curve: Mapping[str, Any], curves: Curves) -> str:
    best, last = peak_of(curve), curve["points"][-1]
    worth = best["figures"]["smooth_goodput_tps"]["mean"]
    text = f"{curve_name(curve, curves)} is worth most at {told_number(best['rps'])} requests/s: {told_rate(worth)}."
    if best is last:
        return f"{text} No higher rate was tried, so its peak may lie beyond."
    after = last["figures"]
    return (
        f"{text} At {told_number(last['rps'])} requests/s it still delivers "
        f"{told_rate(after['token_throughput_tps']['mean'])}, worth {told_rate(after['smooth_goodput_tps']['mean'])}."
    )
