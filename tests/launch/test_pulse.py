"""A trainer hangs when it is silent for far longer than its steps take."""

from dataclasses import replace
from pathlib import Path

from k2.launch.pulse import Patience, Pulse, stall_limit
from k2.run.records import StepRecord

RECORD = StepRecord(attempt=1, stage="stage1", step=1, loss=3.0, grad_norm=1.0, lr=0.1, tokens=128, seconds=2.0, at=1000.0)


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


QUICK = Patience(floor_seconds=10.0, saving_seconds=100.0, startup_seconds=30.0)


def never(step: int) -> bool:
    return False


def test_the_limit_follows_the_slow_steps_and_the_longest_silence() -> None:
    assert stall_limit([20.0] * 100) == 100.0
    assert stall_limit([20.0] * 98 + [30.0, 31.0]) == 150.0
    assert stall_limit([20.0] * 99 + [500.0]) == 1000.0


def test_fast_steps_have_a_floor_and_saves_and_the_start_their_own() -> None:
    assert stall_limit([0.1] * 50) == 60.0
    assert stall_limit([0.1] * 50, saving=True) == 1800.0
    assert stall_limit([]) == 1800.0
    assert stall_limit([], patience=QUICK) == 30.0


def test_silence_while_a_checkpoint_is_saved_is_no_stall(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "attempt_01.jsonl"
    pulse = Pulse(path, lambda step: step % 8 == 0, QUICK, clock)
    write(path, *[replace(RECORD, step=n, at=1000.0 + n) for n in range(1, 9)])
    assert len(pulse.observe()) == 8
    clock.now += 99
    assert not pulse.stalled
    clock.now += 2
    assert pulse.stalled
    write(path, replace(RECORD, step=9, at=1109.0))
    pulse.observe()
    assert not pulse.stalled


def test_a_pulse_follows_the_records_and_hears_silence(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "attempt_01.jsonl"
    pulse = Pulse(path, never, QUICK, clock)
    assert pulse.observe() == []
    clock.now += 29
    assert not pulse.stalled
    write(path, *[replace(RECORD, step=n, at=1000.0 + 3 * n) for n in range(1, 9)])
    assert [record.step for record in pulse.observe()] == list(range(1, 9))
    clock.now += 14
    assert not pulse.stalled
    clock.now += 2
    assert pulse.observe() == []
    assert pulse.stalled
    write(path, replace(RECORD, step=9, at=1040.0))
    assert [record.step for record in pulse.observe()] == [9]
    assert not pulse.stalled


def test_a_torn_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path, line = tmp_path / "attempt_01.jsonl", RECORD.line()
    pulse = Pulse(path, never)
    path.write_text(line[:20])
    assert pulse.observe() == []
    path.write_text(line)
    assert pulse.observe() == [RECORD]


def test_a_clock_set_back_makes_no_negative_gap(tmp_path: Path) -> None:
    path = tmp_path / "attempt_01.jsonl"
    write(path, replace(RECORD, at=5000.0), replace(RECORD, step=2, at=1400.0))
    pulse = Pulse(path, never, QUICK)
    assert len(pulse.observe()) == 2
    assert not pulse.stalled


def write(path: Path, *records: StepRecord) -> None:
    with path.open("a") as file:
        file.writelines(record.line() for record in records)
