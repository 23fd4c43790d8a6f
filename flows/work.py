"""What each action does, without any orchestrator: thin calls into k2, in the order in which they must happen.

`PlainPerformer` is the whole pipeline on one machine. The Prefect flow performs the same functions as tasks.
"""

import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

from flows.credentials import credentials_of
from flows.evidence import complete_evidence, draw_healed, picture_of
from flows.probing import perform_probe
from flows.progress import Progress
from flows.run import Run, Say
from flows.training import Beside, train_segment
from flows.verdicts import answer_verdicts
from k2.checkpoint.retention import empty_trash, move_to_trash, pinned, retain
from k2.checkpoint.scrub import due_for_scrub, scrub
from k2.checkpoint.select import verify
from k2.eval.attempts import note_failure
from k2.eval.standing import standing
from k2.launch.evaluator import EvaluatorAnswer, EvaluatorClosed, EvaluatorFailed
from k2.run.durable import sweep_beside
from k2.run.holdings import duty_folder
from k2.run.injection import strike
from k2.run.ledger import IncidentClosed, IncidentOpened
from k2.run.plan import Heal, Settle, Train, decision_of, open_incident, suites_due
from k2.run.receipt import BrokenOutput, Receipt, commit_receipt_only, find_receipt, now, read_receipt
from k2.run.records import StepRecord
from k2.watch.event import Event
from k2.watch.probe import Probe

Perform = Callable[[str, Callable[[], object]], None]  # has an action done under a name, tried again for the world's failures

VERBS = {"verified": "verify", "exported": "export", "published": "publish", "shown": "show"}
DELAY_SECONDS = (2.0, 10.0)


class EvaluationFailed(RuntimeError):
    """The evaluator could not do a duty now; the text is its reason."""


class EvaluationRefused(ValueError):
    """The evaluator will never do this duty for this checkpoint as it is; the text is its reason."""


def nobody_asks() -> str | None:
    """No wish to stop."""
    return None


def prepare(run: Run) -> Receipt:
    """Freeze the sources, train the tokenizer, encode, build all chunks, and the evaluation suite from the held-out text."""
    from k2.data.build import build
    from k2.eval.suite import build_suites

    receipt = build(run.recipe, run.place, run.layout, run.say)
    build_suites(run.recipe, run.place, run.layout)
    return receipt


def watch(run: Run, action: Train, ended: threading.Event, tell: Callable[[Event], None] = lambda _event: None) -> None:
    """Follow the segment's records; on a malignant verdict ask the trainer to stop, or in the mode `observe` only record it.

    `tell` is given each verdict.
    """
    from k2.watch.follow import verdicts, watch_attempt

    if run.recipe.spikes.mode == "observe":
        for seen in verdicts(run.recipe, run.facts(), run.layout, action, ended):
            note_observed(run)
            tell(seen)
        return
    event = watch_attempt(run.recipe, run.facts(), run.layout, action, ended)
    if event is not None:
        run.say(f"{action.stage}: {event.kind} since step {event.onset_step}: the trainer is asked to stop")
        tell(event)


def note_observed(run: Run) -> None:
    """Record every verdict that fell, and close it at once: the recipe only wants to know."""
    answer_verdicts(run)
    facts = run.facts()
    while (incident := open_incident(facts)) is not None and (decision := decision_of(facts, incident.incident)) is not None:
        heal(run, Heal(incident, decision))
        answer_verdicts(run)
        facts = run.facts()


def train(run: Run, action: Train, beside: Beside) -> None:
    """One segment; then W&B gets the attempt, while the run goes on."""
    from k2.watch.wandb_sink import mirror_attempt

    train_segment(run, action, beside)
    run.aside.submit(mirror_attempt, run.recipe, run.place, run.layout, run.facts(), action.stage, action.attempt)


def prune(run: Run) -> None:
    """After a chunk: what went to the trash a round ago is deleted, what nobody needs any more goes there; and draw what has healed."""
    for name in empty_trash(run.layout):
        run.say(f"{name} is no longer needed and removed")
    move_to_trash(run.layout, retain(run.recipe, run.facts(), run.holdings(), pinned(run.layout)).removable)
    run.aside.submit(scrub_one, run)
    draw_healed(run)


def scrub_one(run: Run) -> None:
    """Digest an old checkpoint again, once a day; what is wrong with it is an alarm: it can be restored from where it was published."""
    name = due_for_scrub(run.layout, [c.name for c in run.holdings().checkpoints if c.kind == "chunk"], time.time())
    wrong = scrub(run.layout, name, time.time()) if name is not None else []
    if wrong:
        run.say(f"ALARM: {name} has gone bad on the disk: {'; '.join(wrong[:3])}")


