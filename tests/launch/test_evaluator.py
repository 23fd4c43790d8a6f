"""The evaluator answers, is started again once, and never keeps anybody waiting for ever."""

import os
import sys
import threading
from collections.abc import Iterator

import pytest
from launch_rig import STUBS, Rig

from k2.launch.command import MARK, Command, mark
from k2.launch.evaluator import Evaluator, EvaluatorFailed
from k2.launch.strays import strays
from k2.run.lease import hold, is_held


@pytest.fixture
def evaluator(rig: Rig) -> Iterator[Evaluator]:
    def command(requests: int, answers: int) -> Command:
        supervisor = (
            "-m",
            "k2.launch.supervise",
            "--orphan-grace",
            "0",
            "--stdin-fd",
            str(requests),
            "--stdout-fd",
            str(answers),
            "--lock-fd",
        )
        stub = (sys.executable, str(STUBS / "evaluator.py"), str(rig.folder / "lives"))
        return Command(
            (sys.executable, *supervisor, str(lease.descriptor), "--", *stub), {**os.environ, MARK: mark("evaluator", rig.layout)}
        )

    with hold(rig.layout) as lease, Evaluator(command, rig.layout, lease, ready_seconds=20) as evaluator:
        yield evaluator
    assert not strays(mark("evaluator", rig.layout))
    assert not is_held(rig.layout)


def test_one_process_answers_all_questions(evaluator: Evaluator) -> None:
    first, second = evaluator.ask("exported", "ckpt_001"), evaluator.ask("evaluated", "ckpt_001")
    assert (first.ok, second.ok, second.id) == (True, True, first.id + 1)
    assert first.model_extra == second.model_extra


def test_a_refusal_says_why(evaluator: Evaluator) -> None:
    answer = evaluator.ask("verified", "ckpt_broken")
    assert (answer.ok, answer.error, answer.permanent) == (False, "it has no receipt", True)


def test_it_is_started_again_when_it_dies(evaluator: Evaluator, rig: Rig) -> None:
    assert evaluator.ask("exported", "ckpt_dies_once").ok
    assert (rig.folder / "lives").read_text() == "xx"


def test_after_two_deaths_it_has_failed_and_the_next_question_starts_it(evaluator: Evaluator, rig: Rig) -> None:
    with pytest.raises(EvaluatorFailed, match=r"died twice over ckpt_dies exported.*evaluator\.log"):
        evaluator.ask("exported", "ckpt_dies")
    assert evaluator.ask("exported", "ckpt_001").ok
    assert (rig.folder / "lives").read_text() == "xxx"


def test_who_is_silent_too_long_is_ended(evaluator: Evaluator) -> None:
    with pytest.raises(EvaluatorFailed, match="no answer"):
        evaluator.ask("evaluated", "ckpt_silent", timeout_seconds=0.3)
    assert evaluator.ask("evaluated", "ckpt_001").ok


def test_many_threads_may_ask(evaluator: Evaluator) -> None:
    answers = {}

    def ask(number: int) -> None:
        answers[number] = (evaluator.ask("exported", f"ckpt_{number:03d}").model_extra or {})["receipt"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == {number: f"ckpt_{number:03d}" for number in range(8)}


def test_closing_ends_an_answer_in_the_middle(evaluator: Evaluator) -> None:
    evaluator.ask("exported", "ckpt_001")
    failed = threading.Event()

    def ask() -> None:
        with pytest.raises(EvaluatorFailed):
            evaluator.ask("evaluated", "ckpt_silent")
        failed.set()

    thread = threading.Thread(target=ask)
    thread.start()
    evaluator.close()
    thread.join(20)
    assert failed.is_set()
