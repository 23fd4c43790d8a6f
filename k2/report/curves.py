"""Which curves the page shows: loss, gradient norm, learning rate, scores, and a close view of each incident.

A `Lineage` and the ledger enter, `Drawn` charts leave: each drawn wide for a desk and narrow for a phone, so that its
labels stay readable on both.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from markupsafe import Markup

from k2.report.lineage import Lineage, StageLineage, abandoned_branch, operations_of, skipped_windows
from k2.report.plots import Band, Chart, Frame, Line, Mark, Note, Point, Span, XTick, draw, extent, ticks
from k2.report.words import count, loss, number, rate
from k2.run.ledger import Fact, IncidentOpened, StepsSkipped
from k2.run.records import StepRecord

_WIDE, _NARROW = 960, 380
_WINDOW_SHARE = 60  # the smooth curve is a running median over a sixtieth of the steps


@dataclass(frozen=True)
class Drawn:
    """One chart for both widths."""

    wide: Markup
    narrow: Markup


@dataclass(frozen=True)
class ScorePoint:
    """One metric of one checkpoint, at its step of the run."""

    run_step: float
    value: float
    stderr: float | None


def loss_curve(lineage: Lineage, facts: list[Fact]) -> Drawn:
    """Loss over the run: every accepted step, their running median, the abandoned branches in a second colour."""
    accepted = [record.loss for record in lineage.accepted]
    abandoned = list(_abandoned(lineage, facts))
    lines = [
        *_lines(lineage, "raw", lambda record: record.loss),
        *(Line(points, "abandoned") for points in abandoned),
        *_smooth_lines(lineage, lambda record: record.loss),
    ]
    low, high = extent([*accepted, *(loss for points in abandoned for _, loss in points)])
    highest_accepted = max((loss for loss in accepted if math.isfinite(loss)), default=high)
    chart = Chart(
        "Training loss over the steps of the run", (0, 1), (low, min(high, 1.35 * highest_accepted)), lines, notes=list(_peaks(abandoned))
    )
    return _on_run_axis(chart, lineage, facts, height=(340, 250), labelled=True)


def gradient_curve(lineage: Lineage, facts: list[Fact]) -> Drawn:
    """Gradient norm before clipping, on a logarithmic axis."""
    abandoned = list(_abandoned(lineage, facts, lambda record: record.grad_norm))
    lines = [
        *_lines(lineage, "raw", lambda record: record.grad_norm),
        *(Line(points, "abandoned") for points in abandoned),
        *_smooth_lines(lineage, lambda record: record.grad_norm),
    ]
    values = [value for line in lines for _, value in line.points if math.isfinite(value) and value > 0]
    y = (min(values) / 1.2, max(values) * 1.2) if values else (0.1, 10.0)
    return _on_run_axis(Chart("Gradient norm before clipping", (0, 1), y, lines, log=True), lineage, facts, height=(170, 150))


def learning_rate_curve(lineage: Lineage, facts: list[Fact]) -> Drawn:
    lines = list(_lines(lineage, "rate", lambda record: record.lr))
    top = max((record.lr for record in lineage.accepted), default=1e-4)
    return _on_run_axis(Chart("Learning rate", (0, 1), (0.0, top * 1.08), lines, y_format=_rate_tick), lineage, facts, height=(140, 130))


def score_curve(lineage: Lineage, title: str, points: Sequence[ScorePoint]) -> Markup:
    """One task's scores over the checkpoints, with the standard error as a band."""
    band = [(p.run_step, p.value - (p.stderr or 0), p.value + (p.stderr or 0)) for p in points]
    edges = [edge for _, low, high in band for edge in (low, high)]
    y = extent(edges, margin=0.12)
    if min(edges) >= 0:  # what is never negative has no axis below zero
        y = max(y[0], 0.0), y[1]
    chart = Chart(
        title,
        _x_range(lineage),
        y,
        lines=[Line([(p.run_step, p.value) for p in points], "score", dots=len(points) <= 40)],
        bands=[Band(band, "score")] if any(p.stderr for p in points) else [],
        spans=_stage_spans(lineage, labelled=False),
        x_ticks=[XTick(lineage.step_at(tokens), count(tokens)) for tokens in ticks(0, lineage.tokens_at(_x_range(lineage)[1]), 3)],
    )
    return draw(chart, Frame(250, 132, left=44, right=12, top=14, bottom=24, y_ticks=4))


