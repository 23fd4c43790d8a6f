"""When crashing again and again is no use: pure, from the ledger."""

from typing import Literal

from flows.crashes import fruitless_crashes, ranks_words
from flows.work import is_permanent
from k2.launch.evaluator import EvaluatorClosed, EvaluatorFailed
from k2.publish.failure import PublishFailed, PublishRefused
from k2.run.ledger import AttemptEnded, AttemptStarted, Fact


def attempts(*told: tuple[int, Literal["crashed", "stopped", "lost"]]) -> list[Fact]:
    facts: list[Fact] = []
    for number, (first_step, outcome) in enumerate(told, start=1):
        facts.append(AttemptStarted(attempt=number, stage="stage1", checkpoint=None, first_step=first_step))
        facts.append(AttemptEnded(attempt=number, outcome=outcome, exit_code=1))
    return facts


def test_crashes_that_bring_no_checkpoint_count() -> None:
    assert fruitless_crashes([]) == 0
    assert fruitless_crashes(attempts((1, "crashed"))) == 1
    assert fruitless_crashes(attempts((1, "crashed"), (1, "crashed"), (1, "crashed"))) == 3


def test_a_checkpoint_in_between_begins_the_count_anew() -> None:
    assert fruitless_crashes(attempts((1, "crashed"), (1, "crashed"), (21, "crashed"))) == 1


def test_other_ends_are_no_crashes() -> None:
    assert fruitless_crashes(attempts((1, "crashed"), (1, "crashed"), (1, "stopped"))) == 0
    assert fruitless_crashes(attempts((1, "crashed"), (1, "lost"), (1, "crashed"))) == 1


def test_what_the_ranks_said_comes_first() -> None:
    log = "noise\nk2.train, rank 1: disk\nk2.train, rank 0 refuses: no\nk2.train, rank 0 refuses: no\ntrace\n"
    assert ranks_words(log) == ["k2.train, rank 0 refuses: no", "k2.train, rank 1: disk"]
    assert ranks_words("a\nb\n", lines=1) == ["b"]


def test_what_the_world_did_is_tried_again_and_what_is_settled_is_not() -> None:
    assert not is_permanent(EvaluatorFailed("it died"))
    assert not is_permanent(PublishFailed("503"))
    assert is_permanent(EvaluatorClosed("the run is ending"))
    assert is_permanent(PublishRefused("another's bytes"))
    assert is_permanent(ValueError("a bad input"))
