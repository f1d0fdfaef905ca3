"""Numbers of latency logs, read and put into words."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_LONGEST = 32  # characters of a name that figures have room for


class Measure(NamedTuple):
    """A figure by which services are compared: its name in the metrics, its name in words, and which end is good."""

    key: str
    label: str
    higher_is_better: bool = True

    def told(self, value: float | None) -> str:
        """A value with its unit."""
        return told_seconds(value) if self.key.endswith("_s") else told_rate(value)


THROUGHPUT = Measure("token_throughput_tps", "token throughput")
TAIL_TBT = Measure("tbt_p99_s", "p99 TBT", False)
CLASSIC = Measure("goodput_ttft_tbt_tps", "goodput (TTFT + TBT)")
SMOOTH = Measure("smooth_goodput_tps", "smooth goodput")
COMPARED = (THROUGHPUT, TAIL_TBT, CLASSIC, SMOOTH)


class Log(NamedTuple):
    """One log as its stage left it."""

    name: str
    """As short as tells it from the others of the page; ``metrics.json`` has it whole."""
    metrics: Mapping[str, Any]
    content: Mapping[str, Any]

    def get(self, key: str) -> float | None:
        """A metric, None where it could not be measured."""
        value = self.metrics.get(key)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    def ahead(self, other: "Log", measure: Measure) -> bool | None:
        """Whether it beats another by a measure; None where they are equal or one of them lacks it."""
        ours, theirs = self.get(measure.key), other.get(measure.key)
        if ours is None or theirs is None or ours == theirs:
            return None
        return (ours > theirs) == measure.higher_is_better


def read_logs(content: Mapping[str, Any]) -> list[Log]:
    """The logs of a ``goodput.json``, in its order."""
    found = content.get("logs", [])
    names = short_names([str(log["name"]) for log in found])
    return [Log(name, log["metrics"], log) for name, log in zip(names, found, strict=True)]


def short_names(names: Sequence[str]) -> list[str]:
    """The names without words that all of them begin with, and without the middle of what is still too long."""
    words = [re.split(r"(?<=[_.\- ])", name) for name in names]
    shared = 0
    if len(names) > 1:
        while all(len(one) > shared + 1 and one[shared] == words[0][shared] for one in words):
            shared += 1
        while shared and any(re.fullmatch(r"[\d.]+", "".join(one[shared:])) for one in words):
            shared -= 1  # a bare number says nothing
    short = ["".join(one[shared:]) for one in words]
    longest = _LONGEST if len(names) > 1 else 2 * _LONGEST
    cut = [name if len(name) <= longest else f"{name[:15]}…{name[-14:]}" for name in short]
    return cut if len(set(cut)) == len(cut) else short


def best_log(logs: Sequence[Log], measure: Measure = SMOOTH) -> Log | None:
    """The log that a measure puts first, if it knows any."""
    known = [(value, log) for log in logs if (value := log.get(measure.key)) is not None]
    sign = 1 if measure.higher_is_better else -1
    return max(known, key=lambda one: sign * one[0])[1] if known else None


def told_rate(value: float | None, unit: str = "tokens/s") -> str:
    """Tokens (or requests) a second, with three digits or all before the point."""
    return "–" if value is None else f"{_digits(value)}\u00a0{unit}"


def told_number(value: float | None) -> str:
    """A number with three digits or all before the point."""
    return "–" if value is None else _digits(value)


def told_count(value: float | None) -> str:
    """A whole number."""
    return "–" if value is None else f"{value:,.0f}"


def told_seconds(value: float | None) -> str:
    """A time in the unit that reads best."""
    if value is None:
        return "–"
    if 0 < abs(value) < 0.9995:
        return f"{_digits(1000 * value)}\u00a0ms"
    return f"{_digits(value)}\u00a0s"


def told_share(value: float | None) -> str:
    """A fraction in percent."""
    return "–" if value is None else f"{100 * value:.1f}\u00a0%".replace("-", "−")


def _digits(value: float) -> str:
    size = abs(value)
    places = 0 if size >= 99.95 or value == 0 else 1 if size >= 9.995 else 2 if size >= 0.0095 else 4
    return f"{value:,.{places}f}".replace("-", "−")


def told_reader(settings: Mapping[str, Any]) -> str:
    """The settings that smooth goodput depends on, to be shown wherever it is."""
    origin = {"commit": "submission", "first_token": "the first token"}[settings["origin"]]
    told = (
        f"reading speed {settings['reading_speed_tps']:g}\u00a0tokens/s, α\u00a0=\u00a0{settings['alpha']:g}, "
        f"penalty {settings['penalty']}, origin {settings['origin']} (deadlines count from {origin})"
    )
    return f"{told}, missing tokens charged" if settings.get("charge_missing_tokens") else told
