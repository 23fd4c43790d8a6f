"""A prepared mini run with its suite, made once, and checkpoints of random weights as an import leaves them."""
# ruff: noqa: E402 (datasets reads its environment when it is imported)

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["HF_DATASETS_OFFLINE"] = os.environ["TQDM_DISABLE"] = "1"
_CACHE = tempfile.TemporaryDirectory(prefix="k2-test-datasets-")  # removed when the tests end
os.environ["HF_DATASETS_CACHE"] = os.environ["HF_HOME"] = _CACHE.name

import pytest

from k2.checkpoint.weights import write_weights_as_state
from k2.data.build import build
from k2.eval.suite import build_suites
from k2.model.layers import build_plain, weights_of
from k2.recipe.load import digest, load_recipe, to_toml
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, now, seal_folder

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return load_recipe(str(TESTS / "mini.toml"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> RunLayout:
    """Data and suite; nothing trained."""
    layout = RunLayout(tmp_path_factory.mktemp("prepared") / "mini-1")
    build(recipe, Place(data_dir=str(TESTS / "corpus")), layout, lambda _: None)
    layout.recipe.write_text(to_toml(recipe))
    build_suites(recipe, Place(), layout)
    return layout


@pytest.fixture
def layout(tmp_path: Path, prepared: RunLayout) -> RunLayout:
    """A run directory of the test's own, in which what was prepared is linked."""
    layout = RunLayout(tmp_path / "mini-1")
    layout.root.mkdir()
    for path in prepared.root.iterdir():
        (layout.root / path.name).symlink_to(path)
    return layout


@pytest.fixture
def save_checkpoint(recipe: Recipe, layout: RunLayout) -> Callable[..., None]:
    """Commits a checkpoint of random weights, large enough that its answers differ."""

    def save(name: str, stage: str = "stage1", step: int = 8, seed: int = 0) -> None:
        drawn = weights_of(build_plain(recipe.model, recipe.stage(stage).rope_base, seed), recipe.model)
        write_weights_as_state(layout.checkpoint(name), {key: tensor * 4 for key, tensor in drawn.items()})
        facts = {"kind": "chunk", "stage": stage, "step": step, "tokens": step * 128}
        seal_folder(layout.checkpoint(name), Receipt(kind="checkpoint", name=name, recipe=digest(recipe), made_at=now(), facts=facts))

    return save