def heal(run: Run, action: Heal) -> None:
    """Keep the evidence of a decided incident, set the abandoned checkpoints aside, close it."""
    from k2.watch.evidence import keep_evidence
    from k2.watch.target import abandoned

    strike("heal.begin")
    names = abandoned(run.holdings(), action.incident, action.decision)
    facts, incident, decision = run.facts(), action.incident, action.decision
    evidence = keep_evidence(run.layout, run.recipe, facts, incident, decision, names, lambda records: picture_of(run, incident, records))
    strike("heal.kept")
    run.record(IncidentClosed(incident=action.incident.incident, abandoned=tuple(evidence.facts["abandoned"])))
    strike("heal.closed")
    target = action.decision.checkpoint or "the start of the stage"
    back = f" to {target}, data: {action.decision.data}" if action.decision.action == "rollback" else ""
    run.say(f"incident {action.incident.incident:03d}: {action.decision.action}{back}")
    if run.recipe.spikes.mode != "observe":
        run.aside.submit(complete_evidence, run)


def settle(run: Run, action: Settle) -> Receipt:
    """One duty of one checkpoint. What has its receipt is not done again."""
    folder = duty_folder(run.layout, action.checkpoint, action.duty)
    sweep_beside(folder)
    match action.duty:
        case "verified":
            return _verified(run, action.checkpoint)
        case "exported" | "evaluated":
            return _asked_of_the_evaluator(run, action)
        case "published":
            from k2.publish.target import resolve_targets
            from k2.publish.upload import publish_checkpoint

            with credentials_of(run.place):
                return publish_checkpoint(run.recipe, run.layout, action.checkpoint, resolve_targets(run.place, run.layout))
        case "shown":
            return _shown(run, action.checkpoint)


def evaluate(run: Run, checkpoint: str, perform: Perform) -> None:
    """Score what the checkpoint is owed, each task of its suites an action of its own; then close its scores."""
    if find_receipt(run.layout.scores(checkpoint)) is None:
        score_by_task(run, checkpoint, suites_due(run.recipe, checkpoint), perform)
    perform(f"evaluate {checkpoint}", lambda: settle(run, Settle(checkpoint, "evaluated")))


def score_with(run: Run, checkpoint: str, suite: str, perform: Perform) -> None:
    """Score a checkpoint with a suite that the recipe need not ask for: the suite is built and the checkpoint exported where it is not.
    `EvaluationFailed` says which tasks failed."""
    from k2.eval.suite import build_suite

    build_suite(run.recipe, run.place, run.layout, suite)
    if find_receipt(run.layout.export(checkpoint)) is None:
        perform(f"export {checkpoint}", lambda: settle(run, Settle(checkpoint, "exported")))
    failed = score_by_task(run, checkpoint, (suite,), perform)
    if failed:
        raise EvaluationFailed("; ".join(f"{task}: {why}" for task, why in failed.items()))


def score_by_task(run: Run, checkpoint: str, suites: Iterable[str], perform: Perform) -> dict[str, str]:
    """Score each task that is open as an action of its own; why those failed that did. One that fails holds up no other."""
    failed: dict[str, str] = {}
    for suite in suites:
        for task in standing(run.layout, run.place, checkpoint, suite).open:
            try:
                perform(f"score {task.name} {checkpoint}", partial(score_task, run, checkpoint, suite, task.name))
            except EvaluatorClosed:
                raise
            except (EvaluatorFailed, EvaluationFailed, EvaluationRefused) as error:
                run.say(f"{checkpoint}: {task.name} could not be scored: {error}")
                failed[task.name] = str(error)
    return failed


def score_task(run: Run, checkpoint: str, suite: str, task: str) -> None:
    """One attempt at one task. An evaluator that dies over it has failed at it."""
    try:
        answer = run.evaluator.ask("evaluated", checkpoint, suite=suite, task=task)
    except EvaluatorClosed:
        raise
    except EvaluatorFailed as error:
        note_failure(run.layout, checkpoint, suite, task, read_receipt(run.layout.export(checkpoint)).digest, error)
        raise
    _raise_refused(answer)


def marked_tasks(run: Run, checkpoint: str) -> dict[str, str]:
    """The tasks of a scored checkpoint that failed three times and were given up, and why."""
    receipt = find_receipt(run.layout.scores(checkpoint))
    return {} if receipt is None else dict(receipt.facts.get("failed", {}))


