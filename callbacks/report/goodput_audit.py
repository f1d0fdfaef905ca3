"""The gaming audit: what each measure would have gained by serving readers worse."""

from collections.abc import Mapping, Sequence
from typing import Any

from callbacks.report.figure_style import INK, LOSE, MUTED, PAPER, TIE, WIN, new_figure, styled, to_svg
from callbacks.report.goodput_numbers import CLASSIC, SMOOTH, TAIL_TBT, Log, Measure, told_share
from callbacks.report.page import Section

_ROWS = (
    Measure("ttft_p99_s", "p99 TTFT", False),
    TAIL_TBT,
    Measure("tbt_max_s", "largest TBT", False),
    CLASSIC,
    Measure("goodput_ttft_tpot_tps", "goodput (TTFT + TPOT)"),
    Measure("goodput_e2e_tps", "goodput (E2E)"),
    Measure("goodput_reading_tps", "goodput (reader's deadlines)"),
    SMOOTH,
)
_COLUMNS = (
    ("steady", "held back:\none steady pace"),
    ("held", "held back:\nto the TBT threshold"),
    ("cut", "cut off\nwhen missed"),
)
_CAVEAT = (
    "The log cannot say what else the server would have done with the capacity that cutting off sets free; the window "
    "stays as measured, and nothing is credited for it in the figure. Strictly counted, the reader sent away is "
    "charged the reading time of the tokens that were cut."
)
_SAME = 1e-6  # relative: less is rounding
_MOST_LOGS = 4


def audit_section(logs: Sequence[Log], settings: Mapping[str, Any]) -> Section | None:
    """What the measures make of the same run with tokens held back, or with late requests cut off."""
    shown = [log for log in logs if log.get("tokens")][:_MOST_LOGS]
    if not shown:
        return None
    text = (
        "No request below is served better than it was measured; only the numbers change. Held back to one steady "
        "pace: each request's tokens go out with equal gaps, begun late enough for the stream never to run dry. "
        f"Held back to the TBT threshold ({settings['tbt_s']:g} s): the first token goes out at once, each further one "
        "no sooner than the threshold after the one before. Cut off: a request is abandoned at the first token that "
        "misses TTFT + TBT. Orange is a measure that rewards this, blue one that sees through it."
    )
    told = [text, *(in_words(log) for log in shown)]
    if any(log.get("cut_freed_ttft_tbt") for log in shown):
        told.append(_CAVEAT)
    return Section("The gaming audit", "\n\n".join(told), [_audit_figure(log) for log in shown])


def gains(log: Log, treatment: str, measure: Measure) -> bool | None:
    """Whether a treatment flatters a measure: True, False where it costs, None where nothing changes."""
    before, after = log.get(measure.key), log.get(f"{treatment}_{measure.key}")
    if before is None or after is None or abs(after - before) <= _SAME * max(abs(before), abs(after)):
        return None
    return (after > before) == measure.higher_is_better


def in_words(log: Log) -> str:
    """The audit of a log: what would have been gained, and whether smooth goodput would."""
    won = []
    for measure in (TAIL_TBT, CLASSIC):
        flattering = [name for name, _ in _COLUMNS[:2] if gains(log, name, measure)]
        if flattering:
            values = [log.get(f"{name}_{measure.key}") or 0.0 for name in flattering]
            best = max(values) if measure.higher_is_better else min(values)
            won.append(f"{measure.label} from {measure.told(log.get(measure.key))} to {measure.told(best)}")
    smooth = [log.get(f"{name}_{SMOOTH.key}") for name, _ in _COLUMNS[:2]]
    before = log.get(SMOOTH.key)
    held = f"Holding tokens back would have improved {' and '.join(won) or 'neither tail TBT nor goodput'}"
    if before is not None and None not in smooth:
        most = max(value for value in smooth if value is not None)
        rise = most - before > _SAME * abs(before)
        end = f"would have gone to {SMOOTH.told(most)}" if rise else f"gains nothing: {SMOOTH.told(most)} at most"
        held += f"; smooth goodput {end}"
    return f"{log.name}: {held}. {_cut_in_words(log)}"


def _cut_in_words(log: Log) -> str:
    freed, before = log.get("cut_freed_ttft_tbt"), log.get(CLASSIC.key)
    after, strict, smooth = (
        log.get(key) for key in ("cut_smooth_goodput_tps", "cut_smooth_goodput_strict_tps", SMOOTH.key)
    )
    if freed is None or before is None or smooth is None or after is None or strict is None:
        return ""
    if freed <= 0:
        return "No request missed TTFT + TBT, so there is none to cut off."
    told = (
        f"Cutting off what had missed TTFT + TBT would have saved {told_share(freed)} of all tokens at no cost to that "
        f"goodput; it {'costs' if after < smooth else 'brings'} smooth goodput {SMOOTH.told(abs(after - smooth))} "
        f"({SMOOTH.told(after)} are left; strictly counted {SMOOTH.told(strict)})."
    )
    if freed >= 1:
        return told
    reused, ours = (SMOOTH.told(value / (1 - freed)) for value in (before, after))
    return f"{told} Were the freed capacity served like the rest, they would be {reused} and {ours}."


@styled
def _audit_figure(log: Log) -> str:
    """Rows of measures, columns of treatments: orange where the measure is flattered."""
    figure = new_figure(0.75 + 0.3 * len(_ROWS))
    axes = figure.subplots()
    for row, measure in enumerate(_ROWS):
        axes.text(0, row, measure.told(log.get(measure.key)), ha="center", va="center", color=INK)
        for column, (treatment, _) in enumerate(_COLUMNS, start=1):
            flattered = gains(log, treatment, measure)
            colour, strength = (TIE, 0.25) if flattered is None else (LOSE, 0.3) if flattered else (WIN, 0.16)
            axes.fill(
                [column - 0.5, column + 0.5, column + 0.5, column - 0.5], [row - 0.5, row - 0.5, row + 0.5, row + 0.5],
                facecolor=colour, alpha=strength, edgecolor=PAPER, linewidth=1.6,
            )  # fmt: skip
            after = log.get(f"{treatment}_{measure.key}")
            told = measure.told(after) + _change(log.get(measure.key), after, flattered)
            axes.text(column, row, told, ha="center", va="center", color=INK, fontsize=8)
    axes.set_xticks(range(len(_COLUMNS) + 1), ["as measured", *(label for _, label in _COLUMNS)], color=MUTED)
    axes.set_yticks(range(len(_ROWS)), [measure.label for measure in _ROWS], color=INK)
    axes.set(xlim=(-0.5, len(_COLUMNS) + 0.5), ylim=(len(_ROWS) - 0.5, -0.5))
    figure.suptitle(log.name, fontsize=8.5, fontweight="bold", color=INK, x=0.012, ha="left")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    return to_svg(figure, f"Gaming audit of {log.name}: measures as they are and with tokens held back or requests cut")


def _change(before: float | None, after: float | None, flattered: bool | None) -> str:
    """By how much, in percent or, where that gets large, in times."""
    if flattered is None or not before or after is None or before < 0:
        return ""
    ratio = after / before
    if ratio >= 2.5:
        return f" (×\u00a0{ratio:,.0f})" if ratio >= 9.5 else f" (×\u00a0{ratio:.1f})"
    change = 100 * (ratio - 1)
    return f" ({change:{'+.0f' if abs(change) >= 1 else '+.1g'}}\u00a0%)".replace("-", "−")
