"""Labels beside points that do not cover each other."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from callbacks.report.figure_style import MUTED

_DOT = 5.0  # half the room of a dot, in pixels, as is everything here but the data
_SIDES = ((1, 0.8), (-1, 0.8), (1, -0.8), (-1, -0.8), (0, 1), (0, -1))
_DISTANCES = (8.0, 22.0, 40.0)


class Label(NamedTuple):
    """A text, the data position it belongs to, and its colour."""

    text: str
    x: float
    y: float
    colour: str


def place_labels(
    axes: Axes, labels: Sequence[Label], keep_free: Sequence[tuple[float, float, float, float]] = ()
) -> None:
    """Write each label where it covers least, the nearest place first; a far one gets a line to its dot.

    Args:
        axes: Finished axes: their limits are read, so nothing may be drawn into them afterwards.
        labels: What to write; all their dots are kept free.
        keep_free: Lines not to be covered either, as x from, x to, y from, y to in data units.
    """
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("the axes stand in no figure")
    canvas = FigureCanvasAgg(figure)  # only to lay out and to measure
    canvas.draw()
    scale = figure.dpi / 72
    dots = [tuple(axes.transData.transform((label.x, label.y)).tolist()) for label in labels]
    taken = [Bbox.from_bounds(x - _DOT, y - _DOT, 2 * _DOT, 2 * _DOT) for x, y in dots]
    for x_from, x_to, y_from, y_to in keep_free:
        (left, low), (right, high) = axes.transData.transform([(x_from, y_from), (x_to, y_to)]).tolist()
        taken.append(Bbox.from_extents(left - 2, low - 2, right + 2, high + 2))
    frame = axes.get_window_extent()
    for label, dot in zip(labels, dots, strict=True):
        note = axes.annotate(
            label.text, (label.x, label.y), (0, 0), textcoords="offset points", ha="center", va="center",
            color=label.colour, fontweight="bold",
        )  # fmt: skip
        note.set_in_layout(False)  # or the axes would shrink to make room for it
        size = note.get_window_extent(canvas.get_renderer())
        places = [_box(dot, size.width, size.height, side, gap) for gap in _DISTANCES for side in _SIDES]
        costs = [
            sum(_overlap(box, other) for other in taken)
            + 2 * (box.width * box.height - _overlap(box, frame))
            + 0.1 * rank
            for rank, box in enumerate(places)
        ]
        rank = min(range(len(places)), key=costs.__getitem__)
        taken.append(places[rank])
        centre = (places[rank].x0 + places[rank].x1) / 2, (places[rank].y0 + places[rank].y1) / 2
        note.set_position(((centre[0] - dot[0]) / scale, (centre[1] - dot[1]) / scale))
        if rank >= len(_SIDES):
            edge = (
                min(max(dot[0], places[rank].x0), places[rank].x1),
                min(max(dot[1], places[rank].y0), places[rank].y1),
            )
            end = axes.transData.inverted().transform(edge).tolist()
            axes.plot([label.x, end[0]], [label.y, end[1]], color=MUTED, linewidth=0.6, zorder=1)


def _box(dot: Sequence[float], width: float, height: float, side: tuple[float, float], gap: float) -> Bbox:
    """Where a text of this size lies when put to one side of a dot."""
    x = dot[0] + side[0] * (gap + width / 2)
    y = dot[1] + side[1] * (gap + height / 2)
    return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)


def _overlap(a: Bbox, b: Bbox) -> float:
    """Area that two boxes share."""
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0.0) * max(height, 0.0)
