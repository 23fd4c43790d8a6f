"""The runs that the page's tests read: one only created, one told to its end."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from synthetic_run import Writer, tell_whole_story

from k2.recipe.load import load_recipe
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """The tests' recipe, longer, so that there is something to see."""
    mini = Path(__file__).parent.parent / "mini.toml"
    longer = (
        "name=story",
        "stages.stage1.chunks=12",
        "stages.stage1.steps_per_chunk=40",
        "stages.stage2.chunks=4",
        "stages.stage2.steps_per_chunk=20",
        "stages.stage1.schedule.warmup_steps=20",
        "stages.stage2.schedule.warmup_steps=8",
        "stages.stage1.mix.code.fraction=0.45",
        "checkpoints.rescue_every_steps=20",
        "spikes.persistence_steps=8",
        "publishing.every=3",
    )
    return load_recipe(str(mini), longer)


@pytest.fixture
def writer(recipe: Recipe, tmp_path: Path) -> Writer:
    """A run that was only created."""
    made = Writer(recipe, RunLayout(tmp_path / "runs" / "story-1"))
    made.create()
    return made


@pytest.fixture(scope="session")
def told(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """A finished run. Tests read it and write its page, nothing else."""
    made = Writer(recipe, RunLayout(tmp_path_factory.mktemp("told") / "runs" / "story-1"))
    made.create()
    tell_whole_story(made)
    return made


@pytest.fixture(scope="module")  # a living Playwright keeps others of this process from starting one
def browser() -> "Iterator[Browser]":
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the system's package to run the browser tests")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield running
        running.close()
