"""Which device each evaluator works on, and what it is called."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from k2.launch.command import evaluator_command
from k2.launch.seats import Seat, seats
from k2.recipe.place import Place
from k2.run.layout import RunLayout


def of(*devices: str, visible: str | None = None, there: int = 8) -> tuple[Seat, ...]:
    return seats(Place(evaluator_devices=devices), {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}, there)


def test_a_device_that_is_named_again_gets_a_further_process() -> None:
    assert [seat.name for seat in of("cpu", "cuda", "cpu", "cuda:0", "cuda:1")] == ["cpu", "cuda-0", "cpu-1", "cuda-0-1", "cuda-1"]


def test_devices_are_counted_among_the_visible_ones_and_have_one_name_for_all() -> None:
    assert of("cuda", "cuda:1", visible="3,5") == (Seat(0, "cuda", "3", "cuda-3"), Seat(1, "cuda", "5", "cuda-5"))
    assert of("cuda:5")[0].name == of("cuda:1", visible="3,5")[0].name


@pytest.mark.parametrize(("visible", "there", "seen"), [("", 8, 0), ("3,5", 8, 2), (None, 2, 2), (None, 0, 0), ("0,1,2", 0, 0)])
def test_a_device_that_is_not_to_be_seen_is_refused(visible: str | None, there: int, seen: int) -> None:
    with pytest.raises(ValueError, match=rf"names cuda:2, but {seen} CUDA devices .* name one of those, or cpu"):
        of("cpu", "cuda:2", visible=visible, there=there)


@pytest.mark.parametrize("devices", [(), ("gpu",), ("cuda:x",)])
def test_a_place_with_another_device_is_refused(devices: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="evaluator_devices"):
        Place(evaluator_devices=devices)


def test_an_evaluator_sees_its_own_device_alone() -> None:
    layout, inherited = RunLayout(Path("/runs/one")), {"CUDA_VISIBLE_DEVICES": "3,5"}
    first, second = seats(Place(evaluator_devices=("cpu", "cuda:1")), inherited, 8)
    on_cpu, on_cuda = (evaluator_command(Place(), layout, inherited, requests=8, answers=9, seat=seat) for seat in (first, second))
    assert (on_cpu.environment["CUDA_VISIBLE_DEVICES"], on_cuda.environment["CUDA_VISIBLE_DEVICES"]) == ("", "5")
    assert (on_cpu.argv[-1], on_cuda.argv[-1]) == ("cpu", "cuda")
    assert on_cpu.environment["K2_PROCESS"] != on_cuda.environment["K2_PROCESS"]
