"""What a run shows in the orchestrator's UI: progress, loss curve, scores, incidents, and where the page lies.

What enters is the run directory; what leaves are artifacts on the flow run's page. All of it is posted from a thread
of its own and may fail: an API error is said once in the log, and neither slows nor ends a run.
"""

import contextvars
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable

from flows.prefect_api import server_answers
from flows.progress import describe, done_fraction
from flows.sketch import curve_markdown, incident_markdown, page_markdown, score_table
from k2.eval.scores import read_scores
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.ledger import IncidentDecided, IncidentOpened, read_facts
from k2.run.records import StepRecord, accepted_records

PROGRESS_SECONDS = 10.0
_LAST_WORDS_SECONDS = 20.0
_LOG = logging.getLogger(__name__)


def artifact_key(run: str, what: str) -> str:
    """Prefect takes lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", f"{run}-{what}".lower()).strip("-")


class Board:
    """The artifacts of one run. Create it inside the flow: what is posted belongs to that flow run."""

    def __init__(self, recipe: Recipe, layout: RunLayout, clock: Callable[[], float] = time.monotonic) -> None:
        self._recipe, self._layout, self._clock = recipe, layout, clock
        self._poster = Poster()
        self._recent: deque[StepRecord] = deque(maxlen=50)
        self._progress_at = float("-inf")
        self._progress_id: object = None

    def show_progress(self, record: StepRecord) -> None:
        """At most every ten seconds, and at the last step."""
        self._recent.append(record)
        last = record.step == self._recipe.stage(record.stage).steps
        if last or self._clock() - self._progress_at >= PROGRESS_SECONDS:
            self._progress_at = self._clock()
            recent = list(self._recent)
            self._poster.post("progress", lambda: self._post_progress(recent))

    def show_curve(self) -> None:
        """The loss of the accepted lineage so far."""
        self._poster.post("curve", lambda: self._post_markdown("loss", curve_markdown(self._accepted()), "Training loss"))

    def show_scores(self) -> None:
        """Every checkpoint's scores."""
        self._poster.post("scores", self._post_scores)

    def show_incident(self, incident: IncidentOpened, decision: IncidentDecided) -> None:
        """What was seen, what was decided, and where the evidence lies."""
        text = incident_markdown(self._layout, incident, decision)
        key = f"incident-{incident.incident:03d}"
        self._poster.post(key, lambda: self._post_markdown(key, text, f"Incident {incident.incident:03d}"))

    def show_page(self) -> None:
        """Where the page lies; everything that is still to be posted is posted first."""
        self._poster.post("page", lambda: self._post_markdown("page", page_markdown(self._layout), "The run's page"))
        self._poster.flush(_LAST_WORDS_SECONDS)

    def _accepted(self) -> list[StepRecord]:
        facts = read_facts(self._layout.ledger)
        return [record for stage in self._recipe.stages for record in accepted_records(self._layout, facts, stage.name)]

    def _post_progress(self, recent: list[StepRecord]) -> None:
        from uuid import UUID

        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        percent, text = 100 * done_fraction(self._recipe, recent[-1]), describe(self._recipe, recent)
        if isinstance(self._progress_id, UUID):
            update_progress_artifact(self._progress_id, percent, text)
        else:
            self._progress_id = create_progress_artifact(percent, artifact_key(self._layout.name, "progress"), text)

    def _post_scores(self) -> None:
        from prefect.artifacts import create_table_artifact

        rows = score_table(read_scores(self._layout))
        create_table_artifact(rows, artifact_key(self._layout.name, "scores"), "Scores of every checkpoint, by tokens trained")

    def _post_markdown(self, what: str, text: str, title: str) -> None:
        from prefect.artifacts import create_markdown_artifact

        create_markdown_artifact(text, artifact_key(self._layout.name, what), f"{title} of {self._layout.name}")


class Poster:
    """Runs what it is given in one thread, in the context in which it was made. Of the same key only the newest waits."""

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        self._changed = threading.Condition()
        self._waiting: dict[str, Callable[[], None]] = {}
        self._busy = False
        self._complained = False

    def post(self, key: str, call: Callable[[], None]) -> None:
        """Returns at once."""
        with self._changed:
            self._waiting[key] = call
            if not self._busy:
                self._busy = True
                threading.Thread(target=lambda: self._context.run(self._work), name="artifacts", daemon=True).start()

    def flush(self, seconds: float) -> bool:
        """Wait until everything was tried; whether it was."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, seconds)

    def _work(self) -> None:
        while (call := self._next()) is not None:
            self._try(call)

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            if self._waiting:
                return self._waiting.pop(next(iter(self._waiting)))
            self._busy = False
            self._changed.notify_all()
            return None

    def _try(self, call: Callable[[], None]) -> None:
        if not server_answers():
            return
        try:
            call()
        except Exception as error:  # the boundary to the orchestrator's UI: what it cannot show does not matter to a run
            if not self._complained:
                _LOG.warning("artifacts cannot be posted (%s: %s); the run goes on", type(error).__name__, error)
            self._complained = True
