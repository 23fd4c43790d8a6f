"""Scoring what is published: the checkpoints of a folder, a bucket or a Hub repository, without the run that made them.

Each is borrowed in its turn, scored on the tasks that it has no scores for, and given back. What has its receipt is not done again,
whichever process began it; what was published with its scores is not scored again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows import work
from flows.credentials import credentials_of
from flows.device import device_held
from flows.run import Run, Say, existing_run
from k2.eval.standing import standing
from k2.publish.borrow import Library, borrowing_layout
from k2.publish.target import Target
from k2.recipe.load import load_place
from k2.recipe.place import Place
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt


@dataclass(frozen=True)
class Wanted:
    """Which checkpoints of a target to score, with which suites. Empty: all that is published, with the suite of their recipe."""

    target: Target
    checkpoints: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()


def score_published(
    wanted: Wanted, runs_dir: Path, place: Place | None, say: Say, perform_in: Callable[[Run], work.Perform]
) -> tuple[RunLayout, list[str], dict[str, str]]:
    """Score what is unscored there: the folder with all scores, names of what was scored now, and of what failed with its reason."""
    layout = borrowing_layout(runs_dir, wanted.target)
    there = load_place(str(layout.place)) if place is None and layout.place.is_file() else place or Place()
    with device_held(runs_dir, there), credentials_of(there), Library.at(wanted.target, layout, say) as library:
        library.furnish(there)
        with existing_run(layout, say) as run:
            scored, failed = _sweep(run, library, wanted, perform_in(run))
    return layout, scored, failed


def _sweep(run: Run, library: Library, wanted: Wanted, perform: work.Perform) -> tuple[list[str], dict[str, str]]:
    scored, failed = list[str](), dict[str, str]()
    for published in library.checkpoints(wanted.checkpoints):
        try:
            if _score(run, library, published, wanted.suites or (run.recipe.evaluation.suite,), perform):
                scored.append(published.name)
        except Exception as error:  # the boundary between checkpoints: one that fails is told, and the next is tried
            run.say(f"{published.name}: {error}")
            failed[published.name] = f"{error.__class__.__name__}: {error}"
    return scored, failed


def _score(run: Run, library: Library, published: Receipt, suites: tuple[str, ...], perform: work.Perform) -> bool:
    """Score the checkpoint with those of the suites that it is not scored with; whether there was any."""
    from k2.eval.suite import build_suite

    owed = []
    for suite in suites:
        if suite not in library.suites_published_with(published):
            build_suite(run.recipe, run.place, run.layout, suite)
            if standing(run.layout, run.place, published.name, suite, published.inputs["export"]).open:
                owed.append(suite)
    if owed:
        with library.borrowed(published):
            for suite in owed:
                work.score_with(run, published.name, suite, perform)
    return bool(owed)