def incident_curve(part: StageLineage, facts: list[Fact], incident: IncidentOpened) -> Drawn | None:
    """The loss around one incident, by steps of its stage: what was abandoned and what came in its place."""
    branch = abandoned_branch(part, facts, incident)
    skips = [fact for fact in operations_of(facts, incident) if isinstance(fact, StepsSkipped)]
    first = min([incident.onset_step, *(skip.first_step for skip in skips), *(record.step for record in branch[:1])])
    reach = max(12, (incident.verdict_step - first))
    x = (max(1, first - reach), incident.verdict_step + reach)
    near = [record for record in part.accepted if x[0] <= record.step <= x[1]]
    spiked = [(float(record.step), record.loss) for record in branch if x[0] <= record.step <= x[1]]
    if not near and not spiked:
        return None
    chart = Chart(
        f"Loss around incident {incident.incident}",
        x,
        extent([*(record.loss for record in near), *(loss for _, loss in spiked)]),
        lines=[Line(spiked, "abandoned thick"), *(Line(points, "accepted") for points in _stretches(near, lambda record: record.loss))],
        spans=[Span(skip.first_step - 0.5, skip.last_step + 0.5, "skipped", "skipped") for skip in skips],
        marks=[Mark(incident.onset_step, "onset", "onset", "end"), Mark(incident.verdict_step, "verdict", "verdict")],
    )
    return _both(lambda about: replace(chart, x_ticks=_step_ticks(x, about, f"step of {part.stage.name}")), (230, 210))


def hover_points(lineage: Lineage, limit: int = 1200) -> list[list[float | str]]:
    """What the pointer reads out: step of the run, stage, step, tokens, loss, gradient norm, learning rate. Spikes are kept."""
    rows = [(part, record) for part in lineage.stages for record in part.accepted]
    stride = max(1, math.ceil(2 * len(rows) / limit))
    kept: list[list[float | str]] = []
    for start in range(0, len(rows), stride):
        bucket = sorted(rows[start : start + stride], key=lambda row: _rank(row[1].loss))
        chosen = {id(row[1]): row for row in (bucket[0], bucket[-1])}
        kept += [_readout(*row) for row in sorted(chosen.values(), key=lambda row: row[1].step)]
    return kept + [_readout(*row) for row in rows[-1:] if _readout(*row) != kept[-1]]


def _readout(part: StageLineage, record: StepRecord) -> list[float | str]:
    values = [loss(record.loss), number(record.grad_norm), rate(record.lr)]
    return [part.run_step(record.step), part.stage.name, f"{record.step:,}", count(record.tokens), *values]


