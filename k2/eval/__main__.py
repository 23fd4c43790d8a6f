"""`python -m k2.eval RUN_ROOT`: one process that exports and scores checkpoints as it is asked, one JSON line an answer.

On standard input: `{"id": 1, "duty": "exported" | "evaluated", "checkpoint": "ckpt_003"}`, a line a question
(with `"incident": 2` for a checkpoint that this incident keeps, whose `window` may be asked for too); it ends with the input.
On standard output: first `{"ready": true, "seconds": s}`, then `{"id": 1, "ok": true, "receipt": "<folder>"}` or
`{"id": 1, "ok": false, "error": "...", "permanent": true}`. Whatever libraries print goes to standard error. With `--checkpoint` it
does both duties for each one named, prints their scores as lines, and ends.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from k2.eval.scores import rows_of
from k2.eval.tasks import tasks_of
from k2.recipe.load import load_place, load_recipe
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.holdings import duty_folder
from k2.run.layout import RunLayout

if TYPE_CHECKING:
    from k2.eval.duties import Evaluator


class Question(BaseModel):
    """A duty of a checkpoint that is to be done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    duty: Literal["exported", "evaluated", "window"]
    checkpoint: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    incident: int | None = Field(default=None, description="whose kept checkpoint it is; none: the run's own")
    suite: str | None = Field(default=None, description="score with this suite, instead of with what the recipe asks for")
    task: str | None = Field(default=None, description="only this task of the suite")


class Ready(BaseModel):
    """The first line: how long starting took."""

    ready: Literal[True] = True
    seconds: float


class Settled(BaseModel):
    id: int
    ok: Literal[True] = True
    receipt: str = Field(description="folder that holds it")


class Failed(BaseModel):
    id: int | None
    ok: Literal[False] = False
    error: str
    permanent: bool = Field(description="asking again cannot help: something must change first")


def main(arguments: list[str] | None = None) -> int:
    started = time.monotonic()
    options = _parser().parse_args(arguments)
    layout = RunLayout(Path(options.run_root))
    try:
        recipe, place = load_recipe(str(layout.recipe)), _place_of(layout)
        _be_nice(place)
        suite = None if options.suite is None else _known(options.suite)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    os.environ.update(quiet_environment(layout, os.environ))
    with own_output() as output:
        evaluator = _evaluator(recipe, layout, place, options.device)
        if options.checkpoint:
            return _score_named(evaluator, options.checkpoint, suite, output)
        evaluator.warm_up()
        _say(output, Ready(seconds=round(time.monotonic() - started, 3)))
        for line in sys.stdin:
            _say(output, _answer(evaluator, layout, line))
    return 0


def quiet_environment(layout: RunLayout, inherited: Mapping[str, str]) -> dict[str, str]:
    """What the libraries must find before they are imported: no network, no progress bars, one thread, caches inside the run."""
    return {
        "OMP_NUM_THREADS": inherited.get("OMP_NUM_THREADS", "1"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_DATASETS_CACHE": str((layout.all_suites / ".cache").resolve()),
        "HF_HOME": str((layout.all_suites / ".cache").resolve()),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }


@contextmanager
def own_output() -> Iterator[TextIO]:
    """Standard output for our answers alone: whatever else writes to it, in Python or below, reaches standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(kept, "w", encoding="utf-8") as output:
        try:
            with redirect_stdout(sys.stderr):
                yield output
        finally:
            output.flush()
            os.dup2(kept, 1)


def _evaluator(recipe: Recipe, layout: RunLayout, place: Place, device: Literal["cpu", "cuda"]) -> "Evaluator":
    from k2.eval.duties import Evaluator

    return Evaluator(recipe, layout, place, device)


def _answer(evaluator: "Evaluator", layout: RunLayout, line: str) -> Settled | Failed:
    """Whatever goes wrong with one checkpoint is told to whoever asked, and the next question is waited for."""
    try:
        question = Question.model_validate_json(line)
    except ValidationError as error:
        return Failed(id=None, error=f"{line.strip()!r} is no question: {error}", permanent=True)
    try:
        receipt = _settle(evaluator, layout, question)
    except Exception as error:
        text = f"{question.checkpoint} could not be {question.duty}: {str(error) or type(error).__name__}"
        return Failed(id=question.id, error=text, permanent=isinstance(error, ValueError))
    return Settled(id=question.id, receipt=receipt)


def _settle(evaluator: "Evaluator", layout: RunLayout, question: Question) -> str:
    """Do what is asked; the folder of its receipts."""
    if question.incident is not None:
        kept = layout.kept(question.incident)
        return str(evaluator.settle_kept(kept, question.checkpoint, "window" if question.duty == "window" else "exported"))
    if question.duty == "window":
        raise ValueError("the duty 'window' is an incident's: name it")
    if question.suite is not None and question.task is not None:
        evaluator.score_one(question.checkpoint, _known(question.suite), question.task)
        return str(layout.task_scores(question.checkpoint, question.suite, question.task))
    if question.suite is not None:
        evaluator.score_with(question.checkpoint, _known(question.suite))
        return str(layout.all_task_scores / question.checkpoint / question.suite)
    evaluator.settle(question.checkpoint, question.duty)
    return str(duty_folder(layout, question.checkpoint, question.duty))


def _score_named(evaluator: "Evaluator", checkpoints: list[str], suite: str | None, output: TextIO) -> int:
    """Export and score each; their rows as lines."""
    try:
        for name in checkpoints:
            evaluator.settle(name, "exported")
            receipts = [evaluator.settle(name, "evaluated")] if suite is None else evaluator.score_with(name, suite)
            for row in (row for receipt in receipts for row in rows_of(receipt)):
                _say(output, row)
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _known(suite: str) -> str:
    """The name, if a suite of it ships. `SuiteError` otherwise."""
    tasks_of(suite)
    return suite


def _place_of(layout: RunLayout) -> Place:
    return load_place(str(layout.place)) if layout.place.is_file() else Place()


def _be_nice(place: Place) -> None:
    """Take the place's niceness, unless whoever started us gave a higher one."""
    os.setpriority(os.PRIO_PROCESS, 0, max(place.evaluator_niceness, os.getpriority(os.PRIO_PROCESS, 0)))


def _say(output: TextIO, line: BaseModel) -> None:
    print(json.dumps(line.model_dump(mode="json")), file=output, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m k2.eval", description="Export and score the checkpoints of a run.")
    parser.add_argument("run_root", help="the run's directory")
    parser.add_argument("--checkpoint", action="append", metavar="NAME", help="do these and end, instead of waiting for questions")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what scores (default: cpu)")
    parser.add_argument("--suite", help="score with this suite (default: what the recipe asks for)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
