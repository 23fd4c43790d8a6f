"""Following a file that a trainer writes: torn lines, a late file, and a stop request that stands once."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from spike_families import TINY, calm, records

from k2.recipe.schema import Recipe
from k2.run.control import read_stop_request, request_stop
from k2.run.holdings import read_holdings
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptStarted, Fact, StepsSkipped
from k2.run.plan import Train
from k2.run.records import StepRecord, accepted_records
from k2.watch.follow import follow, verdicts, watch_attempt
from k2.watch.policy import answer, judge

FIRST = AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1)
TRAIN = Train("stage1", 1, None, 1)


class Scripted:
    """A trainer that does the next thing whenever its follower waits, and has ended when nothing is left to do."""

    def __init__(self, *actions: Callable[[], object]) -> None:
        self._actions = list(actions)

    def wait(self, timeout: float) -> bool:
        if self._actions:
            self._actions.pop(0)()
        return not self._actions


def ended() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def appending(path: Path, content: str) -> Callable[[], object]:
    def append() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(content)

    return append


def write(layout: RunLayout, steps: list[StepRecord]) -> None:
    for record in steps:
        appending(layout.metrics(record.stage, record.attempt), record.line())()


def kicked() -> list[StepRecord]:
    loss = calm(TINY, np.random.default_rng(0))
    loss[290:330] += 2.0
    return records(loss)


def test_a_late_file_with_torn_and_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics" / "attempt_01.jsonl"
    steps = records(np.array([4.0, float("nan"), 3.9, 3.8]))
    lines = [record.line() for record in steps]
    trainer = Scripted(
        lambda: None,  # no file yet
        appending(path, lines[0][:20]),
        appending(path, lines[0][20:] + lines[1] + "{no record\n\n" + lines[2][:-1]),
        appending(path, "\n" + lines[3] + '{"attempt": 1, "st'),
    )
    assert [r.step for r in follow(path, trainer)] == [1, 2, 3, 4]
    assert [r.step for r in follow(path, ended())] == [1, 2, 3, 4]


def test_a_file_that_never_comes(tmp_path: Path) -> None:
    assert list(follow(tmp_path / "none.jsonl", ended())) == []


def test_it_asks_for_a_stop_as_soon_as_the_verdict_falls(recipe: Recipe, layout: RunLayout) -> None:
    path, steps = layout.metrics("stage1", 1), kicked()
    asked_after: list[int] = []

    def step(record: StepRecord) -> None:
        if read_stop_request(layout) is None:
            appending(path, record.line())()
            asked_after.append(record.step)

    found = watch_attempt(recipe, [FIRST], layout, TRAIN, Scripted(*(lambda r=r: step(r) for r in steps)))
    assert found is not None
    assert asked_after[-1] == found.verdict_step
    request = read_stop_request(layout)
    assert request is not None
    assert (request.attempt, request.reason) == (1, "verdict")


def test_the_watcher_that_comes_later_and_the_driver_say_the_same(recipe: Recipe, layout: RunLayout) -> None:
    write(layout, kicked()[:315])
    found = watch_attempt(recipe, [FIRST], layout, TRAIN, ended())
    assert found is not None
    assert found == watch_attempt(recipe, [FIRST], layout, TRAIN, ended())
    assert found == judge(recipe, [FIRST], "stage1", accepted_records(layout, [FIRST], "stage1"))


def test_it_knows_what_earlier_attempts_trained(recipe: Recipe, layout: RunLayout) -> None:
    """Attempt 2 goes on at step 281, 20 steps before the end of attempt 1: its own few records are no warm-up."""
    steps = kicked()
    second = AttemptStarted(attempt=2, stage="stage1", checkpoint="ckpt_007", first_step=281)
    write(layout, [replace(r, loss=99.0) if r.step > 280 else r for r in steps[:300]])
    write(layout, [replace(r, attempt=2) for r in steps[280:320]])
    skipped = StepsSkipped(stage="stage1", first_step=480, last_step=480, who="ada", why="")  # other data: nothing is trained again
    facts: list[Fact] = [FIRST, skipped, second]
    found = watch_attempt(recipe, facts, layout, Train("stage1", 2, "ckpt_007", 281), ended())
    assert found is not None
    assert (found.attempt, found.kind) == (2, "malignant.long")
    assert found == judge(recipe, facts, "stage1", accepted_records(layout, facts, "stage1"))


def test_a_verdict_that_has_its_incident_is_not_given_again(recipe: Recipe, layout: RunLayout) -> None:
    write(layout, kicked()[:315])
    found = watch_attempt(recipe, [FIRST], layout, TRAIN, ended())
    assert found is not None
    facts: list[Fact] = [FIRST, *answer(recipe, [FIRST], read_holdings(recipe, layout, [FIRST]), found)]
    assert watch_attempt(recipe, facts, layout, TRAIN, ended()) is None


def test_observing_asks_nobody(with_spikes: Callable[..., Recipe], layout: RunLayout) -> None:
    write(layout, kicked())
    [found] = verdicts(with_spikes('mode="observe"'), [FIRST], layout, TRAIN, ended())
    assert found.kind == "malignant.long"
    assert read_stop_request(layout) is None


def test_a_users_request_stands(recipe: Recipe, layout: RunLayout) -> None:
    write(layout, kicked()[:315])
    request_stop(layout, 1, "user")
    assert watch_attempt(recipe, [FIRST], layout, TRAIN, ended()) is not None
    request = read_stop_request(layout)
    assert request is not None
    assert request.reason == "user"
