"""A prepared mini run, made once; tests that damage something work on their own copy."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from k2.data.build import build
from k2.recipe.load import load_recipe
from k2.recipe.schema import Place, Recipe
from k2.run.layout import RunLayout

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Prepared:
    recipe: Recipe
    place: Place
    layout: RunLayout

    def content(self) -> dict[str, bytes]:
        """Every data file by its name; receipts hold the time, so they are left out."""
        files = [p for p in self.layout.root.rglob("*") if p.is_file() and p.suffix != ".json"]
        return {str(p.relative_to(self.layout.root)): p.read_bytes() for p in files}


def prepare(root: Path, *overrides: str) -> Prepared:
    made = Prepared(load_recipe(str(TESTS / "mini.toml"), overrides), Place(data_dir=str(TESTS / "corpus")), RunLayout(root))
    build(made.recipe, made.place, made.layout, lambda _: None)
    return made


@pytest.fixture(scope="session")
def mini(tmp_path_factory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("mini") / "run")


@pytest.fixture
def own_copy(mini, tmp_path) -> Prepared:
    shutil.copytree(mini.layout.root, tmp_path / "run")
    return Prepared(mini.recipe, mini.place, RunLayout(tmp_path / "run"))
