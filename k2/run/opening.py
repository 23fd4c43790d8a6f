"""Opening a run directory: creating it for a recipe, or going on with the recipe it was created for.

The recipe of a run never changes. A second recipe under the same name is refused with the fields that differ.
"""

from pathlib import Path

from k2.recipe.load import RecipeError, differences, digest, load_place, load_recipe, to_toml
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.recipe.world import ranks_per_node
from k2.run.durable import write_durably
from k2.run.layout import RunLayout
from k2.run.ledger import RunCreated, append_facts, read_facts

_RANKS = tuple(f"layout.{name}" for name in ("pipeline", "data", "tensor", "sequence_parallel", "zero_stage"))


class NoSuchRun(ValueError):
    """There is no run at that place."""


def create_or_open(layout: RunLayout, recipe: Recipe, place: Place | None) -> None:
    """Make the run directory, or check that it is this recipe's. Without a place a run keeps the one it has. Hold its lease."""
    if place is not None:
        ranks_per_node(recipe, place)
    if read_facts(layout.ledger):
        _refuse_another_recipe(layout, recipe)
    else:
        write_durably(layout.recipe, to_toml(recipe).encode())
        append_facts(layout.ledger, RunCreated(run=layout.name, recipe=digest(recipe), recipe_name=recipe.name))
    if place is not None or not layout.place.is_file():
        write_durably(layout.place, to_toml(place or Place()).encode())


def change_world(layout: RunLayout, world: str) -> None:
    """Have the run's place train it by another world from now on. `RecipeError` for one that does not divide it. Hold its lease."""
    recipe, place = open_run(layout)
    changed = place.model_copy(update={"world": world})
    ranks_per_node(recipe, changed)
    write_durably(layout.place, to_toml(changed).encode())


def open_run(layout: RunLayout) -> tuple[Recipe, Place]:
    """The recipe and the place of an existing run. `RecipeError` when its recipe file was changed under it."""
    facts = read_facts(layout.ledger)
    if not facts or not layout.recipe.is_file():
        raise NoSuchRun(f"there is no run at {layout.root}: start one with `k2 run RECIPE --run {layout.name}`, or see `k2 runs`")
    recipe = load_recipe(str(layout.recipe))
    created = facts[0]
    if isinstance(created, RunCreated) and created.recipe != digest(recipe):
        raise RecipeError(
            f"{layout.recipe} is not the recipe that this run was created with (digest {digest(recipe)[:12]}, the ledger says "
            f"{created.recipe[:12]}{_edited(layout, recipe, created.recipe)}): a recipe never changes under a run. Restore the file, "
            "or start another run; ranks and micro-batches may change by `k2 resume RUN --world`."
        )
    return recipe, load_place(str(layout.place)) if layout.place.is_file() else Place()


def existing_runs(runs_dir: Path) -> list[RunLayout]:
    """Every run under `runs_dir`, by name."""
    found = sorted(runs_dir.glob("*/ledger.jsonl")) if runs_dir.is_dir() else []
    return [RunLayout(path.parent) for path in found if not path.parent.name.startswith(".")]


def _edited(layout: RunLayout, recipe: Recipe, created: str) -> str:
    """What was changed in the recipe's file, where a checkpoint still has it as it was."""
    for path in sorted(layout.checkpoints.glob(f"*/{layout.recipe.name}")):
        kept = load_recipe(str(path))
        if digest(kept) == created:
            return f"; what differs from {path}: {'; '.join(differences(kept, recipe)[:8])}"
    return ""


def _refuse_another_recipe(layout: RunLayout, recipe: Recipe) -> None:
    there, _ = open_run(layout)
    changed = differences(there, recipe)
    if changed:
        shown = "; ".join(changed[:8]) + (f"; and {len(changed) - 8} more" if len(changed) > 8 else "")
        fields = [line.partition(": ")[0] for line in changed]
        ranks = any(field in _RANKS or field.endswith(".micro_batch_samples") for field in fields)
        raise RecipeError(
            f"run {layout.name!r} was created with another recipe; what differs: {shown}. "
            f"Go on with its own by `k2 resume {layout.name}`, or give this recipe another name with --run."
            + (f" Ranks and micro-batches may change under it: `k2 resume {layout.name} --world pp2dp1tp1`." if ranks else "")
        )
