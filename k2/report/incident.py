"""One incident as a picture of its own: loss over the reference band, gradient norm below, onset and verdict marked.

Recipe, ledger and step records enter, an SVG document leaves that carries its colours and needs no page: it lies among
the evidence, stands in the form that asks for a decision, and is drawn again when the healed branch has passed.
"""

from collections.abc import Sequence

from markupsafe import Markup

from k2.recipe.schema import Recipe
from k2.recipe.spikes import Spikes
from k2.report.plots import Band, Chart, Frame, Line, Mark, Point, Span, XTick, draw, extent, ticks
from k2.run.ledger import Fact, IncidentDecided, IncidentOpened, StepsSkipped
from k2.run.records import Branches, StepRecord, accepted_of

_WIDTH, _LOSS_HEIGHT, _NORM_HEIGHT = 760, 260, 150
_STYLE = (
    "text{font:12px system-ui,sans-serif}.grid{stroke:#e6e3dc}.axis{stroke:#8b929a}.tick-x,.tick-y,.span-label{fill:#5d656e}"
    ".tick-x{text-anchor:middle}.tick-y{text-anchor:end}.tick-x.end,.mark-label.end{text-anchor:end}.tick-x.under{fill:#5d656e}"
    ".line{fill:none;stroke:#1f5aa8;stroke-width:2}.line.abandoned{stroke:#c2452d}.dot{fill:#1f5aa8}.dot.abandoned{fill:#c2452d}"
    ".band{fill:#1f5aa8;opacity:.14}.span.skipped{fill:#f0c35a;opacity:.42}.mark{stroke:#c2452d;stroke-width:1.2}"
    ".mark.onset{stroke-dasharray:3 3}.mark-label,.not-finite{fill:#c2452d;font-weight:600}.title{fill:#1d2126;font-weight:600}"
)


def incident_picture(recipe: Recipe, facts: list[Fact], records: Branches, incident: IncidentOpened) -> str:
    """The SVG document. `records` are the branches of the incident's stage."""
    accepted, spiked = _two_branches(facts, records, incident)
    x = _window(recipe.spikes, facts, incident, accepted)
    healed, left = _inside(accepted, x), _inside(spiked, x)
    loss = Chart(
        f"Loss around incident {incident.incident}",
        x,
        extent([record.loss for record in (*healed, *left)]),
        lines=_lines(healed, left, "loss"),
        bands=[Band(_reference_band(recipe.spikes, incident, x), "reference")] if "reference" in incident.evidence else [],
        spans=_skipped(facts, incident, x),
        marks=[Mark(incident.onset_step, "onset", "onset", "end"), Mark(incident.verdict_step, "verdict", "verdict")],
    )
    norms = Chart(
        "Gradient norm before clipping",
        x,
        _positive_extent([record.grad_norm for record in (*healed, *left)]),
        lines=[
            Line(_points(left, "grad_norm"), "abandoned"),
            *(Line(part, "accepted") for part in _unbroken(_points(healed, "grad_norm"))),
        ],
        spans=_skipped(facts, incident, x),
        marks=[Mark(incident.onset_step, "onset"), Mark(incident.verdict_step, "verdict")],
        x_ticks=[XTick(step, f"{step:,.0f}") for step in ticks(*x, 8) if step == int(step)],
        log=True,
    )
    return _document(incident, loss, norms)


def has_passed(recipe: Recipe, facts: list[Fact], incident: IncidentOpened, reached: int) -> bool:
    """Whether training has come back past all that the picture shows, so that it need not be drawn again."""
    return reached >= _window(recipe.spikes, facts, incident, [])[1]


def _document(incident: IncidentOpened, loss: Chart, norms: Chart) -> str:
    height = _LOSS_HEIGHT + _NORM_HEIGHT + 24
    title = f"incident {incident.incident:03d}: {incident.kind} in {incident.stage}, attempt {incident.attempt}"
    parts = (
        Markup('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}">').format(w=_WIDTH, h=height),
        Markup("<style>{}</style>").format(Markup(_STYLE)),  # noqa: S704 (a constant)
        Markup('<rect width="{}" height="{}" fill="#fbfaf7"/><text class="title" x="12" y="17">{}</text>').format(_WIDTH, height, title),
        Markup('<g transform="translate(0,20)">{}</g>').format(draw(loss, Frame(_WIDTH, _LOSS_HEIGHT, bottom=12))),
        Markup('<g transform="translate(0,{})">{}</g>').format(20 + _LOSS_HEIGHT, draw(norms, Frame(_WIDTH, _NORM_HEIGHT, bottom=26))),
        Markup("</svg>"),
    )
    return str(Markup("").join(parts))


