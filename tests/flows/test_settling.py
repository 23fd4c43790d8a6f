"""The thread beside training: everything owed once, a failure noted, an error of its own brought to light."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from leases import past_lease

from flows.loop import Settling
from flows.run import Run
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.run.holdings import DUTIES, Duty, duty_folder
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptEnded, AttemptStarted, DutyFailed, read_facts
from k2.run.opening import create_or_open
from k2.run.plan import Settle, owed_duties
from k2.run.receipt import Receipt, commit_receipt_only, now, seal_folder

MINI = str(Path(__file__).parents[1] / "mini.toml")


class NoEvaluator:
    def close(self) -> None:
        """Nothing runs."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose first stage is trained: three checkpoints, nothing settled."""
    recipe, layout = load_recipe(MINI), RunLayout(tmp_path / "mini")
    create_or_open(layout, recipe, Place())
    made = Run(recipe, Place(), layout, past_lease(layout), NoEvaluator(), None, lambda _line: None)  # type: ignore[arg-type]
    made.record(
        AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1), AttemptEnded(attempt=1, outcome="completed", exit_code=0)
    )
    for number in (1, 2, 3):
        folder = layout.checkpoint(f"ckpt_{number:03d}")
        folder.mkdir(parents=True)
        facts = {"kind": "chunk", "stage": "stage1", "step": 8 * number, "tokens": 1}
        seal_folder(folder, Receipt(kind="checkpoint", name=folder.name, recipe="r", made_at=now(), facts=facts))
    return made


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def settle_receipt(run: Run, duty: Settle) -> None:
    commit_receipt_only(
        duty_folder(run.layout, duty.checkpoint, duty.duty), Receipt(kind=duty.duty, name=duty.checkpoint, recipe="r", made_at=now())
    )


def test_everything_is_settled_once_and_in_order(run: Run) -> None:
    done: list[Settle] = []

    def settle(duty: Settle) -> None:
        done.append(duty)
        settle_receipt(run, duty)

    with Settling(run, settle) as settling:
        until(lambda: len(done) == 15)
        assert not settling.has_given_up()  # what is done is not given up: the driver asks while the last duty is being settled
    assert done == [Settle(f"ckpt_{n:03d}", duty) for n in (1, 2, 3) for duty in DUTIES]


def test_what_is_settled_yields_the_cores_to_the_training(run: Run) -> None:
    nice: list[int] = []

    def settle(duty: Settle) -> None:
        nice.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        settle_receipt(run, duty)

    own = os.getpriority(os.PRIO_PROCESS, 0)
    with Settling(run, settle):
        until(lambda: len(nice) == 15)
    assert set(nice) == {max(own, run.place.evaluator_niceness)}
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_a_failed_duty_is_noted_and_holds_its_own_checkpoint_only(run: Run) -> None:
    done: list[Settle] = []

    def settle(duty: Settle) -> None:
        if duty == Settle("ckpt_002", "evaluated"):
            raise RuntimeError("no memory")
        done.append(duty)
        settle_receipt(run, duty)

    with Settling(run, settle) as settling:
        until(settling.has_given_up)
    assert [(f.checkpoint, f.duty, f.why) for f in read_facts(run.layout.ledger) if isinstance(f, DutyFailed)] == [
        ("ckpt_002", "evaluated", "RuntimeError: no memory")
    ]
    settled: set[tuple[str, Duty]] = {(duty.checkpoint, duty.duty) for duty in done}
    assert ("ckpt_002", "published") not in settled
    assert ("ckpt_003", "shown") in settled


def test_where_nothing_is_owed_nothing_is_given_up(run: Run) -> None:
    """The last duty may be settled between two looks: a run that asked just then ended as if something had failed."""
    with Settling(run, lambda duty: settle_receipt(run, duty)) as settling:
        until(lambda: not owed_duties(run.recipe, run.facts(), run.holdings()))
        assert not settling.has_given_up()


def test_an_error_of_the_thread_itself_comes_to_light(run: Run) -> None:
    def settle(_duty: Settle) -> None:
        run.layout.ledger.write_text("no ledger\n")
        raise RuntimeError("first")

    with Settling(run, settle) as settling:
        until(lambda: settling._error is not None)
        with pytest.raises(ValueError, match="is no fact"):
            settling.check()


def test_nothing_is_settled_while_hushed(run: Run) -> None:
    done: list[Settle] = []
    first = threading.Event()

    def settle(duty: Settle) -> None:
        done.append(duty)
        settle_receipt(run, duty)
        first.set()

    with Settling(run, settle) as settling:
        first.wait(20)
        with settling.hushed():
            before = len(done)
            time.sleep(0.3)
            assert len(done) == before
        until(lambda: len(done) == 15)
