"""Thinning keeps spikes, ticks are round, curves are well-formed SVG."""

import math
import random
from xml.etree import ElementTree

import pytest

from k2.report.plots import Chart, Frame, Line, Mark, Span, XTick, draw, extent, log_ticks, thin, ticks

FRAME = Frame(400, 200)


def curve(count: int) -> list[tuple[float, float]]:
    chance = random.Random(1)
    return [(float(i), 3.0 + chance.random()) for i in range(count)]


@pytest.mark.parametrize("place", [0, 1, 77_777, 99_999])
def test_thinning_keeps_a_spike_of_one_step_wherever_it_lies(place: int) -> None:
    points = curve(100_000)
    points[place] = (float(place), 99.0)
    kept = thin(points, 300)
    assert (float(place), 99.0) in kept
    assert len(kept) <= 600


def test_thinning_keeps_what_is_not_finite_and_the_order() -> None:
    points = curve(10_000)
    points[4321] = (4321.0, math.nan)
    kept = thin(points, 100)
    assert any(math.isnan(y) for _, y in kept)
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)


def test_few_points_are_not_thinned() -> None:
    assert thin(curve(150), 100) == curve(150)


@pytest.mark.parametrize(
    ("low", "high", "about", "expected"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (0, 338_760, 4, [0, 100_000, 200_000, 300_000]),
        (2.31, 2.39, 4, [2.32, 2.34, 2.36, 2.38]),
        (5, 5, 4, [5]),
    ],
)
def test_ticks_are_round(low: float, high: float, about: int, expected: list[float]) -> None:
    assert ticks(low, high, about) == expected


def test_log_ticks_fill_a_short_range_and_keep_a_long_one_sparse() -> None:
    assert log_ticks(0.4, 12) == pytest.approx([1, 3, 10])
    assert log_ticks(0.6, 1.4) == pytest.approx([0.6, 0.8, 1.0, 1.2, 1.4])
    assert log_ticks(1e-4, 1e4) == pytest.approx([10.0**power for power in range(-4, 5)])


def test_extent_passes_over_what_is_not_finite_and_gives_one_value_room() -> None:
    assert extent([1.0, math.nan, 3.0, math.inf], margin=0) == (1.0, 3.0)
    low, high = extent([2.0])
    assert low < 2.0 < high
    assert extent([]) == (0.0, 1.0)


def test_a_chart_is_well_formed_and_names_what_it_shows() -> None:
    chart = Chart(
        'Loss & "norm" <b>',
        (0, 10),
        (0, 5),
        lines=[Line([(0, 1), (1, math.nan), (2, 3), (10, 4)], "accepted")],
        spans=[Span(3, 5, "skipped", "skipped <script>")],
        marks=[Mark(4, "onset", "incident 1"), Mark(9.9, "verdict", "verdict")],
        x_ticks=[XTick(0, "0", "step"), XTick(10, "10")],
    )
    root = ElementTree.fromstring(draw(chart, FRAME))
    texts = [element.text for element in root.iter("text")]
    assert root.get("aria-label") == 'Loss & "norm" <b>'
    assert "skipped <script>" in texts and "incident 1" in texts and "×" in texts
    assert len(list(root.iter("path"))) == 2  # broken where the loss was no number


def test_what_lies_beyond_the_axis_is_drawn_at_its_edge() -> None:
    chart = Chart("Loss", (0, 2), (0, 5), lines=[Line([(0, 1), (1, 500.0), (2, 1)], "accepted")])
    path = next(ElementTree.fromstring(draw(chart, FRAME)).iter("path")).get("d") or ""
    heights = [float(point.split()[1]) for point in path.removeprefix("M").split("L")]
    assert min(heights) == FRAME.top
