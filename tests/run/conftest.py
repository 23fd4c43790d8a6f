"""The miniature recipe, and a run directory that is filled with receipts as a run would fill it."""

from pathlib import Path

import pytest

from k2.recipe.load import load_recipe
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """Stage 1 has 3 chunks of 8 steps, stage 2 has 1 chunk of 4; a rescue every 4; a persistence of 4 steps."""
    return load_recipe(str(Path(__file__).parents[1] / "mini.toml"))


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    return RunLayout(tmp_path / "run-1")
