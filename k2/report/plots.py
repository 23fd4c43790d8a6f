"""Curves as inline SVG: a `Chart` of values and a `Frame` of pixels enter, markup leaves.

Colours are classes that the page's style sheet fills for light, dark and print. Curves are thinned to the pixels there
are, the lowest and the highest value of every bucket kept, so that no spike is lost.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup, escape

from k2.report.words import number

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One curve. A value that is not finite breaks it and is marked at the top."""

    points: Sequence[Point]
    style: str
    dots: bool = False


@dataclass(frozen=True)
class Band:
    """The area between `lower` and `upper` around a curve: (x, lower, upper)."""

    points: Sequence[tuple[float, float, float]]
    style: str


@dataclass(frozen=True)
class Span:
    """A shaded range of x."""

    first: float
    last: float
    style: str
    label: str = ""


@dataclass(frozen=True)
class Mark:
    """A vertical line at x, its label beginning or ending there."""

    x: float
    style: str
    label: str = ""
    anchor: Literal["start", "end"] = "start"


@dataclass(frozen=True)
class Note:
    """A value written beside a point."""

    x: float
    y: float
    text: str
    style: str = "note"


@dataclass(frozen=True)
class XTick:
    x: float
    label: str
    under: str = ""


@dataclass(frozen=True)
class Chart:
    """All that is drawn, in values. Later items lie above earlier ones."""

    title: str
    x: tuple[float, float]
    y: tuple[float, float]
    lines: Sequence[Line] = ()
    bands: Sequence[Band] = ()
    spans: Sequence[Span] = ()
    marks: Sequence[Mark] = ()
    notes: Sequence[Note] = ()
    x_ticks: Sequence[XTick] = ()
    notches: Sequence[float] = ()  # small ticks on the x axis
    log: bool = False
    y_format: Callable[[float], str] = field(default=number)


@dataclass(frozen=True)
class Frame:
    """Pixels: the whole drawing and the room around its field."""

    width: int
    height: int
    left: int = 48
    right: int = 14
    top: int = 18
    bottom: int = 34
    y_ticks: int = 5


def thin(points: Sequence[Point], buckets: int) -> list[Point]:
    """At most a few points for each of `buckets` equal ranges of x: the lowest, the highest, and one that is not finite."""
    if len(points) <= 2 * buckets:
        return list(points)
    first, last = points[0][0], points[-1][0]
    filled: dict[int, list[Point]] = {}
    for point in points:
        filled.setdefault(int((point[0] - first) / (last - first) * (buckets - 1e-9)), []).append(point)
    return [kept for bucket in filled.values() for kept in _extremes(bucket)]


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round values from `low` to `high`, about so many: multiples of 1, 2, 2.5 or 5 times a power of ten."""
    if high <= low:
        return [low]
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    start = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(start, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from `low` to `high`, with steps between them when there are few; within half a decade ordinary ticks."""
    if high < 5 * low:
        return ticks(low, high, 4)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if len(powers) > 4 else (1, 2, 5) if len(powers) < 4 else (1, 3)
    return [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]


