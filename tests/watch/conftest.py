"""A miniature run's recipe and folder, with checkpoints that are real folders under real receipts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from k2.recipe.load import digest, load_recipe
from k2.recipe.schema import Recipe
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, now, seal_folder

MINI = str(Path(__file__).parents[1] / "mini.toml")
LONGER = (
    "stages.stage1.chunks=12",
    "stages.stage1.steps_per_chunk=40",
    "checkpoints.rescue_every_steps=10",
    "spikes.persistence_steps=12",
    "spikes.margin_steps=12",
    "spikes.max_skip_steps=40",
)


@pytest.fixture
def recipe() -> Recipe:
    """Stage 1 has 12 chunks of 40 steps; rescue checkpoints every 10; persistence and margin are 12 steps."""
    return load_recipe(MINI, LONGER)


@pytest.fixture
def with_spikes() -> Callable[..., Recipe]:
    """The same recipe with other fields of `[spikes]`."""
    return lambda *overrides: load_recipe(MINI, LONGER + tuple(f"spikes.{o}" for o in overrides))


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    return RunLayout(tmp_path / "run-1")


@pytest.fixture
def commit(recipe: Recipe, layout: RunLayout) -> Callable[..., None]:
    """Commit a checkpoint of stage 1 at a step."""

    def commit_checkpoint(name: str, kind: str, step: int) -> None:
        facts = {"kind": kind, "stage": "stage1", "step": step, "tokens": step * 128, "attempt": 1}
        with durable_folder(layout.checkpoint(name)) as folder:
            (folder / "weights.bin").write_bytes(name.encode() * 100)
            seal_folder(folder, Receipt(kind="checkpoint", name=name, recipe=digest(recipe), made_at=now(), facts=facts))

    return commit_checkpoint
