"""Seats, signs of life and calls: what hosts that train together tell each other over the disk."""

import os
from pathlib import Path

import pytest

from k2.recipe.place import Place
from k2.run.layout import RunLayout
from k2.run.nodes import NodeWatch, call_nodes, dismiss_nodes, read_call, take_seat
from k2.run.plan import Train

SEGMENT = Train("stage1", 3, "ckpt_002", 17)
TWO = Place(device="cpu", nodes=2, rendezvous="127.0.0.1:29500", node_silence_seconds=5.0)


class Clock:
    """Seconds that pass when they are told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def look_for(watch: NodeWatch, clock: Clock, seconds: float) -> None:
    """Look twice a second."""
    for _ in range(round(2 * seconds)):
        clock.now += 0.5
        watch.look()


def never() -> None:
    raise AssertionError("the seat is free")


def test_a_call_says_what_is_trained_and_when_it_is_over(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    assert read_call(layout) is None
    call = call_nodes(layout, SEGMENT)
    assert read_call(layout) == call
    assert (call.segment, call.over) == (SEGMENT, False)
    dismiss_nodes(layout, call)
    ended = read_call(layout)
    assert ended is not None
    assert (ended.id, ended.over) == (call.id, True)


def test_two_calls_to_the_same_segment_are_two(tmp_path: Path) -> None:
    assert call_nodes(RunLayout(tmp_path), SEGMENT).id != call_nodes(RunLayout(tmp_path), SEGMENT).id


@pytest.mark.parametrize("text", ["", "{", '{"id": "; rm -rf", "segment": {}}', '{"id": "0123456789abcdef", "segment": {"stage": 3}}'])
def test_what_is_no_call_is_none(tmp_path: Path, text: str) -> None:
    layout = RunLayout(tmp_path)
    call_nodes(layout, SEGMENT)
    layout.call.write_text(text)
    assert read_call(layout) is None


def test_who_comes_second_waits_until_the_seat_is_free(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    with take_seat(layout, 1, never) as first:
        left = [lambda: os.close(other), lambda: None]
        other = os.dup(first.descriptor)  # as a rank has it that has not ended yet

    def wait() -> None:
        left.pop()()

    with take_seat(layout, 1, wait) as second, take_seat(layout, 2, never):
        assert left == []
        assert second.holder != first.holder


def test_only_a_sign_that_comes_now_counts(tmp_path: Path) -> None:
    layout, clock = RunLayout(tmp_path), Clock()
    with take_seat(layout, 1, never) as seat:
        seat.give_sign()
    watch = NodeWatch(TWO, layout, clock)
    watch.look()
    assert watch.missing == (1,)
    with take_seat(layout, 1, never) as seat:
        seat.give_sign()
        watch.look()
        assert watch.missing == ()
        assert watch.newest[1].holder == seat.holder
        look_for(watch, clock, 4.5)
        assert watch.missing == ()
        look_for(watch, clock, 1.0)
        assert watch.missing == (1,)
        seat.give_sign()
        watch.look()
        assert watch.missing == ()


def test_a_disk_that_stood_still_is_nobodys_silence(tmp_path: Path) -> None:
    layout, clock = RunLayout(tmp_path), Clock()
    watch = NodeWatch(TWO, layout, clock)
    with take_seat(layout, 1, never) as seat:
        seat.give_sign()
        watch.look()
    clock.now += 300.0
    watch.look()
    assert watch.missing == ()
    look_for(watch, clock, 5.0)
    assert watch.missing == (1,)


def test_a_node_whose_ranks_ended_badly_says_so_in_this_call_alone(tmp_path: Path) -> None:
    layout, clock = RunLayout(tmp_path), Clock()
    with take_seat(layout, 1, never) as seat:
        earlier, call = call_nodes(layout, SEGMENT), call_nodes(layout, SEGMENT)
        watch = NodeWatch(TWO, layout, clock)
        seat.failed = earlier.id
        for _ in range(15):
            seat.give_sign()
            look_for(watch, clock, 1.0)
        assert (watch.failed(call), watch.failed(earlier)) == ((), (1,))
        seat.failed = call.id
        seat.give_sign()
        look_for(watch, clock, 5.0)
        assert watch.failed(call) == ()  # the others may still say it themselves
        look_for(watch, clock, 6.0)
        assert watch.failed(call) == (1,)


def test_half_a_sign_is_none_and_a_node_that_never_came_is_missing(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    watch = NodeWatch(TWO.model_copy(update={"nodes": 3}), layout)
    layout.node(1).parent.mkdir(parents=True)
    layout.node(1).write_text('{"host": "b", "pi')
    watch.look()
    assert watch.missing == (1, 2)
    assert watch.newest == {}


def test_one_host_misses_nobody(tmp_path: Path) -> None:
    assert NodeWatch(Place(), RunLayout(tmp_path)).missing == ()