def extent(values: Iterable[float], margin: float = 0.05) -> tuple[float, float]:
    """Lowest and highest finite value with some room; a single value gets a range around it."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    room = (high - low) * margin if high > low else abs(high) * 0.05 or 1.0
    return low - room, high + room


def draw(chart: Chart, frame: Frame) -> Markup:
    """The chart as one `<svg>` element."""
    pen = _Pen(chart, frame)
    head = Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="{title}" '
        'data-x0="{x0}" data-x1="{x1}" data-left="{left}" data-right="{right}">'
    ).format(
        w=frame.width, h=frame.height, title=chart.title, x0=chart.x[0], x1=chart.x[1], left=frame.left, right=frame.width - frame.right
    )
    parts = [
        *pen.spans(),
        *pen.axes(),
        *pen.bands(),
        *pen.marks(),
        *(part for line in chart.lines for part in pen.line(line)),
        *pen.notes(),
    ]
    return head + Markup("").join(parts) + Markup("</svg>")


@dataclass(frozen=True)
class _Pen:
    chart: Chart
    frame: Frame

    def x(self, value: float) -> float:
        low, high = self.chart.x
        room = self.frame.width - self.frame.left - self.frame.right
        return round(self.frame.left + (value - low) / ((high - low) or 1) * room, 1)

    def y(self, value: float) -> float:
        """From the top; what lies outside the range is drawn at its edge."""
        low, high = (math.log10(edge) for edge in self.chart.y) if self.chart.log else self.chart.y
        height = math.log10(max(value, 1e-300)) if self.chart.log else value
        share = min(1.0, max(0.0, (height - low) / ((high - low) or 1)))
        return round(self.bottom - share * (self.bottom - self.frame.top), 1)

    @property
    def bottom(self) -> int:
        return self.frame.height - self.frame.bottom

    def spans(self) -> Iterator[Markup]:
        for span in self.chart.spans:
            left, right = self.x(span.first), self.x(span.last)
            yield Markup('<rect class="span {}" x="{}" y="{}" width="{}" height="{}"/>').format(
                span.style, left, self.frame.top, round(max(right - left, 1.5), 1), self.bottom - self.frame.top
            )
            if span.label:
                yield self._text(left + 5, self.frame.top + 13, span.label, "span-label")

    def axes(self) -> Iterator[Markup]:
        right = self.frame.width - self.frame.right
        values = log_ticks(*self.chart.y) if self.chart.log else ticks(*self.chart.y, self.frame.y_ticks)
        for value in values:
            y = self.y(value)
            yield _segment(self.frame.left, y, right, y, "grid")
            yield self._text(self.frame.left - 7, y + 4, self.chart.y_format(value), "tick-y")
        yield _segment(self.frame.left, self.bottom, right, self.bottom, "axis")
        for notch in self.chart.notches:
            yield _segment(self.x(notch), self.bottom, self.x(notch), self.bottom + 4, "notch")
        for tick in self.chart.x_ticks:
            yield _segment(self.x(tick.x), self.bottom, self.x(tick.x), self.bottom + 6, "axis")
            end = " end" if right - self.x(tick.x) < 24 else ""  # the last label may not leave the drawing
            yield self._text(self.x(tick.x), self.bottom + 18, tick.label, "tick-x" + end)
            if tick.under:
                yield self._text(self.x(tick.x), self.bottom + 31, tick.under, "tick-x under" + end)

    def bands(self) -> Iterator[Markup]:
        for band in self.chart.bands:
            above = [f"{self.x(x)},{self.y(high)}" for x, _, high in band.points]
            below = [f"{self.x(x)},{self.y(low)}" for x, low, _ in reversed(band.points)]
            yield Markup('<polygon class="band {}" points="{}"/>').format(band.style, " ".join(above + below))

    def line(self, line: Line) -> Iterator[Markup]:
        kept = thin(line.points, self.frame.width - self.frame.left - self.frame.right)
        for stretch in _finite_stretches(kept):
            path = "M" + "L".join(f"{self.x(x)} {self.y(y)}" for x, y in stretch)
            yield Markup('<path class="line {}" d="{}"/>').format(line.style, path)
            if line.dots or len(stretch) == 1:
                yield from (
                    Markup('<circle class="dot {}" cx="{}" cy="{}" r="2.4"/>').format(line.style, self.x(x), self.y(y)) for x, y in stretch
                )
        for x, y in kept:
            if not math.isfinite(y):
                yield self._text(self.x(x), self.frame.top + 4, "×", f"not-finite {line.style}")

    def marks(self) -> Iterator[Markup]:
        for mark in self.chart.marks:
            x = self.x(mark.x)
            yield _segment(x, self.frame.top, x, self.bottom, f"mark {mark.style}")
            if mark.label:
                ends = mark.anchor == "end" or x > self.frame.width * 0.8
                yield self._text(
                    x + (-4 if ends else 4), self.frame.top - 5, mark.label, f"mark-label {mark.style}" + (" end" if ends else "")
                )

    def notes(self) -> Iterator[Markup]:
        for note in self.chart.notes:
            x = self.x(note.x)
            at_right = x > self.frame.width * 0.8
            yield self._text(x + (-8 if at_right else 8), self.y(note.y) + 4, note.text, note.style + (" end" if at_right else ""))

    def _text(self, x: float, y: float, text: str, style: str) -> Markup:
        return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(style, round(x, 1), round(y, 1), escape(text))


def _segment(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(style, x1, y1, x2, y2)


def _extremes(bucket: list[Point]) -> list[Point]:
    finite = [point for point in bucket if math.isfinite(point[1])]
    broken = [point for point in bucket if not math.isfinite(point[1])][:1]
    kept = {min(finite, key=lambda point: point[1]), max(finite, key=lambda point: point[1])} if finite else set()
    return sorted([*kept, *broken], key=lambda point: point[0])


def _finite_stretches(points: Sequence[Point]) -> Iterator[list[Point]]:
    """The points between those that are not finite."""
    stretch: list[Point] = []
    for point in points:
        if math.isfinite(point[1]):
            stretch.append(point)
        elif stretch:
            yield stretch
            stretch = []
    if stretch:
        yield stretch
