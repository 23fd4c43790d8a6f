"""One segment of training, as the driver sees it: verify, launch, follow chunk by chunk, and turn its end into facts.

The trainer is its own process group; here nothing is trained. A malignant verdict that stands in the records is
answered first, whoever saw it: so a run that was killed in the middle of an incident ends as one that was not.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flows.crashes import an_older_one_is_tried, refuse_endless_crashes
from flows.nodes import Nodes
from flows.run import Run
from flows.verdicts import close_attempt
from k2.checkpoint.select import set_bad_aside
from k2.launch.heed import UNHEEDING_SECONDS, Heed
from k2.launch.local import Trainer
from k2.launch.pulse import Patience, Pulse
from k2.run.alarms import AlarmTail
from k2.run.control import clear_stop_request, read_stop_request, request_stop
from k2.run.holdings import held_checkpoints
from k2.run.injection import strike
from k2.run.layout import checkpoint_name
from k2.run.ledger import AttemptEnded, AttemptStarted, CheckpointQuarantined
from k2.run.plan import Train, last_checkpoint
from k2.run.receipt import RECEIPT
from k2.run.records import StepRecord
from k2.run.saving import due_checkpoint
from k2.watch.follow import VERDICT

POLL_SECONDS = 0.25
STOP_SECONDS = 20.0  # an orchestrator kills what does not end within 30
WATCHER_PAUSE_SECONDS = 1.0

Outcome = Literal["completed", "stopped", "crashed", "lost"]


class TrainerCrashed(RuntimeError):
    """The trainer ended by itself with an error; the next attempt goes on from the newest checkpoint."""


@dataclass(frozen=True)
class Beside:
    """What goes on beside a segment."""

    see: Callable[[StepRecord], None]  # takes each record
    asked: Callable[[], str | None]  # why to stop, or None
    watch: Callable[[Train, threading.Event], None]  # looks for spikes until the event is set
    chunk: Callable[[str, Callable[[], None]], None]  # runs the following of one chunk under its name


def train_segment(run: Run, action: Train, beside: Beside) -> None:
    """Train from the action's checkpoint to the stage's end, or until a stop, a crash or a verdict.

    Returns after anything that asking `next_action` again will handle; raises `TrainingFailed` when it will not.
    """
    nodes = Nodes(run)
    if _set_aside_if_bad(run, action) or not nodes.gather(beside.asked):
        return
    run.record(AttemptStarted(attempt=action.attempt, stage=action.stage, checkpoint=action.checkpoint, first_step=action.first_step))
    strike("relaunch.recorded")
    run.say(f"{action.stage}: attempt {action.attempt} starts at step {action.first_step}, from {action.checkpoint or 'scratch'}")
    code = _run_trainer(run, action, beside, nodes)
    lost = nodes.lost() if code != 0 else None
    outcome = "lost" if lost is not None else _outcome(run, action, code)
    request = read_stop_request(run.layout)
    reason = request.reason if request is not None and outcome == "stopped" else lost or ""
    saved_at = _saved_at(run, action) if code == 0 else None
    close_attempt(run, AttemptEnded(attempt=action.attempt, outcome=outcome, exit_code=code, reason=reason, saved_at=saved_at))
    if request is not None and request.reason == VERDICT:  # answered, even where the trainer ended before it could stop
        clear_stop_request(run.layout)
    if outcome == "crashed" and not an_older_one_is_tried(run, action):
        refuse_endless_crashes(run, action)


def _set_aside_if_bad(run: Run, action: Train) -> bool:
    """Verify the checkpoint; one that lies is quarantined, and the next older is asked for."""
    rejected = set_bad_aside(run.layout, action.checkpoint)
    run.record(*(CheckpointQuarantined(checkpoint=bad.name, why=bad.why[:2000]) for bad in rejected))
    for bad in rejected:
        run.say(f"{bad.name} does not verify and is set aside in {run.layout.quarantine}: {bad.why}")
    return bool(rejected)


def _run_trainer(run: Run, action: Train, beside: Beside, nodes: Nodes) -> int:
    ended = threading.Event()
    watcher = threading.Thread(target=watch_to_the_end, args=(run, action, beside, ended), name="watching", daemon=True)
    trainer = Trainer.start(run.recipe, run.place, run.layout, action, run.lease)
    watcher.start()
    try:
        return _Following(run, action, trainer, beside, nodes).to_the_end()
    except BaseException:
        trainer.stop("interrupted", STOP_SECONDS)
        raise
    finally:
        ended.set()
        watcher.join()


def watch_to_the_end(run: Run, action: Train, beside: Beside, ended: threading.Event) -> None:
    """The watcher, started again when it fails: it reads the same records from the disk and comes to the same verdict."""
    while True:
        try:
            return beside.watch(action, ended)
        except Exception as error:  # whatever it was: nobody else looks for spikes while the segment lives
            run.say(f"the watcher failed ({error.__class__.__name__}: {error}) and is started again")
        if ended.wait(WATCHER_PAUSE_SECONDS):  # the driver judges the whole attempt at its end
            return None


class _Following:
    """Looks at a living trainer: its records, wishes to stop it, and whether it hangs. One call a chunk."""

    def __init__(self, run: Run, action: Train, trainer: Trainer, beside: Beside, nodes: Nodes) -> None:
        self._run, self._action, self._trainer, self._beside, self._nodes = run, action, trainer, beside, nodes
        self._pulse = Pulse(run.layout.metrics(action.stage, action.attempt), self._saves_after, Patience(run.place.hang_floor_seconds))
        self._heed = Heed()
        self._alarms = AlarmTail(run.layout.trainer_log(action.attempt))

    def to_the_end(self) -> int:
        """Follow the trainer until it has ended; its exit code."""
        stage = self._run.recipe.stage(self._action.stage)
        for chunk in range((self._action.first_step - 1) // stage.steps_per_chunk, stage.chunks):
            if self._trainer.poll() is None:
                self._follow_as_task(chunk)
        while (code := self._trainer.poll()) is None:
            self._look()
        return code

    def _follow_as_task(self, chunk: int) -> None:
        try:
            self._beside.chunk(f"{self._action.stage} chunk {chunk:03d}", lambda: self._until_saved(chunk))
        except TrainerCrashed as crash:
            self._run.say(str(crash))

    def _until_saved(self, chunk: int) -> None:
        """Until the chunk's checkpoint is committed, or the trainer has ended. `TrainerCrashed` when it ended badly."""
        number = self._run.recipe.first_checkpoint_number(self._action.stage) + chunk + 1
        receipt = self._run.layout.checkpoint(checkpoint_name(number)) / RECEIPT
        while not receipt.is_file():
            if (code := self._trainer.poll()) is not None:
                self._look()
                if code != 0:
                    raise TrainerCrashed(f"attempt {self._action.attempt} crashed with exit code {code}; see its log")
                return
            self._look()

    def _look(self) -> None:
        records = self._pulse.observe()
        for record in records:
            self._beside.see(record)
        for alarm in self._alarms.new():
            self._run.say(f"ALARM: {alarm}")
        if self._trainer.poll() is None and (why := self._nodes.why_hopeless(self._trainer, self._pulse)) is not None:
            self._run.say(why)
            self._trainer.kill()
        self._pass_on(self._beside.asked())
        self._insist(len(records))
        time.sleep(POLL_SECONDS)

    def _insist(self, num_steps: int) -> None:
        """Ask, wait, then SIGTERM to every process of the trainer, then SIGKILL: no verdict hangs on one rank that does not listen."""
        request = read_stop_request(self._run.layout)
        if self._heed.is_refused(request is not None and request.attempt == self._action.attempt, num_steps):
            self._run.say(f"the trainer was asked to stop {UNHEEDING_SECONDS:.0f} s ago and still trains: it is ended")
            self._trainer.terminate()

    def _saves_after(self, step: int) -> bool:
        """Whether a checkpoint is saved after the step: by the recipe, or since a stop was asked for."""
        recipe = self._run.recipe
        due = due_checkpoint(recipe, recipe.stage(self._action.stage), step, trained=True)
        return due is not None or read_stop_request(self._run.layout) is not None

    def _pass_on(self, reason: str | None) -> None:
        if reason is not None and read_stop_request(self._run.layout) is None:
            self._run.say(f"asked to stop ({reason}): the trainer finishes its step and saves")
            request_stop(self._run.layout, self._action.attempt, reason)


def _saved_at(run: Run, action: Train) -> float | None:
    """When the newest checkpoint of the stage was committed: what follows, until the last rank is gone, is no saving."""
    held = held_checkpoints(run.recipe, run.layout)
    newest = next((c for c in reversed(held) if c.stage == action.stage), None)
    return None if newest is None else (run.layout.checkpoint(newest.name) / RECEIPT).stat().st_mtime


def _outcome(run: Run, action: Train, code: int) -> Outcome:
    if code != 0:
        return "crashed"
    last = last_checkpoint(run.recipe, run.recipe.stage(action.stage))
    return "completed" if last in {c.name for c in held_checkpoints(run.recipe, run.layout)} else "stopped"
