"""The line that a person watches."""

from pathlib import Path

from flows.progress import Progress, describe, duration, remaining_tokens
from k2.recipe.load import load_recipe
from k2.run.records import StepRecord

RECIPE = load_recipe(str(Path(__file__).parents[1] / "mini.toml"))


def record(stage: str, step: int, seconds: float = 0.5) -> StepRecord:
    return StepRecord(1, stage, step, 3.25, 1.0, 1e-3, step * 128, seconds)


def test_the_line_says_stage_chunk_step_loss_speed_and_time_left() -> None:
    line = describe(RECIPE, [record("stage1", 11), record("stage1", 12)])
    assert line.startswith("stage1 chunk 001/3  step 12/24  loss 3.250")
    assert "256 tokens/s" in line  # 4 samples x 32 tokens in half a second
    assert line.endswith("38 % of training, 10 s left")


def test_what_is_left_counts_the_later_stages() -> None:
    assert remaining_tokens(RECIPE, record("stage1", 24)) == RECIPE.stages[1].tokens
    assert remaining_tokens(RECIPE, record("stage2", 4)) == 0


def test_lines_come_by_time_and_at_chunk_ends() -> None:
    now, said = [0.0], list[str]()
    progress = Progress(RECIPE, said.append, every_seconds=2.0, clock=lambda: now[0])
    for step in range(1, 9):
        progress.see(record("stage1", step))
        now[0] += 0.5
    assert [line.split("step ")[1].split("/")[0] for line in said] == ["1", "5", "8"]


def test_durations_read_as_people_say_them() -> None:
    assert [duration(s) for s in (45, 200, 3900, 200_000)] == ["45 s", "3 min 20 s", "1 h 05 min", "2.3 days"]