def release(run: Run) -> Receipt:
    """The last page, and the index of all that was published, to every target."""
    from k2.publish.release import publish_release
    from k2.publish.site import refresh_site
    from k2.publish.target import resolve_targets
    from k2.report.page import build_page

    draw_healed(run)
    complete_evidence(run)
    build_page(run.recipe, run.layout, run.facts(), time.time())
    targets = resolve_targets(run.place, run.layout)
    with credentials_of(run.place):
        refresh_site(run.layout, run.holdings().checkpoints, targets)
        return publish_release(run.recipe, run.layout, targets)


class PlainPerformer:
    """Performs every action in this process. `prepare` and `settle` are tried again for the world's failures."""

    def __init__(self, run: Run, asked: Callable[[], str | None] = nobody_asks, see: Callable[[StepRecord], None] | None = None) -> None:
        self._run = run
        self._asked = asked
        self._see = see or Progress(run.recipe, run.say).see
        self._persist = plainly(run.say)

    def prepare(self) -> None:
        self._persist("preparing data", lambda: prepare(self._run))  # what has its receipt is not done again

    def train(self, action: Train) -> None:
        train(self._run, action, Beside(self._see, self._asked, self._watch, self._chunk))

    def _chunk(self, _name: str, follow: Callable[[], None]) -> None:
        follow()
        prune(self._run)

    def _watch(self, action: Train, ended: threading.Event) -> None:
        watch(self._run, action, ended)

    def probe(self, incident: IncidentOpened, probe: Probe) -> None:
        perform_probe(self._run, incident, probe, self._asked)

    def heal(self, action: Heal) -> None:
        heal(self._run, action)

    def settle(self, action: Settle) -> None:
        if action.duty == "evaluated":
            evaluate(self._run, action.checkpoint, self._persist)
        else:
            self._persist(f"{action.checkpoint}: {action.duty}", lambda: settle(self._run, action))

    def release(self) -> None:
        release(self._run)


def plainly(say: Say) -> Perform:
    """Perform in this process, tried again for the world's failures."""

    def perform(what: str, call: Callable[[], object]) -> None:
        for delay in (*DELAY_SECONDS, None):
            try:
                call()
                return
            except Exception as error:
                if delay is None or is_permanent(error):
                    raise
                say(f"{what} failed ({error}); again in {delay:.0f} s")
                time.sleep(delay)

    return perform


def is_permanent(error: BaseException) -> bool:
    """Whether trying again cannot help: what the user or the bytes are at fault for, not the world."""
    from k2.publish.failure import PublishFailed, PublishRefused

    final = isinstance(error, EvaluatorClosed | PublishRefused)
    return final or (isinstance(error, ValueError) and not isinstance(error, PublishFailed))


def _asked_of_the_evaluator(run: Run, action: Settle) -> Receipt:
    """The evaluator holds torch and lives across checkpoints; here only its receipt is read."""
    _raise_refused(run.evaluator.ask(action.duty, action.checkpoint))
    for task, why in marked_tasks(run, action.checkpoint).items() if action.duty == "evaluated" else ():
        run.say(f"{action.checkpoint}: the task {task} failed three times and is left out: {why}")
    return read_receipt(duty_folder(run.layout, action.checkpoint, action.duty))


def _raise_refused(answer: EvaluatorAnswer) -> None:
    if not answer.ok:
        kind = EvaluationRefused if answer.permanent else EvaluationFailed
        raise kind(answer.error or "the evaluator gave no reason")


def _shown(run: Run, name: str) -> Receipt:
    """On the page and in the galleries, here and at every target."""
    from k2.publish.site import publish_shown
    from k2.publish.target import resolve_targets
    from k2.publish.upload import claims
    from k2.report.page import show_checkpoint

    def publish(shown: Receipt) -> list[dict[str, object]]:
        with credentials_of(run.place):
            return claims(publish_shown(run.layout, shown, resolve_targets(run.place, run.layout)))

    return show_checkpoint(run.recipe, run.layout, run.facts(), name, time.time(), publish)


def _verified(run: Run, name: str) -> Receipt:
    problems = verify(run.layout, name)
    if problems:
        raise BrokenOutput(f"{name} does not verify: {'; '.join(problems[:3])}")
    checkpoint = read_receipt(run.layout.checkpoint(name))
    receipt = Receipt(kind="verified", name=name, recipe=checkpoint.recipe, made_at=now(), inputs={"checkpoint": checkpoint.digest})
    return commit_receipt_only(run.layout.verified(name), receipt)
