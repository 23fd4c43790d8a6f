"""Answering an open incident, from wherever the answer comes: the command line, the form in the UI, or the clock.

The ledger is the one place where an answer counts, and only the first does: whoever comes second is told who was
there before. An answer wakes the flow run that was suspended for it; where there is none, or no server, `k2 resume`
goes on.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from flows.environment import in_environment
from flows.prefect_api import api_reachable
from flows.run import Run
from k2.run.durable import write_durably
from k2.run.holdings import read_holdings
from k2.run.layout import RunLayout
from k2.run.lease import RunHeld, hold
from k2.run.ledger import Fact, IncidentDecided, append_facts, read_facts
from k2.run.opening import open_run
from k2.run.plan import decision_of, open_incident
from k2.watch.asking import answer_overdue
from k2.watch.policy import Choice, decide

_LEAVING_SECONDS = 20.0  # a flow run that is being suspended closes its evaluator before it lets the run go


@dataclass(frozen=True)
class Asked:
    """A flow run that waits, suspended, for the answer to an incident."""

    incident: int
    flow_run: str
    api_url: str


def note_asked(layout: RunLayout, asked: Asked) -> None:
    """Remember who waits, before anybody can answer."""
    write_durably(layout.asked, json.dumps(asdict(asked)).encode())


def read_asked(layout: RunLayout) -> Asked | None:
    """Who waits, if anybody does."""
    try:
        return Asked(**json.loads(layout.asked.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def decide_incident(
    layout: RunLayout, incident: int, action: Choice, to: str | None, data: Literal["skip", "defer"] | None, who: str
) -> None:
    """Record the answer of a human. `DecisionRefused` when it cannot be given, or was given already; `RunHeld` while the run is driven."""
    recipe, _ = open_run(layout)

    def answers() -> tuple[Fact, ...]:
        facts = read_facts(layout.ledger)
        return decide(recipe, facts, read_holdings(recipe, layout, facts), incident, action, to, data, who)

    answers()  # refused before the run is asked for: whoever comes second learns who was first, also while it is driven
    with _held(layout):
        append_facts(layout.ledger, *answers())


def decide_overdue(layout: RunLayout, incident: int) -> IncidentDecided | None:
    """Record the recipe's default if the incident is still open and its time has passed; the decision that stands then."""
    recipe, _ = open_run(layout)
    with _held(layout):
        facts = read_facts(layout.ledger)
        opened = open_incident(facts)
        if opened is not None and opened.incident == incident and decision_of(facts, incident) is None:
            now = datetime.now(UTC)
            facts = append_facts(layout.ledger, *answer_overdue(recipe, facts, read_holdings(recipe, layout, facts), opened, now))
    return decision_of(facts, incident)


def answer_if_overdue(run: Run) -> bool:
    """For a run that is held: whether its open incident has been answered by the clock now."""
    facts = run.facts()
    opened = open_incident(facts)
    answers: tuple[Fact, ...] = ()
    if opened is not None and decision_of(facts, opened.incident) is None:
        answers = answer_overdue(run.recipe, facts, run.holdings(), opened, datetime.now(UTC))
    if answers and opened is not None:
        run.record(*answers)
        run.say(f"incident {opened.incident:03d} had no answer in time: {run.recipe.spikes.unanswered}, as the recipe says")
    return bool(answers)


def wake(layout: RunLayout) -> bool:
    """Let the flow run that waits for an answer go on; whether there was one, and a server to tell it."""
    asked = read_asked(layout)
    if asked is None or not api_reachable(asked.api_url):
        return False
    with _server_of(asked):
        woken = _reschedule(asked)
    if woken:
        layout.asked.unlink(missing_ok=True)
    return woken


def _reschedule(asked: Asked) -> bool:
    """By force: a resume asks for the form's fields, and the answer is in the ledger already."""
    from uuid import UUID

    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Scheduled

    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(asked.flow_run)).state
        except ObjectNotFound:
            return False
        if state is None or not state.is_paused():
            return False
        client.set_flow_run_state(UUID(asked.flow_run), Scheduled(name="Resuming", message="the incident was answered"), force=True)
        return True


@contextmanager
def _server_of(asked: Asked) -> Iterator[None]:
    """The server that the flow run belongs to, as Prefect's client finds it. Call it before Prefect is imported."""
    known = {"PREFECT_API_URL": asked.api_url}
    if "PREFECT_API_AUTH_STRING" not in os.environ and "PREFECT_SERVER_API_AUTH_STRING" in os.environ:
        known["PREFECT_API_AUTH_STRING"] = os.environ["PREFECT_SERVER_API_AUTH_STRING"]
    with in_environment(known):
        yield


@contextmanager
def _held(layout: RunLayout) -> Iterator[None]:
    """Hold the run; one that is just being suspended is waited for."""
    deadline = time.monotonic() + (_LEAVING_SECONDS if read_asked(layout) is not None else 0.0)
    while True:
        try:
            with hold(layout):
                yield
                return
        except RunHeld:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
