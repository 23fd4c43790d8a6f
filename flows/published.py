"""Scoring what is published: the checkpoints of a folder, a bucket or a Hub repository, without the run that made them.

Each is borrowed in its turn, scored on the tasks that it has no scores for, and given back. What has its receipt is not done again,
whichever process began it; what was published with its scores is not scored again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows import work
from flows.abreast import side_by_side
from flows.credentials import credentials_of
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
    with credentials_of(there), Library.at(wanted.target, layout, say) as library:
        library.furnish(there)
        with existing_run(layout, say) as run:
            scored, failed = _sweep(run, library, wanted, perform_in(run))
    return layout, scored, failed


def _sweep(run: Run, library: Library, wanted: Wanted, perform: work.Perform) -> tuple[list[str], dict[str, str]]:
    from k2.eval.suite import build_suite

    suites = wanted.suites or (run.recipe.evaluation.suite,)
    published = {one.name: one for one in library.checkpoints(wanted.checkpoints)}
    owed = {name: [suite for suite in suites if suite not in library.suites_published_with(one)] for name, one in published.items()}
    for suite in {suite for suites in owed.values() for suite in suites}:
        build_suite(run.recipe, run.place, run.layout, suite)
    unscored = {name: [suite for suite in owed[name] if _is_open(run, one, suite)] for name, one in published.items()}
    names = [name for name, suites in unscored.items() if suites]

    def score(there: Run, name: str) -> None:
        with library.borrowed(published[name]):
            for suite in unscored[name]:
                work.score_with(there, name, suite, perform)

    failed = side_by_side(run, names, score)
    return [name for name in names if name not in failed], failed


def _is_open(run: Run, published: Receipt, suite: str) -> bool:
    return bool(standing(run.layout, run.place, published.name, suite, published.inputs["export"]).open)
