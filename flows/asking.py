"""Asking a human in the Prefect UI: the flow run is suspended, with the incident's picture and a form.

What enters is a held run whose incident nobody may answer alone; what leaves is a suspended flow run whose process is
gone, and later the form's answer as facts. State, form and answer lie in the server's database, the question in the
ledger, so server and worker may be restarted in between. Who answers first wins, and the ledger says who did.
"""

import base64
import os
import time
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import httpx
from prefect import flow, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort, ObjectNotFound, Pause
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.input.run_input import keyset_from_base_key
from prefect.states import Completed, Scheduled
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from flows.deciding import Asked, decide_overdue, note_asked, wake
from flows.evidence import picture_of
from flows.notify import tell_spike
from flows.prefect_api import server_answers
from flows.requests import RunName, layout_of
from flows.run import Run
from k2.run.layout import RunLayout
from k2.run.ledger import IncidentOpened
from k2.run.plan import decision_of, open_incident
from k2.watch.asking import Question, question
from k2.watch.policy import DecisionRefused, decide

FORM = "the form in the UI"  # who decided; an open-source server knows no person
_OVERDUE = "answer-overdue/answer-overdue"
_START = "the start of the stage"
_RESPONSE = "-response"
_SERVER_BACK_SECONDS = 600.0


class OverdueRequest(BaseModel):
    """Which incident's time to be answered has passed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: RunName = "k2-tiny"
    incident: int = 1
    runs_dir: str | None = Field(default=None, description="where runs lie; empty: the worker's own runs directory")


@flow(name="answer-overdue", flow_run_name="answer incident {request.incident} of {request.run}", persist_result=False)
def answer_overdue(request: OverdueRequest = OverdueRequest()) -> State[Any]:
    """Give an incident the recipe's default answer if nobody answered in time, and let the run go on.

    Args:
        request: which incident
    """
    layout = layout_of(request.run, request.runs_dir)
    decision = decide_overdue(layout, request.incident)
    if decision is None:
        return Completed(name="Early", message="its time has not passed, or there is no such open incident")
    wake(layout)
    return Completed(message=f"{decision.action}, decided by {decision.who}")


def take_answers(run: Run) -> None:
    """Record what the form of this flow run was answered with, if it was. An answer is read once, and counts for its own question only."""
    incident = open_incident(run.facts())
    if incident is None or not runtime.flow_run.id or not server_answers():
        return
    flow_run = UUID(str(runtime.flow_run.id))
    with get_client(sync_client=True) as client:
        found = client.filter_flow_run_input(flow_run, key_prefix=f"suspended-{_key(incident)}", limit=100, exclude_keys=set())
        for given in (one for one in found if one.key.endswith(_RESPONSE)):
            _record(run, incident, given.decoded_value)
            client.delete_flow_run_input(flow_run, given.key)
    run.layout.asked.unlink(missing_ok=True)


def suspend_until_answered(run: Run, incident: IncidentOpened) -> None:
    """Suspend this flow run with the form; Prefect's `Pause` leaves, and nothing returns. It returns where nobody could resume the run."""
    flow_run = str(runtime.flow_run.id or "")
    if not flow_run or not runtime.deployment.id or not server_answers():
        return
    asked = question(run.recipe, run.layout.name, run.facts(), run.holdings(), incident)
    form = form_of(asked).with_initial_data(description=describe(run.layout, asked, picture_of(run, incident)))
    note_asked(run.layout, Asked(incident.incident, flow_run, os.environ.get("PREFECT_API_URL", "")))
    if asked.deadline is not None:
        _schedule_default(run.layout, incident, asked.deadline)
    run.say(f"incident {incident.incident:03d} waits for a decision: suspended until the form or `k2 decide` answers it")
    because = f": {asked.why}" if asked.why else ""
    text = f"incident {incident.incident} ({incident.kind}) waits for a decision{because}"
    tell_spike(run.layout, "asked", text, incident=incident.incident)
    _suspend(run, form, f"{_key(incident)}-{runtime.flow_run.run_count}")


def _suspend(run: Run, form: type[RunInput], key: str) -> None:
    """Suspend, and see to it that the form is there: Prefect stores it after the state, and a server may go away in between."""
    end = time.monotonic() + _SERVER_BACK_SECONDS
    while time.monotonic() < end:
        try:
            if _is_suspended():
                form.save(keyset_from_base_key(f"suspended-{key}"))
                raise Pause("an incident waits for a decision")
            suspend_flow_run(wait_for_input=form, key=key)
        except httpx.HTTPError:
            time.sleep(1.0)
        except (RuntimeError, Abort) as error:
            return run.say(f"the flow run could not be suspended ({error}); answer with `k2 decide` and go on with `k2 resume`")
    return run.say("the server is away for good: answer with `k2 decide` and go on with `k2 resume`")


