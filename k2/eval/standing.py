"""How a checkpoint stands with the tasks of a suite: scored, given up, not owed here, or open. Read from receipts alone, torch-free.

Whoever shares the tasks out and whoever scores them read the same answer, so that a sweep that was killed goes on anywhere.
"""

from dataclasses import dataclass

from k2.eval.attempts import MOST_ATTEMPTS, FailedAttempt, attempts_at
from k2.eval.jail import jail_missing
from k2.eval.tasks import SuiteTask, tasks_of
from k2.recipe.place import Place
from k2.run.durable import remove_folder
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, find_receipt, read_receipt


@dataclass(frozen=True)
class Standing:
    """The tasks of one suite for one checkpoint. Open tasks may have failed before; `troubles` say how their last attempt did."""

    done: tuple[Receipt, ...]
    open: tuple[SuiteTask, ...]
    troubles: dict[str, str]
    given_up: dict[str, str]  # the task: why its last attempt failed
    not_owed: dict[str, str]  # the task: why not


def standing(layout: RunLayout, place: Place, checkpoint: str, suite: str, export: str | None = None) -> Standing:
    """How the checkpoint stands with the built suite, task by task. `export` is the digest of its export, where that is not at hand."""
    export, built = export or read_receipt(layout.export(checkpoint)).digest, read_receipt(layout.suite(suite))
    done, still_open = list[Receipt](), list[SuiteTask]()
    troubles, given_up, not_owed = dict[str, str](), dict[str, str](), dict[str, str]()
    for task in tasks_of(suite):
        tried = attempts_at(layout, checkpoint, suite, task.name, export)
        if (scored := find_task_scores(layout, checkpoint, built, task.name, export)) is not None:
            done.append(scored)
        elif (why_not := why_not_owed(place, task)) is not None:
            not_owed[task.name] = why_not
        elif len(tried) >= MOST_ATTEMPTS:
            given_up[task.name] = tried[-1].error
        else:
            still_open.append(task)
            troubles |= _last(task, tried)
    return Standing(tuple(done), tuple(still_open), troubles, given_up, not_owed)


def find_task_scores(layout: RunLayout, name: str, suite: Receipt, task: str, export: str) -> Receipt | None:
    """The task's receipt, if it is of that export and the suite as it is. What an abandoned checkpoint of the name left is removed."""
    folder = layout.task_scores(name, suite.name, task)
    found = find_receipt(folder)
    if found is None or found.inputs == {"export": export, "suite": suite.digest}:
        return found
    remove_folder(folder)
    return None


def why_not_owed(place: Place, task: SuiteTask) -> str | None:
    """Why the task cannot be asked at this place; None where it can."""
    if not task.executes_code:
        return None
    if not place.run_generated_code:
        return "it runs programs that the model wrote, which the place does not allow (run_generated_code)"
    return jail_missing()


def _last(task: SuiteTask, tried: list[FailedAttempt]) -> dict[str, str]:
    return {task.name: tried[-1].error} if tried else {}
