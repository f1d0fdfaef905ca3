"""Figures as text: what they say, that they stand alone, and that equal data give equal bytes."""

import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations

import matplotlib as mpl
import pytest
from matplotlib.transforms import Bbox

from callbacks.report.figures import Point, curves_figure, lines_figure, scatter_with_intervals
from callbacks.report.histogram_figure import histogram_figure
from callbacks.report.label_placement import _overlap
from callbacks.report.rates_figure import rates_figure

RATES = {"win_rate": 0.2, "tie_rate": 0.5, "lose_rate": 0.3, "preference_rate": -0.1}
BOUNDS = {"preference_rate_ci_low": -0.2, "preference_rate_ci_high": 0.0}
FIGURES = {
    "rates": lambda: rates_figure({"dSFT": RATES, "daDPO": RATES | BOUNDS}),
    "scatter": lambda: scatter_with_intervals([Point("a", 0, 1, (-1, 1), (0.5, 2)), Point("b", 0, 1)], "x (s)", "y"),
    "histogram": lambda: histogram_figure([0.1, 0.2, 0.4], "margin (nats)", markers={"zero": 0.0, "far": 99.0}),
    "curves": lambda: curves_figure({"a": (range(5), [1.0, 2.0, math.nan, 3.0, 2.0])}, "loss (nats)"),
    "lines": lambda: lines_figure({"a": ([1], [2]), "b": ([1, 2], [3, 4])}, "x", "y", percent_y=True),
}


def texts(svg):
    return [
        "".join(element.itertext()).strip()
        for element in ElementTree.fromstring(svg).iter()
        if element.tag.endswith("text")
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_is_one_sound_element_that_refers_to_nothing_outside(name):
    svg = FIGURES[name]()
    ElementTree.fromstring(svg)
    assert svg.startswith("<svg")
    assert set(re.findall(r"https?://[^\"' ]*", svg)) == {"http://www.w3.org/2000/svg"}
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', svg))
    assert "aria-label=" in svg


@pytest.mark.parametrize("name", FIGURES)
def test_same_data_same_bytes_and_settings_outside_untouched(name):
    before = dict(mpl.rcParams)
    first = FIGURES[name]()
    assert dict(mpl.rcParams) == before
    with mpl.rc_context({"font.size": 20, "svg.hashsalt": None}):
        assert FIGURES[name]() == first


@pytest.mark.parametrize("name", FIGURES)
def test_colours_follow_the_page(name):
    assert "var(--muted, #5c6575)" in FIGURES[name]()


def test_rates_are_written_on_bars_that_can_hold_them():
    said = texts(rates_figure({"x": RATES | {"win_rate": 0.02, "tie_rate": 0.68}}))
    assert {"68\u00a0%", "30\u00a0%"} <= set(said)
    assert "2\u00a0%" not in said


def test_whisker_is_drawn_only_where_there_is_an_interval():
    faint = "stroke-opacity: 0.55"
    assert rates_figure({"x": RATES}).count(faint) == 0
    assert rates_figure({"x": RATES, "y": RATES | BOUNDS}).count(faint) == 1


def test_a_marker_far_from_the_values_does_not_squeeze_them():
    svg = histogram_figure([0.1, 0.2, 0.4], "margin (nats)", markers={"near": 0.15, "far": 99.0})
    assert {"near", "far →"} <= set(texts(svg))
    assert "100" not in texts(svg)


def test_labels_of_markers_close_together_stand_on_levels():
    svg = histogram_figure([0.0, 100.0], "x", markers={"first": 0.0, "second": 1.0, "third": 90.0})
    heights = {name: y for y, name in re.findall(r'y="([\d.]+)"[^>]*>(first|second|third)<', svg)}
    assert heights["first"] != heights["second"]
    assert heights["first"] == heights["third"]


def test_one_value_is_a_distribution_too():
    assert "<svg" in histogram_figure([0.0] * 5, "margin (nats)", markers={"zero": 0.0})


def test_labels_of_the_same_point_do_not_cover_each_other():
    names = ["first", "second", "third", "fourth", "fifth"]
    svg = scatter_with_intervals([Point(name, 1.0, 2.0) for name in names], "x", "y")
    places = re.findall(r'x="([\d.]+)" y="([\d.]+)"[^>]*>(first|second|third|fourth|fifth)<', svg)
    assert [name for *_, name in places] == names
    boxes = [Bbox.from_bounds(float(x) - 12, float(y) - 4, 24, 8) for x, y, _ in places]  # smaller than the shortest
    assert not any(_overlap(a, b) for a, b in combinations(boxes, 2))


def test_long_curves_are_thinned_to_means():
    svg = curves_figure({"a": (range(9000), [1.0] * 9000)}, "loss")
    assert len(svg) < 40_000


def test_labels_are_escaped():
    svg = scatter_with_intervals([Point("<script>&", 1, 2)], 'x"<b>', "$y$")
    assert "<script>" not in svg
    assert {"<script>&", 'x"<b>', "$y$"} <= set(texts(svg))


def test_overlap_is_an_area():
    assert _overlap(Bbox([[0, 0], [2, 2]]), Bbox([[1, 1], [3, 4]])) == 1
    assert _overlap(Bbox([[0, 0], [1, 1]]), Bbox([[2, 0], [3, 1]])) == 0
