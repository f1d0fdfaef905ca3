"""How figures look, and how they become SVG text that a page can hold.

Figures are drawn with the light theme's colours. In the SVG each becomes a CSS variable with that colour to fall back
on, so that a page can redraw the same figure for its dark theme and a figure on its own still looks right. Text stays
text: it can be selected, searched, and takes the page's font.
"""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from html import escape
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER = "#1b1f28", "#5c6575", "#dde1e8", "#fdfefe"
WIN, TIE, LOSE, ON_BAR = "#0b6bb1", "#c9cfda", "#d4571c", "#fffffe"
SERIES = ("#0a6ab0", "#d3561b", "#00845c", "#a14d86", "#a87a00", "#6a7180")
"""After Okabe and Ito, darkened for white paper: told apart with every common colour blindness."""

_WIDTH, _HALF = 8.6, 4.2  # inches of the page's column and of half of it; scaled to fit, so they set the text's size
_NAMES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAPER: "paper",
    WIN: "win",
    TIE: "tie",
    LOSE: "lose",
    ON_BAR: "on-bar",
}
_VARIABLES = _NAMES | {colour: f"series-{number}" for number, colour in enumerate(SERIES, 1)}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "smoothtalk",  # ids from the content alone: the same data, the same bytes
    "font.family": "DejaVu Sans",  # comes with matplotlib and is wide: what is laid out for it fits in any font
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,  # a label with a dollar sign is a label
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.facecolor": "none",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}
_P = ParamSpec("_P")


def styled(draw: Callable[_P, str]) -> Callable[_P, str]:
    """Draw with the house style, whatever matplotlib's settings are outside."""

    @wraps(draw)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> str:
        with _style():
            return draw(*args, **kwargs)

    return wrapper


def new_figure(height: float, *, half: bool = False) -> Figure:
    """A figure of the page's width, or half of it, and a height in inches; no window, no global state."""
    return Figure(figsize=(_HALF if half else _WIDTH, height), layout="constrained")


def to_svg(figure: Figure, description: str) -> str:
    """The figure as one ``<svg>`` element that refers to nothing outside itself.

    Args:
        figure: What was drawn, under :func:`styled`.
        description: What it shows, for those who cannot see it.

    Returns:
        The element as text; equal figures give equal bytes.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]  # no prolog and no document type, which is a page's business
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace("xlink:href", "href")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    room = "half" if figure.get_figwidth() == _HALF else "full"
    svg = svg.replace("<svg", f'<svg class="{room}" role="img" aria-label="{escape(description)}"', 1)
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name}, {colour})")
    return svg.strip()


def in_percent(axis: Axis) -> None:
    """Show fractions of 1 in percent, with no more digits than the ticks need."""
    axis.set_major_formatter(lambda value, _: f"{round(100 * value, 6) + 0.0:g}\u00a0%".replace("-", "−"))


def only_horizontal_grid(axes: Axes) -> None:
    """Lines to read heights by, and no box: a curve needs no more."""
    axes.grid(visible=False, axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(_STYLE):
        yield
