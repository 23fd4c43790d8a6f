"""After a trainer has crashed: whether another attempt may help. Only the ledger and what the ranks said are asked.

What enters is the run with the attempt's end in its ledger; nothing leaves where the next attempt may go on, and `TrainingFailed`
where a person must look first.
"""

import time

from flows.resumption import refused_in_a_row
from flows.run import Run
from k2.run.ledger import AttemptEnded, AttemptStarted, Fact
from k2.run.plan import Train

MAX_FRUITLESS = 3  # attempts in a row that crash without reaching another checkpoint
MAX_REFUSED = 2  # resumes in a row whose first steps were wrong: then somebody must look
CRASH_PAUSE_SECONDS = 1.0


class TrainingFailed(RuntimeError):
    """The trainer crashes again and again at the same place. The text holds the end of its log."""


def refuse_endless_crashes(run: Run, action: Train) -> None:
    """Crashes are tried again, but not a refusal, and not where no attempt of the last few got to a new checkpoint."""
    said = ranks_words(_log_of(run, action))
    if any(" refuses: " in line for line in said):
        raise TrainingFailed(f"{said[0]}\nWhat was earned is kept; mend the cause and go on with `k2 resume {run.layout.name}`.")
    if fruitless_crashes(run.facts()) >= MAX_FRUITLESS:
        raise TrainingFailed(
            f"{MAX_FRUITLESS} attempts in a row crashed before they reached another checkpoint; going on would not help. Mend the cause "
            f"and go on with `k2 resume {run.layout.name}`. From {run.layout.trainer_log(action.attempt)}:\n" + "\n".join(said)
        )
    time.sleep(CRASH_PAUSE_SECONDS)


def an_older_one_is_tried(run: Run, action: Train) -> bool:
    """Whether the attempt refused what its checkpoint gave, and the next older may be tried. `TrainingFailed` at the second in a row."""
    refused = refused_in_a_row(run.facts())
    if len(refused) >= MAX_REFUSED:
        raise TrainingFailed(
            f"{len(refused)} resumes in a row were bad, so it is hardly the files: {refused[0].why}. The checkpoints are kept in "
            f"{run.layout.quarantine}; mend the cause and go on with `k2 resume {run.layout.name}`, from the next older one."
        )
    return bool(refused)


def ranks_words(log: str, lines: int = 15) -> list[str]:
    """What the ranks said of their end, refusals first; the end of the log where they said nothing."""
    said = [line for line in dict.fromkeys(log.splitlines()) if line.startswith("k2.train, rank ")]
    return sorted(said, key=lambda line: " refuses: " not in line) or log.splitlines()[-lines:]


def _log_of(run: Run, action: Train) -> str:
    """Of all nodes, one after the other."""
    logs = (run.layout.trainer_log(action.attempt), *(run.layout.node_log(node, action.attempt) for node in range(1, run.place.nodes)))
    return "\n".join(log.read_text("utf-8", "replace") for log in logs if log.is_file()) or "(no log)"


def fruitless_crashes(facts: list[Fact]) -> int:
    """How many of the newest attempts crashed and began at the same step as the newest: nothing was saved between them."""
    started = [fact for fact in facts if isinstance(fact, AttemptStarted)]
    crashed = {fact.attempt for fact in facts if isinstance(fact, AttemptEnded) and fact.outcome == "crashed"}
    count = 0
    for attempt in reversed(started):
        newest = started[-1]
        if attempt.attempt not in crashed or (attempt.stage, attempt.first_step) != (newest.stage, newest.first_step):
            break
        count += 1
    return count
