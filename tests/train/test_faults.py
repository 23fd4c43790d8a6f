"""The disturbances that a recipe declares: keyed by step, and refused where they would have no effect."""

from pathlib import Path

import numpy as np
import pytest

from k2.recipe.load import RecipeError, load_recipe
from k2.recipe.schema import Recipe
from k2.train.faults import declares, disturbed_rows, strikes
from k2.train.schedule import fault_factor

MINI = Path(__file__).parents[1] / "mini.toml"


def disturbed(tmp_path: Path, fault: str) -> Recipe:
    recipe = tmp_path / "disturbed.toml"
    recipe.write_text(MINI.read_text() + f'\n[[faults]]\nstage = "stage1"\nfirst_step = 5\nsteps = 3\n{fault}')
    return load_recipe(str(recipe))


def test_a_fault_strikes_its_steps_only(tmp_path: Path) -> None:
    recipe = disturbed(tmp_path, 'kind = "nan_gradients"\n')
    first, second = recipe.stages
    assert [step for step in range(1, 25) if strikes(recipe, "nan_gradients", first, step)] == [5, 6, 7]
    assert not any(strikes(recipe, "nan_gradients", second, step) for step in range(1, 5))
    assert declares(recipe, "nan_gradients", first)
    assert not declares(recipe, "nan_gradients", second)
    assert fault_factor(recipe.faults, "stage1", 6) == 1.0


def test_poisoned_rows_repeat_a_few_tokens_and_are_the_same_again(tmp_path: Path) -> None:
    recipe, rows = disturbed(tmp_path, 'kind = "repeated_tokens"\n'), np.zeros((4, 32), dtype=np.uint16)
    stage = recipe.stages[0]
    assert disturbed_rows(recipe, stage, 4, rows) is rows
    poisoned = disturbed_rows(recipe, stage, 5, rows)
    assert (poisoned.shape, poisoned.dtype) == (rows.shape, rows.dtype)
    assert (poisoned[:, 3:] == poisoned[:, :-3]).all()
    assert poisoned.max() < recipe.model.vocab_rows
    assert len({tuple(row) for row in poisoned}) == 4
    assert (poisoned == disturbed_rows(recipe, stage, 5, rows)).all()
    assert (poisoned != disturbed_rows(recipe, stage, 6, rows)).any()


@pytest.mark.parametrize("fault", ['kind = "learning_rate"\n', 'kind = "nan_gradients"\nlearning_rate_factor = 3.0\n', ""])
def test_a_fault_without_effect_is_refused(tmp_path: Path, fault: str) -> None:
    with pytest.raises(RecipeError, match="needs a factor other than 1"):
        disturbed(tmp_path, fault)
