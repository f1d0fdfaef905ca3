"""The sections of a page on latency logs that are about one log at a time."""

from collections.abc import Mapping, Sequence
from typing import Any

from callbacks.report import goodput_figures as figures
from callbacks.report.goodput_numbers import (
    Log,
    told_count,
    told_number,
    told_reader,
    told_seconds,
    told_share,
)
from callbacks.report.page import Section, Table

_MOST_LOGS = 6
_COLUMNS = (
    ("smooth goodput", "smooth_goodput_tps", told_number),
    ("throughput", "token_throughput_tps", told_number),
    ("goodput", "goodput_ttft_tbt_tps", told_number),
    ("idle p50", "idle_p50_s", told_seconds),
    ("idle p99", "idle_p99_s", told_seconds),
    ("TTFT p99", "ttft_p99_s", told_seconds),
    ("TBT p99", "tbt_p99_s", told_seconds),
)
_COMPANIONS = (
    ("never wait", "attainment_reading", told_share),
    ("tokens on time", "tokens_on_time_share", told_share),
    ("Andes QoE", "andes_qoe", told_number),
    ("fluidity", "fluidity_index", told_number),
    ("requests", "requests", told_count),
    ("failed", "requests_failed", told_count),
    ("no tokens", "requests_without_tokens", told_count),
    ("worth < 0", "requests_negative_benefit", told_count),
    ("window", "window_s", told_seconds),
)


def overview(logs: Sequence[Log], settings: Mapping[str, Any]) -> Section | None:
    """The table."""
    if not logs:
        return None
    text = (
        "Smooth goodput is what the delivered tokens are worth to somebody who reads them as they come: a request's "
        "tokens less α times what its reader waited (idle latency), summed and divided by the time measured. A reader "
        "who is never kept waiting gets full value, however unevenly the tokens come.\n\n"
        f"Here: {told_reader(settings)}."
    )
    whole = str(logs[0].content["name"])
    if (shared := whole.removesuffix(logs[0].name)) and "…" not in logs[0].name:
        text += f" The names of all logs begin with {shared}, which is left out."
    slo = (
        f"Rates in tokens/s. Goodput: tokens of requests that meet TTFT {settings['ttft_s']:g} s and TBT "
        f"{settings['tbt_s']:g} s. Smooth goodput: {told_reader(settings)}."
    )
    rest = (
        "Never wait: requests whose every token came in time for its reader. Worth < 0: those whose reader lost more "
        "by waiting than the tokens were worth. Andes QoE and fluidity: of 1, as their papers define them."
    )
    tables = [
        Table(["log", *(header for header, _, _ in columns)], _rows(logs, columns), caption)
        for columns, caption in ((_COLUMNS, slo), (_COMPANIONS, rest))
    ]
    return Section("What the readers got", text, tables=tables)


def deliveries(logs: Sequence[Log], settings: Mapping[str, Any]) -> Section | None:
    """Worst, median and best request of each log."""
    shown = [log for log in logs if "worst" in log.content["deliveries"]][:_MOST_LOGS]
    if not shown:
        return None
    speed, origin = settings["reading_speed_tps"], settings["origin"]
    text = (
        f"The dashed line is somebody who reads {speed:g} tokens/s from "
        f"{'submission' if origin == 'commit' else 'the first token'} on. Tokens above it are a buffer: bursts and "
        "pauses up there cost nothing. Where delivery falls below it the reader waits, and the longest such gap "
        "is the request's idle latency. Of the requests within one percent of the median, the longest answer is shown."
    )
    drawn = [figures.deliveries_figure(log.content["deliveries"], speed, origin, log.name) for log in shown]
    return Section("Delivery against the reader", text, drawn)


def waits(logs: Sequence[Log], settings: Mapping[str, Any]) -> Section | None:
    """Distribution of idle latency."""
    shown = [log for log in logs if log.content["idle"]["seconds"]][:12]
    if not shown:
        return None
    told = [
        f"Of the readers of {log.name}, half wait {told_seconds(median)} or less"
        if (median := log.get("idle_p50_s"))
        else f"Of the readers of {log.name}, at least half never wait"
        for log in shown
    ]
    told = [
        f"{text}, and one in a hundred waits {told_seconds(log.get('idle_p99_s'))} or more."
        for text, log in zip(told, shown, strict=True)
    ][: 2 if len(shown) <= 2 else 0]
    lines = {log.name: (log.content["idle"]["share"], log.content["idle"]["seconds"]) for log in shown}
    note = (
        f"Of requests that delivered a token; readers of {settings['reading_speed_tps']:g} tokens/s. Lower is better."
    )
    return Section("How long readers wait", "\n\n".join([*told, note]), [figures.waits_figure(lines)])


def readers(logs: Sequence[Log], settings: Mapping[str, Any]) -> Section | None:
    """Smooth goodput over speed × alpha."""
    shown = [log for log in logs if log.content["readers"]["smooth_goodput_tps"][0][0] is not None][:_MOST_LOGS]
    if not shown:
        return None
    text = (
        "Smooth goodput in tokens/s for other reading speeds and other weights of waiting. The framed cell is this "
        "run's setting. Where a row stays level, delivery keeps ahead of readers of every speed; where it "
        "falls, faster readers catch up with the server and wait. "
        f"Penalty {settings['penalty']}, origin {settings['origin']}."
    )
    chosen = settings["reading_speed_tps"], settings["alpha"]
    drawn = []
    for log in shown:
        grid = log.content["readers"]
        values = grid["smooth_goodput_tps"]
        drawn.append(
            figures.readers_figure(log.name, grid["speeds_tps"], grid["alphas"], values, chosen, half=len(shown) > 2)
        )
    return Section("Other readers, other weights", text, drawn)


def what_to_know(logs: Sequence[Log]) -> Section | None:
    """What a log could not say, and where a figure is not exact."""
    told = []
    for log in logs:
        notes = []
        if failed := log.get("requests_failed"):
            notes.append(
                f"{failed:,.0f} of {log.get('requests') or 0:,.0f} requests failed; what they delivered counts"
            )
        if empty := log.get("requests_without_tokens"):
            notes.append(f"{empty:,.0f} requests delivered no token and so have no latency")
        if spread := log.get("requests_spread_over_chunks"):
            notes.append(f"the tokens of {spread:,.0f} requests were spread evenly over the chunks that have times")
        if counted := log.get("requests_counted_by_chunk"):
            notes.append(f"{counted:,.0f} requests state no tokens although chunks came: one token a chunk was counted")
        if skipped := log.content.get("skipped"):
            notes.append(f"{skipped:,} warm-up requests are no part of it")
        if log.get("window_s") is None:
            notes.append("the log states no window and no submission times, so there is no rate; window_s= gives one")
        elif log.content.get("timed"):
            notes.append("the window runs from the first submission to the last token")
        if any(log.get(f"{name}_quantile_error") for name in ("ttft", "tbt", "tpot", "e2e", "idle")):
            notes.append("quantiles are approximate (within 0.5 %)")
        if log.content["deliveries"].get("sampled"):
            notes.append("the median request shown is that of an even sample of 501 requests")
        if notes:
            told.append(f"{log.name} ({log.content['tool']}): {'; '.join(notes)}.")
    told.append("The curve of idle latency is drawn from a histogram, within 0.5 %.")
    return Section("What to know about these figures", "\n\n".join(told)) if logs else None


def _rows(logs: Sequence[Log], columns: Sequence[tuple[str, str, Any]]) -> list[list[str]]:
    return [[log.name, *(tell(log.get(key)) for _, key, tell in columns)] for log in logs]
