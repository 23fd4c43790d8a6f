"""Several devices take checkpoints side by side; one that somebody else uses holds up nothing."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.abreast import side_by_side
from flows.device import device_held
from flows.run import Run
from k2.launch.seats import Seat, seats
from k2.recipe.place import Place
from k2.run.layout import RunLayout

NAMES = ("ckpt_001", "ckpt_002", "ckpt_003", "ckpt_004")
TWO = Place(evaluator_devices=("cpu", "cpu"))


def a_run(tmp_path: Path, say: Callable[[str], None] = print) -> Run:
    """A run with two devices. Evaluators are started by the first question, and none is asked here."""
    ours, lease = SimpleNamespace(name="the run's own"), SimpleNamespace(descriptor=-1)
    return Run(None, TWO, RunLayout(tmp_path / "mini"), lease, ours, None, say)  # type: ignore[arg-type]


def test_two_devices_work_at_the_same_time_and_each_has_an_evaluator(tmp_path: Path) -> None:
    together, seen = threading.Barrier(2, timeout=60), list[tuple[str, int]]()

    def score(run: Run, name: str) -> None:
        seen.append((name, id(run.evaluator)))
        together.wait()

    assert side_by_side(a_run(tmp_path), NAMES, score) == {}
    assert sorted(name for name, _ in seen) == list(NAMES)
    assert len({evaluator for _, evaluator in seen}) == 2


def test_a_checkpoint_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    said, done = list[str](), list[str]()

    def score(_run: Run, name: str) -> None:
        if name == "ckpt_002":
            raise OSError("no space left")
        done.append(name)

    assert side_by_side(a_run(tmp_path, said.append), NAMES, score) == {"ckpt_002": "OSError: no space left"}
    assert sorted(done) == ["ckpt_001", "ckpt_003", "ckpt_004"]
    assert said == ["ckpt_002: no space left"]


@pytest.mark.parametrize("taken", seats(TWO, {}, 0), ids=lambda seat: seat.name)
def test_a_device_that_is_taken_is_waited_for_while_there_is_something_to_do(tmp_path: Path, taken: Seat) -> None:
    said, done = list[str](), list[str]()
    with device_held(tmp_path, taken, print):
        assert side_by_side(a_run(tmp_path, said.append), NAMES, lambda _run, name: done.append(name)) == {}
    assert done == list(NAMES)
    assert set(said) <= {f"{taken.name} evaluates something else; it is waited for"}
