"""Completing the evidence of closed incidents, beside the training that goes on: rows, exports, publication, the healed picture.

Whatever fails here is said and left for the next time; a run ends only when each was tried again. Each part has its
receipt, and is not done twice.
"""

import json
import threading

from flows.credentials import credentials_of
from flows.run import Run
from k2.launch.evaluator import EvaluatorClosed
from k2.run.durable import durable_folder, sweep, write_durably
from k2.run.layout import KeptLayout
from k2.run.ledger import Fact, IncidentClosed, IncidentOpened
from k2.run.receipt import find_receipt, read_receipt
from k2.run.records import Branches, branches

_COMPLETING = threading.Lock()  # beside the training, and at the run's end
HEALED = "healed.svg"


def picture_of(run: Run, incident: IncidentOpened, records: Branches | None = None) -> str:
    """The incident as an SVG document, from the records as they are now."""
    from k2.report.incident import incident_picture

    facts = run.facts()
    return incident_picture(run.recipe, facts, branches(run.layout, facts, incident.stage) if records is None else records, incident)


def complete_evidence(run: Run) -> None:
    """Whatever closed incidents still lack."""
    with _COMPLETING:
        for incident in closed_incidents(run.facts()):
            try:
                _complete(run, incident, run.layout.kept(incident.incident))
            except EvaluatorClosed:
                return  # the run is ending; the next driver goes on
            except Exception as error:  # the boundary: evidence that cannot be made now must not harm the run that was healed
                run.say(f"the evidence of incident {incident.incident:03d} is not complete yet: {error}")


def closed_incidents(facts: list[Fact]) -> list[IncidentOpened]:
    closed = {fact.incident for fact in facts if isinstance(fact, IncidentClosed)}
    return [fact for fact in facts if isinstance(fact, IncidentOpened) and fact.incident in closed]


def draw_healed(run: Run) -> None:
    """The healed branch over the abandoned one, where training has come past it."""
    from k2.report.incident import has_passed

    facts, reached = run.facts(), run.holdings().reached
    for incident in closed_incidents(facts):
        path = run.layout.incident(incident.incident) / HEALED
        if not path.exists() and has_passed(run.recipe, facts, incident, reached[incident.stage]):
            write_durably(path, picture_of(run, incident).encode())


def _complete(run: Run, incident: IncidentOpened, kept: KeptLayout) -> None:
    from k2.publish.spike import publish_incident
    from k2.publish.target import resolve_targets

    if find_receipt(kept.published_evidence) is not None:
        return
    for folder in (run.layout.incident(incident.incident), kept.checkpoints, kept.exports):
        sweep(folder)
    parts: dict[str, str] = read_receipt(run.layout.incident(incident.incident)).facts["kept"]
    for name in dict.fromkeys(parts.values()):
        _ask(run, "exported", name, incident)
    _rows(run, incident, kept, parts.get("pre"))
    with credentials_of(run.place):
        publish_incident(run.recipe, kept, resolve_targets(run.place, run.layout))
    run.say(f"incident {incident.incident:03d}: the evidence is complete and published")


def _rows(run: Run, incident: IncidentOpened, kept: KeptLayout, before: str | None) -> None:
    """The rows of the window; with their losses where there is a model from before the spike that can be asked."""
    from k2.data.window import write_window, write_worst_first

    if not kept.window.is_dir():
        with durable_folder(kept.window) as folder:
            write_window(run.recipe, kept, run.facts(), incident, folder)
    losses = None
    if before is not None and _ask(run, "window", before, incident):
        losses = json.loads((kept.window / "losses.json").read_bytes())
    write_worst_first(kept, kept.window, losses)


def _ask(run: Run, duty: str, checkpoint: str, incident: IncidentOpened) -> bool:
    """Ask the evaluator. What it will never do, as for weights that are not finite, is said and left out."""
    answer = run.evaluator.ask("window" if duty == "window" else "exported", checkpoint, incident=incident.incident)
    if answer.ok:
        return True
    if not answer.permanent:
        raise RuntimeError(answer.error or "the evaluator gave no reason")
    run.say(f"incident {incident.incident:03d}: {answer.error}")
    return False
