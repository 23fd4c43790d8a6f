"""Records come back as they were written, from a file that grows, and through rollbacks."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from filled_run import record, started, write_records

from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.ledger import Fact, StepsSkipped
from k2.run.records import RecordTail, accepted_records, all_branches, branches, last_record, read_records, replayed_losses

LINES = [record(1, step).line() for step in range(1, 4)]


def append(path: Path, content: str | bytes) -> None:
    with path.open("ab") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def test_every_float_comes_back_bit_for_bit(tmp_path: Path) -> None:
    odd = replace(record(1, 1), loss=0.1 + 0.2, grad_norm=math.inf, lr=5e-324, seconds=math.nextafter(2.0, 3.0))
    append(tmp_path / "r.jsonl", odd.line() + replace(odd, step=2, loss=math.nan).line())
    first, second = read_records(tmp_path / "r.jsonl")
    assert first == odd
    assert math.isnan(second.loss)


@pytest.mark.parametrize("rest", ['{"attempt": 1, "st', "null\n", "[1, 2]\n", '{"attempt": 1}\n', b"\xff\xfe\x00\n", "\n"])
def test_what_is_no_record_is_passed_over(tmp_path: Path, rest: str | bytes) -> None:
    path = tmp_path / "r.jsonl"
    append(path, LINES[0] + LINES[1])
    append(path, rest)
    assert [r.step for r in read_records(path)] == [1, 2]
    assert last_record(path) == record(1, 2)
    assert [r.step for r in RecordTail(path).new()] == [1, 2]


def test_a_tail_reads_what_is_new_and_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    tail = RecordTail(path)
    assert tail.new() == []
    append(path, LINES[0] + LINES[1][:30])
    assert tail.new() == [record(1, 1)]
    assert tail.new() == []
    append(path, LINES[1][30:-1])
    assert tail.new() == []
    append(path, "\n" + LINES[2])
    assert tail.new() == [record(1, 2), record(1, 3)]
    assert tail.new() == []


def test_the_last_record_of_a_long_file_with_a_long_torn_end(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert last_record(path) is None
    append(path, "".join(record(1, step).line() for step in range(1, 2001)))
    assert last_record(path) == record(1, 2000)
    append(path, '{"torn": "' + "x" * 50_000)
    assert last_record(path) == record(1, 2000)
    path.write_bytes(b"x" * 50_000)
    assert last_record(path) is None


def test_a_later_attempt_replaces_everything_from_its_first_step_on(layout: RunLayout) -> None:
    """Attempt 2 goes back to step 5 and skips 5 and 6; attempt 3 goes back further than it; attempt 4 has no record yet."""
    facts: list[Fact] = [started(1), started(2, 5), started(3, 4), started(4, 6)]
    write_records(layout, 1, *range(1, 11))
    write_records(layout, 2, 7, 8)
    write_records(layout, 3, 4, 5, 6, 7)
    assert accepted(layout, facts[:1]) == [(1, step) for step in range(1, 11)]
    assert accepted(layout, facts[:2]) == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 7), (2, 8)]
    assert accepted(layout, facts[:3]) == [(1, 1), (1, 2), (1, 3), (3, 4), (3, 5), (3, 6), (3, 7)]
    assert accepted(layout, facts) == [(1, 1), (1, 2), (1, 3), (3, 4), (3, 5)]


def test_branches_keep_what_was_abandoned_and_part_the_stages(recipe: Recipe, layout: RunLayout) -> None:
    facts: list[Fact] = [started(1), started(2, 3), started(3, stage="stage2")]
    write_records(layout, 1, 1, 2, 3, 4)
    write_records(layout, 2, 3)
    write_records(layout, 3, 1, 2, stage="stage2")
    found = branches(layout, facts, "stage1")
    assert {attempt: [r.step for r in read] for attempt, read in found.items()} == {1: [1, 2, 3, 4], 2: [3]}
    assert all_branches(layout, facts, recipe) == {"stage1": found, "stage2": branches(layout, facts, "stage2")}


def accepted(layout: RunLayout, facts: list[Fact]) -> list[tuple[int, int]]:
    """Attempt and step of each accepted record."""
    return [(r.attempt, r.step) for r in accepted_records(layout, facts, "stage1")]


def test_what_is_trained_again_from_the_same_state_and_data_is_known(recipe: Recipe, layout: RunLayout) -> None:
    """Attempt 1 reached step 8; attempt 2 goes on after 4. A data operation, or a checkpoint of a later attempt, makes it another run."""
    write_records(layout, 1, *range(1, 9))
    facts: list[Fact] = [started(1, 1), started(2, 5)]
    assert sorted(replayed_losses(branches(layout, facts, "stage1"), facts, "stage1")) == [5, 6, 7, 8]
    skipped = StepsSkipped(stage="stage1", first_step=6, last_step=6, who="policy", why="")
    assert replayed_losses(branches(layout, facts, "stage1"), [facts[0], skipped, facts[1]], "stage1") == {}
    write_records(layout, 2, 5, 6)
    facts.append(started(3, 7))  # from a checkpoint that attempt 2 made after step 6
    assert replayed_losses(branches(layout, facts, "stage1"), facts, "stage1") == {}
    assert replayed_losses({}, [], "stage1") == {}
