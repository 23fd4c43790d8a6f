"""The loop: ask what is next, have it performed, ask again. The same loop with an orchestrator and without.

A `Performer` does the actions; `flows.work` has the plain one, `flows.pretrain` the one whose actions are Prefect
tasks. What checkpoints are owed is settled by one thread beside the training, so that training waits for nothing.
"""

import contextvars
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from flows.deciding import answer_if_overdue
from flows.probing import owed_probe
from flows.run import Run
from flows.verdicts import answer_verdicts, take_over
from k2.launch.network import check_driver
from k2.recipe.place import Place
from k2.run.control import read_stop_request
from k2.run.ledger import DutyFailed, IncidentOpened
from k2.run.plan import Ask, Done, Heal, Prepare, Release, Settle, Train, next_action, owed_duties
from k2.watch.probe import Probe

LOOK_SECONDS = 0.5
AGAIN_SECONDS = 900.0  # a duty that failed is tried again: a store may be away for an hour of a run of months
END_SECONDS = 30.0


class Performer(Protocol):
    """Whoever does the actions. Each may be called again after a crash and goes on where it stood."""

    def prepare(self) -> None: ...
    def train(self, action: Train) -> None: ...
    def probe(self, incident: IncidentOpened, probe: Probe) -> None: ...
    def heal(self, action: Heal) -> None: ...
    def settle(self, action: Settle) -> None: ...
    def release(self) -> None: ...


@dataclass(frozen=True)
class Completed:
    """The run is done, everything owed is settled."""


@dataclass(frozen=True)
class Stopped:
    """Somebody asked for a stop; the run can be resumed."""

    reason: str


@dataclass(frozen=True)
class Waiting:
    """An incident waits for a decision."""

    incident: IncidentOpened


@dataclass(frozen=True)
class Aborted:
    """An incident was answered with `abort`."""


@dataclass(frozen=True)
class Owing:
    """Trained to the end, but these duties failed; a resume tries them again."""

    duties: tuple[DutyFailed, ...]


Outcome = Completed | Stopped | Waiting | Aborted | Owing


def pursue(run: Run, perform: Performer) -> Outcome:
    """Drive the run from wherever it stands until it is done, stopped or waits. `Unreachable` where its place has it driven elsewhere."""
    check_driver(run.place)
    take_over(run)
    with Settling(run, perform.settle) as settling:
        while (request := read_stop_request(run.layout)) is None:
            settling.check()
            action = next_action(run.recipe, run.facts(), run.holdings())
            match action:
                case Done(aborted=aborted):
                    return Aborted() if aborted else Completed()
                case Ask(incident=incident) if (probe := owed_probe(run, incident)) is not None:
                    perform.probe(incident, probe)
                case Ask(incident=incident):
                    if not answer_if_overdue(run):
                        return Waiting(incident)
                case Settle() if settling.has_given_up():
                    return Owing(settling.failed())
                case Settle():
                    settling.wait()
                case Heal():
                    with settling.hushed():
                        perform.heal(action)
                    if action.decision.action == "continue":  # the attempt may hold a later verdict
                        answer_verdicts(run)
                case _:
                    _perform(action, perform)
        return Stopped(request.reason)


def _perform(action: Prepare | Train | Release, perform: Performer) -> None:
    match action:
        case Prepare():
            perform.prepare()
        case Train():
            perform.train(action)
        case Release():
            perform.release()


def _yield_to_training(place: Place) -> None:
    """This thread digests, uploads and draws, and asks the evaluator: both have its niceness, as the cores are the trainer's first."""
    nice = max(place.evaluator_niceness, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


class Settling:
    """The thread that settles what checkpoints are owed, oldest first, one at a time, as soon as it may be settled.

    A duty that fails is noted in the ledger and tried again later; the others go on.
    """

    def __init__(self, run: Run, settle: Callable[[Settle], None]) -> None:
        self._run = run
        self._settle = settle
        self._failed: dict[Settle, tuple[float, DutyFailed]] = {}
        self._error: Exception | None = None
        self._working = threading.Lock()  # held while a duty is settled
        self._hush = threading.Event()
        self._ended = threading.Event()
        self._idle = threading.Event()
        context = contextvars.copy_context()  # an orchestrator knows its run by context
        self._thread = threading.Thread(target=lambda: context.run(self._work), name="settling", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._run.evaluator.close()  # a duty in the middle of an evaluation is given up; its receipt was not written
        self._thread.join(END_SECONDS)

    @contextmanager
    def hushed(self) -> Iterator[None]:
        """While it lasts nothing is settled: what a rollback moves away is in nobody's hands."""
        self._hush.set()
        try:
            with self._working:
                yield
        finally:
            self._hush.clear()

    def check(self) -> None:
        """Raise what ended the thread, if anything did: without it the run would wait for ever."""
        if self._error is not None:
            raise self._error

    def failed(self) -> tuple[DutyFailed, ...]:
        return tuple(noted for _, noted in self._failed.values())

    def has_given_up(self) -> bool:
        """Whether something is still owed and all of it has failed in this process, and not long ago. Where the last duty was just settled
        there is nothing to give up."""
        owed = self._owed()
        return bool(owed) and all(self._is_hopeless(duty) for duty in owed)

    def wait(self) -> None:
        """Let the thread work for a moment."""
        self._idle.wait(LOOK_SECONDS)
        self._ended.wait(0.05)

    def _work(self) -> None:
        try:
            _yield_to_training(self._run.place)
            while not self._ended.is_set():
                if self._hush.is_set() or not self._settle_next():
                    self._idle.set()
                    self._ended.wait(LOOK_SECONDS)
        except Exception as error:  # raised again where the run is driven
            self._error = error

    def _settle_next(self) -> bool:
        with self._working:
            owed = next((duty for duty in self._owed() if not self._is_hopeless(duty)), None)
            if owed is not None:
                self._idle.clear()
                self._try(owed)
            return owed is not None

    def _owed(self) -> list[Settle]:
        return owed_duties(self._run.recipe, self._run.facts(), self._run.holdings())

    def _is_hopeless(self, duty: Settle) -> bool:
        """A duty that failed a short while ago, or rests on one that did: nothing is published that could not be exported."""
        recent = time.monotonic() - AGAIN_SECONDS
        return any(failed.checkpoint == duty.checkpoint and at > recent for failed, (at, _) in self._failed.items())

    def _try(self, duty: Settle) -> None:
        try:
            self._settle(duty)
            self._failed.pop(duty, None)
        except Exception as error:  # the boundary: whatever a store or a model threw, training and the other duties go on
            if self._ended.is_set():
                return
            noted = DutyFailed(checkpoint=duty.checkpoint, duty=duty.duty, why=f"{error.__class__.__name__}: {error}"[:2000])
            self._failed[duty] = time.monotonic(), noted
            self._run.say(f"{duty.checkpoint} could not be {duty.duty}: {error}")
            self._run.record(noted)
