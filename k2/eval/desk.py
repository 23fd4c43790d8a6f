"""The folder in which a suite's tasks find what they ask for by relative names.

A suite that brings its data is its own desk. The report's suite gets one with a link to each owner's folder of the mirror, so that the
harness's unmodified tasks load `owner/name` from there and never from a hub, and with our jailed `code_eval`.
"""

import os
from pathlib import Path

from k2.eval.judging import write_code_eval
from k2.eval.mirror import data_digest, missing_in
from k2.eval.tasks import REPORT_SUITE, SuiteError, SuiteTask
from k2.recipe.place import Place
from k2.run.durable import UNFINISHED, name_beside
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt


def lay_desk(layout: RunLayout, place: Place, suite: str) -> Path:
    """The suite's desk, laid where it is not the suite's own folder, as the mirror is now."""
    if suite != REPORT_SUITE:
        return layout.suite(suite).resolve()
    if place.benchmarks_dir is None:
        raise SuiteError(f"the place names no benchmarks_dir, which the suite {suite} asks: fill one with `k2 eval fetch --to DIR`")
    desk = (layout.all_suites / f".desk-{suite}").resolve()
    desk.mkdir(parents=True, exist_ok=True)
    owners = {path.name: path for path in Path(place.benchmarks_dir).resolve().iterdir() if path.is_dir() and path.name != "code_eval"}
    for link in [path for path in desk.iterdir() if path.is_symlink() and path.name not in owners and not path.name.startswith(UNFINISHED)]:
        link.unlink(missing_ok=True)
    for name, owner in owners.items():
        _link(desk / name, owner)
    write_code_eval(desk)
    return desk


def _link(link: Path, to: Path) -> None:
    """Lay the link at once: another evaluator may be at the same desk."""
    if not link.is_symlink() or link.readlink() != to:
        beside = name_beside(link)
        beside.symlink_to(to)
        os.replace(beside, link)


def check_data(suite: Receipt, place: Place, task: SuiteTask) -> None:
    """`SuiteError` when the mirror's data set is not the one whose digest the suite's scores carry."""
    if task.data_set is None or place.benchmarks_dir is None:
        return
    mirror = Path(place.benchmarks_dir)
    if missing_in(mirror, [task.data_set]):
        raise SuiteError(f"{mirror / task.data_set} holds no data any more; fetch it again with `k2 eval fetch --to {mirror}`")
    if data_digest(mirror, task.data_set) != suite.facts["data"][task.data_set]:
        raise SuiteError(
            f"{mirror / task.data_set} has changed since the run's suite was made: its scores would not compare with those before; "
            "restore the data set, or score in a new run"
        )