def _two_branches(facts: list[Fact], records: Branches, incident: IncidentOpened) -> tuple[list[StepRecord], list[StepRecord]]:
    """What counts, and the spiked attempt's own records; these lie apart from where a rollback left them behind."""
    accepted = accepted_of(records, facts, incident.stage)
    spiked = records.get(incident.attempt, [])
    kept = {record.step for record in accepted if record.attempt == incident.attempt}
    rolled_back = any(isinstance(f, IncidentDecided) and f.incident == incident.incident and f.action == "rollback" for f in facts)
    if rolled_back and len(kept) < len(spiked):
        first = min(record.step for record in spiked if record.step not in kept)
        return accepted, [record for record in spiked if record.step >= first - 1]
    before_onset = [record for record in accepted if record.step < incident.onset_step or record.attempt != incident.attempt]
    return before_onset, [record for record in spiked if record.step >= incident.onset_step - 1]


def _window(spikes: Spikes, facts: list[Fact], incident: IncidentOpened, accepted: Sequence[StepRecord]) -> tuple[float, float]:
    """From well before the onset to as far behind the verdict, or where the skipped steps end."""
    around = max(2 * spikes.persistence_steps, incident.verdict_step - incident.onset_step)
    ends = [incident.verdict_step, *(skip.last_step for skip in _skips(facts, incident))]
    starts = [incident.onset_step, *(skip.first_step for skip in _skips(facts, incident))]
    return float(max(1, min(starts) - around)), float(max(ends) + around)


def _skips(facts: list[Fact], incident: IncidentOpened) -> list[StepsSkipped]:
    mine = f"incident {incident.incident:03d}:"
    return [fact for fact in facts if isinstance(fact, StepsSkipped) and fact.stage == incident.stage and fact.why.startswith(mine)]


def _skipped(facts: list[Fact], incident: IncidentOpened, x: tuple[float, float]) -> list[Span]:
    return [Span(max(x[0], f.first_step - 0.5), min(x[1], f.last_step + 0.5), "skipped", "skipped") for f in _skips(facts, incident)]


def _reference_band(spikes: Spikes, incident: IncidentOpened, x: tuple[float, float]) -> list[tuple[float, float, float]]:
    """The frozen reference with what counts as quiet around it."""
    centre, deviation = incident.evidence["reference"], incident.evidence.get("deviation", 0.0)
    room = max(spikes.level_deviations * deviation, spikes.level_nats)
    return [(step, centre - room, centre + room) for step in x]


def _inside(records: Sequence[StepRecord], x: tuple[float, float]) -> list[StepRecord]:
    return [record for record in records if x[0] <= record.step <= x[1]]


def _lines(healed: Sequence[StepRecord], left: Sequence[StepRecord], field: str) -> list[Line]:
    """The accepted branch over the one that was left."""
    return [Line(_points(left, field), "abandoned"), *(Line(part, "accepted") for part in _unbroken(_points(healed, field)))]


def _points(records: Sequence[StepRecord], field: str) -> list[Point]:
    return [(float(record.step), float(getattr(record, field))) for record in records]


def _unbroken(points: Sequence[Point]) -> list[list[Point]]:
    """Skipped steps part a curve."""
    parts: list[list[Point]] = []
    for position, point in enumerate(points):
        if position == 0 or point[0] > points[position - 1][0] + 1:
            parts.append([])
        parts[-1].append(point)
    return parts


def _positive_extent(values: Sequence[float]) -> tuple[float, float]:
    low, high = extent([value for value in values if value > 0])
    finite = [value for value in values if 0 < value < float("inf")]
    return (min(finite) / 1.2, max(finite) * 1.2) if finite else (max(low, 0.1), max(high, 10.0))
