"""The Prefect flow: prepare -> stage 1 -> stage 2 -> release, each action a task with a name a person understands.

The orchestrator is a view, never the lock. The run directory decides what is next (`k2.run.plan`), and when the
Prefect API cannot be reached the same process performs the same actions plainly: no step is lost, and nothing that
Prefect throws reaches the trainer.
"""

import contextvars
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause, PrefectSignal
from prefect.states import Cancelled, Completed, Failed

from flows import work
from flows.artifacts import Board
from flows.asking import suspend_until_answered, take_answers
from flows.loop import Aborted, Outcome, Owing, Stopped, Waiting, pursue
from flows.loop import Completed as RunCompleted
from flows.notify import tell_spike
from flows.prefect_api import api_reachable, server_answers
from flows.probing import perform_probe
from flows.progress import Progress
from flows.requests import PretrainRequest, ResumeRequest, layout_of
from flows.run import Run, Say, existing_run, new_run
from flows.training import Beside
from k2.recipe.load import load_place, load_recipe
from k2.run.ledger import IncidentOpened
from k2.run.plan import Heal, Settle, Train
from k2.run.records import StepRecord
from k2.watch.event import Event
from k2.watch.probe import Probe

_STATE_SECONDS = 3.0
SUSPENDED, CANCELLED = "suspended in the UI", "cancelled in the UI"
_SAY: contextvars.ContextVar[Say | None] = contextvars.ContextVar("say", default=None)
_HEARD: contextvars.ContextVar[list[Outcome | Exception]] = contextvars.ContextVar("heard", default=[])  # noqa: B039 (nobody reads the default)


@flow(name="pretrain", flow_run_name="pretrain {request.run}", persist_result=False)
def pretrain(request: PretrainRequest = PretrainRequest()) -> State[Any]:
    """Run a recipe from wherever it stands to its end.

    Args:
        request: what to train, and under which name
    """
    recipe = load_recipe(request.recipe, tuple(request.overrides))
    layout = layout_of(request.run, request.runs_dir)
    return drive(new_run(layout, recipe, load_place(request.place) if request.place else None, teller()))


@flow(name="resume", flow_run_name="resume {request.run}", persist_result=False)
def resume(request: ResumeRequest = ResumeRequest()) -> State[Any]:
    """Go on with a run, from its directory alone.

    Args:
        request: which run
    """
    return drive(existing_run(layout_of(request.run, request.runs_dir), teller()))


def drive(opened: AbstractContextManager[Run]) -> State[Any]:
    """Hold the run and pursue it with Prefect tasks; the state that says how it ended."""
    heard = _HEARD.get()
    try:
        with opened as run:
            take_answers(run)
            outcome = pursue(run, PrefectPerformer(run))
            if isinstance(outcome, Waiting):
                suspend_until_answered(run, outcome.incident)  # while the run is held: nobody answers a question that is not asked yet
    except Exception as error:
        heard.append(error)
        raise
    heard.append(outcome)
    if outcome == Stopped(SUSPENDED):  # the process ends, the state stays; a worker takes the run up when it is resumed
        raise Pause(SUSPENDED)
    return conclude(outcome)


@contextmanager
def hear_how_it_ends(say: Say) -> Iterator[list[Outcome | Exception]]:
    """The pipeline's lines go to `say` too, and its own end (an outcome or its error) is given, whatever Prefect makes of it."""
    heard: list[Outcome | Exception] = []
    tokens = _SAY.set(say), _HEARD.set(heard)
    try:
        yield heard
    finally:
        _SAY.reset(tokens[0])
        _HEARD.reset(tokens[1])


def conclude(outcome: Outcome) -> State[Any]:
    """How the run ended, as a Prefect state."""
    match outcome:
        case RunCompleted():
            return Completed(message="trained, evaluated, published and shown")
        case Stopped(reason=reason) if reason == CANCELLED:
            return Cancelled(message="stopped and saved; it can be resumed")
        case Stopped(reason=reason):
            return Completed(name="Stopped", message=f"stopped ({reason}); it can be resumed")
        case Waiting(incident=incident):
            return Completed(name="Waiting", message=f"incident {incident.incident} waits for `k2 decide`")
        case Aborted():
            return Failed(message="an incident was answered with abort")
        case Owing(duties=duties):
            return Failed(message="; ".join(f"{d.checkpoint} could not be {d.duty}: {d.why}" for d in duties[:3]))


def teller() -> Say:
    """Where lines for a person go: the flow run's log, and the terminal where there is one."""
    logger, say = get_run_logger(), _SAY.get()

    def tell(line: str) -> None:
        logger.info(line)
        if say is not None:
            say(line)

    return tell


