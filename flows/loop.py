"""The loop: ask what is next, have it performed, ask again. The same loop with an orchestrator and without.

A `Performer` does the actions; `flows.work` has the plain one, `flows.pretrain` the one whose actions are Prefect
tasks. What checkpoints are owed is settled by one thread beside the training, so that training waits for nothing.
"""

import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from flows.run import Run
from flows.training import answer_verdicts
from k2.run.control import read_stop_request
from k2.run.ledger import DutyFailed, IncidentOpened
from k2.run.plan import Ask, Done, Heal, Prepare, Release, Settle, Train, next_action, owed_duties

LOOK_SECONDS = 0.5


class Performer(Protocol):
    """Whoever does the actions. Each may be called again after a crash and goes on where it stood."""

    def prepare(self) -> None: ...
    def train(self, action: Train) -> None: ...
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
    """Drive the run from wherever it stands until it is done, stopped or waits."""
    answer_verdicts(run)
    with Settling(run, perform.settle) as settling:
        while (request := read_stop_request(run.layout)) is None:
            action = next_action(run.recipe, run.facts(), run.holdings())
            match action:
                case Done(aborted=aborted):
                    return Aborted() if aborted else Completed()
                case Ask(incident=incident):
                    return Waiting(incident)
                case Settle() if settling.has_given_up():
                    return Owing(settling.failed())
                case Settle():
                    settling.wait()
                case Heal():
                    with settling.quiet:
                        perform.heal(action)
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


class Settling:
    """The thread that settles what checkpoints are owed, oldest first, one at a time, as soon as it may be settled.

    A duty that fails is noted in the ledger and left for the next resume; the others go on.
    """

    def __init__(self, run: Run, settle: Callable[[Settle], None]) -> None:
        self.quiet = threading.Lock()  # while it is held nothing is settled: what a rollback moves away is in nobody's hands
        self._run = run
        self._settle = settle
        self._failed: dict[Settle, DutyFailed] = {}
        self._ended = threading.Event()
        self._idle = threading.Event()
        context = contextvars.copy_context()  # an orchestrator knows its run by context
        self._thread = threading.Thread(target=lambda: context.run(self._work), name="settling", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def failed(self) -> tuple[DutyFailed, ...]:
        return tuple(self._failed.values())

    def has_given_up(self) -> bool:
        """Whether everything that is still owed has failed in this process."""
        return all(self._is_hopeless(owed) for owed in owed_duties(self._run.recipe, self._run.holdings()))

    def wait(self) -> None:
        """Let the thread work for a moment."""
        self._idle.wait(LOOK_SECONDS)
        self._ended.wait(0.05)

    def _work(self) -> None:
        while not self._ended.is_set():
            with self.quiet:
                settled_one = self._settle_next()
            if not settled_one:
                self._idle.set()
                self._ended.wait(LOOK_SECONDS)

    def _settle_next(self) -> bool:
        owed = self._next()
        if owed is not None:
            self._idle.clear()
            self._try(owed)
        return owed is not None

    def _next(self) -> Settle | None:
        owed = owed_duties(self._run.recipe, self._run.holdings())
        return next((duty for duty in owed if not self._is_hopeless(duty)), None)

    def _is_hopeless(self, duty: Settle) -> bool:
        """A duty that failed, or rests on one that did: nothing is published that could not be verified or exported."""
        return any(failed.checkpoint == duty.checkpoint for failed in self._failed)

    def _try(self, duty: Settle) -> None:
        try:
            self._settle(duty)
        except Exception as error:  # the boundary: whatever a store or a model threw, training and the other duties go on
            self._failed[duty] = DutyFailed(checkpoint=duty.checkpoint, duty=duty.duty, why=f"{error.__class__.__name__}: {error}"[:2000])
            self._run.record(self._failed[duty])
            self._run.say(f"{duty.checkpoint} could not be {duty.duty}: {error}")
