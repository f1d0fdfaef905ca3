"""The page of scored latency logs, from what their stage left on disk."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from callbacks.report import goodput_sections as sections
from callbacks.report.goodput_audit import audit_section
from callbacks.report.goodput_comparison import places_section
from callbacks.report.goodput_numbers import (
    CLASSIC,
    SMOOTH,
    TAIL_TBT,
    THROUGHPUT,
    Log,
    best_log,
    read_logs,
    told_count,
    told_rate,
    told_seconds,
    told_share,
)
from callbacks.report.page import Card, build_sections, unread, write_page


def write_goodput_report(run_dir: Path, metrics: Mapping[str, float], config_yaml: str) -> Path:
    """Write ``report.html`` into a run's folder.

    A section whose data are odd is named at the end of the page instead of ending the run.

    Args:
        run_dir: The run's folder, with ``score_logs/goodput.json``.
        metrics: The run's flat metrics; the page is drawn from the file.
        config_yaml: The config.

    Returns:
        The page's path.

    Raises:
        OSError: Where the page cannot be written.
    """
    notes: list[str] = []
    logs: list[Log] = []
    settings: Mapping[str, Any] = {}
    try:
        content = json.loads((run_dir / "score_logs" / "goodput.json").read_text(encoding="utf-8"))
        logs, settings = read_logs(content), content["settings"]
    except (LookupError, OSError, TypeError, ValueError) as broken:
        notes.append(f"score_logs/goodput.json: {type(broken).__name__} {broken}.")
    shown, broken = build_sections(
        [
            lambda: sections.overview(logs, settings),
            lambda: sections.deliveries(logs, settings),
            lambda: sections.waits(logs, settings),
            lambda: places_section(logs, settings),
            lambda: sections.readers(logs, settings),
            lambda: audit_section(logs, settings),
            lambda: sections.what_to_know(logs),
        ]
    )
    shown += unread(notes + broken)
    path = run_dir / "report.html"
    title = "Smooth goodput: what the tokens were worth to their readers"
    write_page(path, title, lead(logs, settings), cards(logs, settings), shown, config_yaml)
    return path


def lead(logs: list[Log], settings: Mapping[str, Any]) -> str:
    """The outcome in one sentence."""
    hero = best_log(logs)
    if hero is None:
        return "No rate is known for these logs: they state no window; window_s= gives one."
    worth, speed = hero.get(SMOOTH.key) or 0.0, f"{settings['reading_speed_tps']:g} tokens/s"
    median = hero.get("idle_p50_s")
    waited = f"Half of them waited {told_seconds(median)} or less" if median else "At least half of them never waited"
    if len(logs) == 1:
        if worth <= 0:
            failed, requests = told_count(hero.get("requests_failed")), told_count(hero.get("requests"))
            return (
                f"To readers of {speed}, {hero.name} was worth less than nothing: {told_rate(worth)} of smooth "
                f"goodput. {failed} of its {requests} requests failed."
            )
        share = worth / (hero.get(THROUGHPUT.key) or worth)
        return (
            f"{hero.name} delivered {told_rate(hero.get(THROUGHPUT.key))}; to readers of {speed} that was worth "
            f"{told_rate(worth)} of smooth goodput ({told_share(share)}). {waited}."
        )
    other = best_log(logs, THROUGHPUT)
    text = f"To readers of {speed}, {hero.name} was worth most: {told_rate(worth)} of smooth goodput"
    if other is not None and other is not hero:
        theirs = told_rate(other.get(SMOOTH.key))
        return f"{text}. By token throughput {other.name} would have won, which was worth {theirs} to its own."
    return f"{text}. {waited}."


def cards(logs: list[Log], settings: Mapping[str, Any]) -> list[Card]:
    """Key figures of the log that smooth goodput puts first."""
    hero = best_log(logs)
    if hero is None:
        return []
    throughput = THROUGHPUT.told(hero.get(THROUGHPUT.key))
    reader = f"reading {settings['reading_speed_tps']:g} tokens/s, α = {settings['alpha']:g}"
    reader += f", {settings['penalty']}, {settings['origin']}"
    of = f"; {hero.name}" if len(logs) > 1 else ""
    share = hero.get("attainment_ttft_tbt")
    return [
        Card("Smooth goodput", SMOOTH.told(hero.get(SMOOTH.key)), f"of {throughput} delivered; {reader}{of}"),
        Card(
            "Idle latency, p99", told_seconds(hero.get("idle_p99_s")), f"median {told_seconds(hero.get('idle_p50_s'))}"
        ),
        Card("Goodput (TTFT + TBT)", CLASSIC.told(hero.get(CLASSIC.key)), f"{told_share(share)} of requests meet it"),
        Card(
            "Time between tokens, p99", TAIL_TBT.told(hero.get(TAIL_TBT.key)), "blind to what readers have left to read"
        ),
    ]