class PrefectPerformer:
    """Performs each action as a task. What Prefect itself fails at is performed plainly instead."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._board = Board(run.recipe, run.layout)
        self._wish = WishToStop(os.environ.get("PREFECT_API_URL", ""), str(runtime.flow_run.id or ""))
        self._progress = Progress(run.recipe, run.say)

    def prepare(self) -> None:
        persist("prepare data", lambda: work.prepare(self._run))

    def train(self, action: Train) -> None:
        work.train(self._run, action, Beside(self._see, self._wish.reason, _in_this_context(self._watch), self._chunk))
        self._board.show_curve()

    def probe(self, incident: IncidentOpened, probe: Probe) -> None:
        perform(f"probe incident {incident.incident:03d}", lambda: perform_probe(self._run, incident, probe, self._wish.reason))

    def heal(self, action: Heal) -> None:
        perform(f"heal incident {action.incident.incident:03d}", lambda: work.heal(self._run, action))
        self._board.show_incident(action.incident, action.decision)
        incident, decision = action.incident, action.decision
        text = f"incident {incident.incident} is closed: {decision.action}, decided by {decision.who}"
        tell_spike(self._run.layout, "healed", text, incident=incident.incident)

    def settle(self, action: Settle) -> None:
        if action.duty == "evaluated":
            work.evaluate(self._run, action.checkpoint, persist)
            self._board.show_scores()
        else:
            persist(f"{work.VERBS[action.duty]} {action.checkpoint}", lambda: work.settle(self._run, action))

    def release(self) -> None:
        persist("release", lambda: work.release(self._run))
        self._board.show_page()

    def _see(self, record: StepRecord) -> None:
        self._progress.see(record)
        self._board.show_progress(record)

    def _chunk(self, name: str, follow: Callable[[], None]) -> None:
        perform(name, follow)
        work.prune(self._run)
        self._board.show_curve()

    def _watch(self, action: Train, ended: threading.Event) -> None:
        perform(f"watch {action.stage} attempt {action.attempt}", lambda: work.watch(self._run, action, ended, self._tell))

    def _tell(self, event: Event) -> None:
        text = f"{event.kind} in {event.stage}, onset at step {event.onset_step}, the loss up by {event.rise_nats:.2f} nat"
        tell_spike(self._run.layout, "malignant", text, onset_step=event.onset_step, verdict_step=event.verdict_step)


def perform(name: str, call: Callable[[], object], retry_delays: tuple[float, ...] = ()) -> None:
    """Run `call` as a task of that name, tried again for the world's failures.

    An error of `call` comes out as it is. An error of Prefect's own does not: `call` is then run plainly, unless it
    has run already. Every action may be run again: what has its receipt is not done twice.
    """
    told = _Told()

    def action() -> None:
        told.error = None
        try:
            call()
        except Exception as error:
            told.error = error
            raise
        told.done = True

    if not server_answers():
        action()
        return
    try:
        task(
            name=name.split(" ckpt_", maxsplit=1)[0].split(" chunk ", maxsplit=1)[0],
            task_run_name=name,
            retries=len(retry_delays),
            retry_delay_seconds=list(retry_delays) or None,
            retry_condition_fn=lambda _task, _run, state: _is_worldly(state),
            cache_policy=NO_CACHE,
            persist_result=False,
        )(action)()
    except (Exception, PrefectSignal):  # a signal of the orchestrator's too: a wish to stop is seen and passed on by the trainer's follower
        if told.error is not None:
            raise told.error from None
    if not told.done:
        action()


def persist(name: str, call: Callable[[], object]) -> None:
    """As `perform`, tried again twice."""
    perform(name, call, work.DELAY_SECONDS)


@dataclass
class _Told:
    """What became of an action, whatever Prefect made of it."""

    done: bool = False
    error: Exception | None = None


def _is_worldly(state: State[Any]) -> bool:
    try:
        state.result()
    except Exception as error:
        return not work.is_permanent(error)
    return False


def _in_this_context(call: Callable[[Train, threading.Event], None]) -> Callable[[Train, threading.Event], None]:
    """The call as it runs in another thread, with this thread's context: Prefect knows a flow run by it."""
    context = contextvars.copy_context()
    return lambda action, ended: context.run(call, action, ended)


class WishToStop:
    """Whether somebody pressed Cancel or Suspend on the flow run: asked of the API every few seconds, in a thread.

    Prefect tells a flow run in this process nothing; whoever trains must look.
    """

    def __init__(self, api_url: str, flow_run: str) -> None:
        self._api_url, self._flow_run = api_url, flow_run
        self._reason: str | None = None
        if flow_run:
            threading.Thread(target=self._look, name="looking for a wish to stop", daemon=True).start()

    def reason(self) -> str | None:
        """The state that was asked for, or None."""
        return self._reason

    def _look(self) -> None:
        while self._reason is None:
            time.sleep(_STATE_SECONDS)
            if api_reachable(self._api_url):
                self._reason = self._read()

    def _read(self) -> str | None:
        try:
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(UUID(self._flow_run)).state
        except Exception:  # the boundary to a server that may be going down: no answer is no wish
            return None
        if state is None:
            return None
        if state.is_paused():
            return SUSPENDED
        return CANCELLED if state.is_cancelling() or state.is_cancelled() else None
