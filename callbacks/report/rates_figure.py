"""Students against their teacher, at a glance."""

from collections.abc import Mapping

from callbacks.report.figure_style import (
    INK,
    LOSE,
    MUTED,
    ON_BAR,
    PAPER,
    TIE,
    WIN,
    in_percent,
    new_figure,
    styled,
    to_svg,
)
from callbacks.report.figures import Point, draw_point

_PARTS = (
    ("win_rate", "student better", WIN, ON_BAR),
    ("tie_rate", "equal", TIE, INK),
    ("lose_rate", "teacher better", LOSE, ON_BAR),
)


@styled
def rates_figure(rates: Mapping[str, Mapping[str, float]]) -> str:
    """Win, tie and lose shares of each student against the teacher, and its preference rate with whiskers.

    Args:
        rates: Label → ``win_rate``, ``tie_rate``, ``lose_rate``, ``preference_rate`` (fractions) and, for the whiskers,
            ``preference_rate_ci_low`` and ``_ci_high``. First label on top.
    """
    figure = new_figure(1.15 + 0.45 * len(rates))
    shares, preference = figure.subplots(1, 2, width_ratios=[2.1, 1], sharey=True)
    for row, rate in enumerate(rates.values()):
        left = 0.0
        for key, _, colour, text_colour in _PARTS:
            width = rate[key]
            shares.barh(row, width, left=left, height=0.62, color=colour, edgecolor=PAPER, linewidth=0.8)
            if width >= 0.07:  # narrower than its own label
                label = f"{100 * width:.0f}\u00a0%"
                shares.text(left + width / 2, row, label, color=text_colour, ha="center", va="center", fontsize=8)
            left += width
        draw_point(preference, Point("", rate["preference_rate"], row, _interval(rate, "preference_rate")), WIN)
    shares.set_yticks(range(len(rates)), list(rates), color=INK)
    shares.set(xlim=(0, 1), xlabel="share of held-out prompts")
    shares.set_ylim(len(rates) - 0.45, -0.55)
    shares.legend(
        handles=[shares.barh(0, 0, color=colour, label=label) for _, label, colour, _ in _PARTS],
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, handlelength=0.9, handleheight=0.9, columnspacing=1.4,
    )  # fmt: skip
    preference.axvline(0, color=MUTED, linewidth=0.9)
    preference.text(0, -0.62, "equal to teacher", ha="center", va="bottom", color=MUTED, fontsize=8)
    preference.set_xlabel("preference rate: win − lose")
    preference.margins(x=0.12)
    for axes in (shares, preference):
        in_percent(axes.xaxis)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
    return to_svg(figure, "Shares of wins, ties and losses against the teacher, and preference rates with intervals")


def _interval(numbers: Mapping[str, float], name: str) -> tuple[float, float] | None:
    """The bounds beside a number, if both are there."""
    low, high = numbers.get(f"{name}_ci_low"), numbers.get(f"{name}_ci_high")
    return None if low is None or high is None else (low, high)