def _is_suspended() -> bool:
    """Whether this flow run's state is set already, as after a server that went away just then."""
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(str(runtime.flow_run.id))).state
    return state is not None and state.is_paused()


def form_of(asked: Question) -> type[RunInput]:
    """The form: each field offers exactly what would be accepted, and the question's name goes back with the answer."""
    proposed = asked.proposed or _START
    targets = tuple(dict.fromkeys((proposed, *asked.targets)))
    fields: dict[str, Any] = {
        "action": (_one_of("rollback", "continue", "abort"), Field(asked.default, description="go back, go on as it is, or end the run")),
        "go_back_to": (_one_of(*targets), Field(proposed, description="the checkpoint to go back to; the policy's choice is set")),
        "question": (_one_of(asked.name), Field(asked.name, description="what is answered: leave it as it is")),
    }
    if asked.operations:
        words = "skip the spiked steps, or defer their chunk to the end of the order"
        fields["data"] = (_one_of(*asked.operations), Field(asked.operations[0], description=words))
    return create_model("SpikeDecision", __base__=RunInput, **fields)


def describe(layout: RunLayout, asked: Question, picture: str) -> str:
    """What the person who answers is shown, as Markdown with the picture inside."""
    incident, evidence = asked.incident, asked.incident.evidence
    image = base64.b64encode(picture.encode()).decode()
    until = "It waits until somebody answers."
    if asked.deadline is not None:
        until = f"Without an answer by {asked.deadline:%Y-%m-%d %H:%M:%S} UTC: **{asked.default}**."
    why = f"Asked because {asked.why}. " if asked.why else ""
    return (
        f"**{incident.kind}** in {incident.stage} of `{layout.name}`: onset at step {incident.onset_step:,}, verdict at step "
        f"{incident.verdict_step:,}, the loss up by {evidence.get('rise_nats', 0.0):.3f} nat (z {evidence.get('z', 0.0):.1f}).\n\n"
        f"{why}The policy would go back to **{asked.proposed or _START}**. {until}\n\n"
        f"On a command line: `k2 decide {layout.name} {incident.incident} rollback|continue|abort`.\n\n"
        f"![loss and gradient norm around the incident](data:image/svg+xml;base64,{image})\n"
    )


def _record(run: Run, incident: IncidentOpened, answer: dict[str, Any]) -> None:
    facts = run.facts()
    given = decision_of(facts, incident.incident)
    if given is not None:
        run.say(f"the form's answer came too late: incident {incident.incident:03d} was answered with {given.action!r} by {given.who}")
        return
    try:
        run.record(*_facts_of(run, incident, answer))
    except (DecisionRefused, ValidationError) as error:
        run.say(f"the form's answer is refused: {error}")


def _facts_of(run: Run, incident: IncidentOpened, answer: dict[str, Any]) -> tuple[Any, ...]:
    """The answer's facts. `DecisionRefused` for one that was given to another question."""
    facts, holdings = run.facts(), run.holdings()
    asked = question(run.recipe, run.layout.name, facts, holdings, incident)
    if answer.get("question") != asked.name:
        raise DecisionRefused(f"it answers {answer.get('question')!r}, asked was {asked.name!r}")
    filled = form_of(asked)(**answer).model_dump()
    if filled["action"] != "rollback":
        return decide(run.recipe, facts, holdings, incident.incident, filled["action"], who=FORM)
    target = None if filled["go_back_to"] == (asked.proposed or _START) else filled["go_back_to"]
    return decide(run.recipe, facts, holdings, incident.incident, "rollback", target, filled.get("data"), who=FORM)


def _schedule_default(layout: RunLayout, incident: IncidentOpened, deadline: datetime) -> None:
    """One flow run at the deadline, planned once: it survives server and worker as the suspended one does."""
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(_OVERDUE)
        except ObjectNotFound:
            return
        request = OverdueRequest(run=layout.name, incident=incident.incident, runs_dir=str(layout.root.parent.resolve()))
        client.create_flow_run_from_deployment(
            deployment.id,
            parameters={"request": request.model_dump()},
            state=Scheduled(scheduled_time=deadline),
            name=f"answer incident {incident.incident} of {layout.name}",
            idempotency_key=f"{layout.root.resolve()} {incident.incident} {incident.at}",
        )


def _key(incident: IncidentOpened) -> str:
    """Under which key form and answers of this question lie on the server."""
    return f"incident-{incident.incident:03d}-step-{incident.onset_step}-attempt-{incident.attempt}"


def _one_of(*values: str) -> Any:
    return Literal[values]
