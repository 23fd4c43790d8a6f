"""Markdown and tables for the orchestrator's UI. Pure: records, scores and facts in, text out.

The curve is drawn twice: as an SVG image inside the markdown, and as a table of the loss at a few points, which
every reader can show.
"""

import base64
import math
from collections.abc import Sequence
from statistics import median

from k2.eval.scores import ScoreRow
from k2.run.layout import RunLayout
from k2.run.ledger import IncidentDecided, IncidentOpened
from k2.run.records import StepRecord

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 260, 52, 26
_DRAWN_POINTS = 600
_TABLE_ROWS = 12


def curve_markdown(records: Sequence[StepRecord]) -> str:
    """The loss over the steps of the run: an image, and a table of where it stood."""
    if not records:
        return "No step is trained yet."
    image = base64.b64encode(curve_svg([record.loss for record in records]).encode()).decode()
    alt = f"loss from {records[0].loss:.3f} to {records[-1].loss:.3f} over {len(records)} steps"
    return f"![{alt}](data:image/svg+xml;base64,{image})\n\n{_curve_table(records)}"


def curve_svg(losses: Sequence[float]) -> str:
    """A line over the finite losses, with the axis labelled at its ends. Colours that hold on light and dark."""
    points = [(position, loss) for position, loss in enumerate(losses) if math.isfinite(loss)]
    low, high = min((y for _, y in points), default=0.0), max((y for _, y in points), default=1.0)
    across, up = (_WIDTH - _LEFT - 8) / max(1, len(losses) - 1), (_HEIGHT - _BOTTOM - 12) / ((high - low) or 1.0)
    line = " ".join(f"{_LEFT + x * across:.1f},{_HEIGHT - _BOTTOM - (y - low) * up:.1f}" for x, y in _thin(points))
    text = 'font-family="sans-serif" font-size="12" fill="#888"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}">'
        f'<path d="M{_LEFT} 8V{_HEIGHT - _BOTTOM}H{_WIDTH - 8}" fill="none" stroke="#888"/>'
        f'<polyline points="{line}" fill="none" stroke="#2f7ed8" stroke-width="1.5"/>'
        f'<text x="{_LEFT - 6}" y="18" text-anchor="end" {text}>{high:.2f}</text>'
        f'<text x="{_LEFT - 6}" y="{_HEIGHT - _BOTTOM}" text-anchor="end" {text}>{low:.2f}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}" {text}>step 1</text>'
        f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 8}" text-anchor="end" {text}>{len(losses)}</text></svg>'
    )


def score_table(rows: Sequence[ScoreRow]) -> list[dict[str, str]]:
    """One row a checkpoint, one column a metric."""
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        line = table.setdefault(row.checkpoint, {"checkpoint": row.checkpoint, "stage": row.stage, "tokens": f"{row.tokens:,}"})
        spread = "" if row.stderr is None else f" ± {row.stderr:.3f}"
        line[f"{row.task} {row.metric}"] = f"{row.value:.4g}{spread}"
    return list(table.values())


def incident_markdown(layout: RunLayout, incident: IncidentOpened, decision: IncidentDecided) -> str:
    """What was seen, what was decided, and where the evidence lies."""
    numbers = "\n".join(f"| {name.replace('_', ' ')} | {value:.6g} |" for name, value in incident.evidence.items())
    target = decision.checkpoint or "the start of the stage"
    done = {"rollback": f"back to **{target}**, data: {decision.data}", "continue": "training goes on", "abort": "the run ends"}
    return (
        f"## {incident.kind} in {incident.stage}\n\n"
        f"Began at step **{incident.onset_step}**, verdict at step {incident.verdict_step}, attempt {incident.attempt}.\n\n"
        f"Decided by {decision.who}: {done[decision.action]}.\n\n"
        f"| evidence | value |\n|---|---|\n{numbers}\n\n"
        f"Records and summary: `{layout.incident(incident.incident).resolve()}`\n"
    )


def page_markdown(layout: RunLayout) -> str:
    """Where to look. A browser does not follow a link from a server to a file, so it is text to copy."""
    return (
        f"The page with curves, incidents, scores and data of this run is one file:\n\n    {layout.page.resolve()}\n\n"
        f"Checkpoints: `{layout.checkpoints.resolve()}`\n"
    )


def _curve_table(records: Sequence[StepRecord]) -> str:
    """The median loss of equal stretches of the run."""
    size = max(1, math.ceil(len(records) / _TABLE_ROWS))
    lines = ["| stage | steps | loss (median) | learning rate | tokens |", "|---|---|---|---|---|"]
    for stretch in (records[start : start + size] for start in range(0, len(records), size)):
        last, middle = stretch[-1], median(record.loss for record in stretch)
        lines.append(f"| {last.stage} | {stretch[0].step} to {last.step} | {middle:.4f} | {last.lr:.3g} | {last.tokens:,} |")
    return "\n".join(lines)


def _thin(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most so many points, keeping the highest and lowest of each stretch."""
    size = math.ceil(2 * len(points) / _DRAWN_POINTS)
    if size <= 2:
        return list(points)
    kept = []
    for stretch in (points[start : start + size] for start in range(0, len(points), size)):
        kept += sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
    return kept