def _rank(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _on_run_axis(chart: Chart, lineage: Lineage, facts: list[Fact], height: tuple[int, int], labelled: bool = False) -> Drawn:
    """The chart on the axis of the whole run, with stages, chunk ends and incidents."""
    x = _x_range(lineage)
    skipped = [
        Span(part.run_step(skip.first_step - 0.5), part.run_step(skip.last_step + 0.5), "skipped")
        for part in lineage.stages
        for skip in skipped_windows(facts, part.stage.name)
    ]
    complete = replace(
        chart,
        x=x,
        spans=[*_stage_spans(lineage, labelled), *skipped],
        marks=list(_incident_marks(lineage, facts, labelled)),
        notches=_chunk_ends(lineage, x),
    )
    return _both(lambda about: replace(complete, x_ticks=_run_ticks(lineage, x, about)), height)


def _both(build: Callable[[int], Chart], height: tuple[int, int]) -> Drawn:
    wide, narrow = Frame(_WIDE, height[0], bottom=40), Frame(_NARROW, height[1], left=42, right=8, bottom=40, y_ticks=4)
    return Drawn(draw(build(8), wide), draw(build(3), narrow))


def _x_range(lineage: Lineage) -> tuple[float, float]:
    """The whole plan once a third of it is trained, before that what there is and some room."""
    total, reached = lineage.total_steps, lineage.reached
    return 0.0, float(total if 3 * reached >= total or not reached else min(total, max(10, round(1.3 * reached))))


def _run_ticks(lineage: Lineage, x: tuple[float, float], about: int) -> list[XTick]:
    return [
        XTick(step, f"{step:,.0f}", f"{count(lineage.tokens_at(step))} tokens" if step else "step")
        for step in ticks(*x, about)
        if step == int(step)
    ]


def _step_ticks(x: tuple[float, float], about: int, unit: str) -> list[XTick]:
    steps = [step for step in ticks(*x, about) if step == int(step)]
    return [XTick(step, f"{step:,.0f}", unit if step == steps[len(steps) // 2] else "") for step in steps]


def _chunk_ends(lineage: Lineage, x: tuple[float, float]) -> list[float]:
    """Where chunks end; every k-th when they stand closer than can be seen."""
    ends = [part.run_step(chunk * part.stage.steps_per_chunk) for part in lineage.stages for chunk in range(1, part.stage.chunks + 1)]
    shown = [end for end in ends if end <= x[1]]
    return shown[:: max(1, math.ceil(len(shown) / 120))]


def _stage_spans(lineage: Lineage, labelled: bool) -> list[Span]:
    """Every second stage is shaded."""
    limit = _x_range(lineage)[1]
    return [
        Span(part.before, min(limit, part.before + part.stage.steps), f"stage{position % 2}", part.stage.name if labelled else "")
        for position, part in enumerate(lineage.stages)
        if part.before < limit
    ]


def _incident_marks(lineage: Lineage, facts: list[Fact], labelled: bool) -> Iterator[Mark]:
    for incident in facts:
        if isinstance(incident, IncidentOpened):
            part = lineage.of(incident.stage)
            yield Mark(part.run_step(incident.onset_step), "onset", f"incident {incident.incident}" if labelled else "")
            yield Mark(part.run_step(incident.verdict_step), "verdict")


def _lines(lineage: Lineage, style: str, value: Callable[[StepRecord], float]) -> Iterator[Line]:
    for part in lineage.stages:
        for points in _stretches(part.accepted, value):
            yield Line([(part.run_step(x), y) for x, y in points], style)


def _smooth_lines(lineage: Lineage, value: Callable[[StepRecord], float]) -> Iterator[Line]:
    window = max(5, len(lineage.accepted) // _WINDOW_SHARE)
    for line in _lines(lineage, "accepted", value):
        points = [point for point in line.points if math.isfinite(point[1])]
        if len(points) >= window:
            yield replace(line, points=running_median(points, window))


def running_median(points: Sequence[Point], window: int) -> list[Point]:
    """The median of about `window` points around each place, at steps of a quarter window."""
    half, stride = window // 2, max(1, window // 4)
    places = [*range(0, len(points), stride), len(points) - 1]
    return [(points[i][0], median(y for _, y in points[max(0, i - half) : i + half + 1])) for i in places]


def _stretches(records: Sequence[StepRecord], value: Callable[[StepRecord], float]) -> list[list[Point]]:
    """Points of steps that follow each other; a skipped window parts them."""
    stretches: list[list[Point]] = []
    for position, record in enumerate(records):
        if position == 0 or record.step != records[position - 1].step + 1:
            stretches.append([])
        stretches[-1].append((float(record.step), value(record)))
    return stretches


def _abandoned(
    lineage: Lineage, facts: list[Fact], value: Callable[[StepRecord], float] = lambda record: record.loss
) -> Iterator[list[Point]]:
    for incident in facts:
        if isinstance(incident, IncidentOpened):
            part = lineage.of(incident.stage)
            points = [(part.run_step(record.step), value(record)) for record in abandoned_branch(part, facts, incident)]
            if points:
                yield points


def _peaks(abandoned: Sequence[Sequence[Point]]) -> Iterator[Note]:
    for points in abandoned:
        finite = [point for point in points if math.isfinite(point[1])]
        if finite:
            peak = max(finite, key=lambda point: point[1])
            yield Note(peak[0], peak[1], f"peak {number(peak[1])}", "note abandoned")


def _rate_tick(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
