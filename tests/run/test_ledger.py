"""The ledger keeps every fact, in order, and notices what was done to it."""

import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from k2.run.ledger import AttemptStarted, LedgerBroken, RunCreated, StepsSkipped, append_facts, ledger_head, read_facts

CREATED = RunCreated(run="r", recipe="d" * 64, recipe_name="mini")
STARTED = AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1)
SKIPPED = StepsSkipped(stage="stage1", first_step=5, last_step=9, who="policy", why="spike")


def test_facts_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    append_facts(path, CREATED)
    append_facts(path, STARTED, SKIPPED)
    read = read_facts(path)
    assert [f.model_dump(exclude={"prev"}) for f in read] == [f.model_dump(exclude={"prev"}) for f in (CREATED, STARTED, SKIPPED)]


def test_a_torn_last_line_was_never_a_fact(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    append_facts(path, CREATED)
    with path.open("a") as file:
        file.write('{"fact": "attempt_sta')
    assert len(read_facts(path)) == 1
    append_facts(path, STARTED)
    assert [f.fact for f in read_facts(path)] == ["run_created", "attempt_started"]


@pytest.fixture
def room() -> Iterator[Callable[[int], None]]:
    """Sets how many bytes a file may have, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("lines", [0.5, 1.0, 1.5])
def test_facts_that_belong_together_land_together_or_not_at_all(tmp_path: Path, room: Callable[[int], None], lines: float) -> None:
    path = tmp_path / "ledger.jsonl"
    append_facts(path, CREATED)
    before = path.read_bytes()
    room(len(before) + int(lines * len(STARTED.model_dump_json()) + lines))
    with pytest.raises(OSError, match="too large"):
        append_facts(path, STARTED, SKIPPED)
    assert path.read_bytes() == before
    room(1 << 20)
    append_facts(path, STARTED, SKIPPED)
    assert [f.fact for f in read_facts(path)] == ["run_created", "attempt_started", "steps_skipped"]


@pytest.mark.parametrize("harm", ["edit", "remove", "swap"])
def test_an_edited_ledger_is_refused(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "ledger.jsonl"
    append_facts(path, CREATED, STARTED, SKIPPED)
    lines = path.read_text().splitlines(keepends=True)
    if harm == "edit":
        fields = json.loads(lines[1]) | {"first_step": 7}
        lines[1] = json.dumps(fields) + "\n"
    elif harm == "remove":
        del lines[1]
    else:
        lines[1], lines[2] = lines[2], lines[1]
    path.write_text("".join(lines))
    with pytest.raises(LedgerBroken, match=r"line [23]"):
        read_facts(path)


def test_the_head_names_the_history(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    append_facts(path, CREATED)
    before = ledger_head(path)
    append_facts(path, STARTED)
    assert ledger_head(path) != before
