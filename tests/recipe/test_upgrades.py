"""A run that was made before a field existed is still itself afterwards: its identity and its place are read as they were."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from k2.recipe.load import digest, load_place, load_recipe
from k2.recipe.part import LATER, Part
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.ledger import RunCreated, append_facts
from k2.run.opening import open_run

MINI = str(Path(__file__).parents[1] / "mini.toml")
FIRST = Path(__file__).parent / "first_fields.txt"


def parts_in(annotation: Any) -> Iterator[type[Part]]:
    """The models that a field's type holds, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
    for argument in get_args(annotation):
        yield from parts_in(argument)


def fields_of(part: type[Part]) -> dict[str, Any]:
    """Every field of a recipe by the name of its model and its own."""
    found: dict[str, Any] = {f"{part.__name__}.{name}": field for name, field in part.model_fields.items()}
    for field in part.model_fields.values():
        for inner in parts_in(field.annotation):
            found |= fields_of(inner)
    return found


def test_what_came_later_has_a_default_and_is_marked() -> None:
    """The file lists the fields that every run has had. It never grows: a new field is `json_schema_extra=LATER`."""
    fields, first = fields_of(Recipe), set(FIRST.read_text().split())
    later = {name: field for name, field in fields.items() if name not in first}
    assert [name for name, field in later.items() if field.is_required() or field.json_schema_extra != LATER] == []
    assert first <= fields.keys(), "a field that went: runs that have it would be refused"


def test_a_later_field_changes_the_identity_only_where_it_says_something() -> None:
    recipe = load_recipe(MINI)
    before = recipe.model_dump(mode="json")
    del before["spikes"]["max_rollbacks_in_a_day"]
    assert digest(recipe) == hashlib.sha256(json.dumps(before, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert digest(load_recipe(MINI, ("spikes.max_rollbacks_in_a_day=2",))) != digest(recipe)
    assert digest(load_recipe(MINI, ("spikes.max_rollbacks=2",))) != digest(recipe)


def test_a_run_from_before_a_field_is_opened(tmp_path: Path) -> None:
    """`recipe.toml` and `place.toml` as a run wrote them in full, and the digest that it noted then."""
    recipe, layout = load_recipe(MINI), RunLayout(tmp_path)
    layout.recipe.write_text(Path(MINI).read_text())
    layout.place.write_text('evaluator_device = "cpu"\nwandb_mode = "disabled"\n')
    append_facts(layout.ledger, RunCreated(run="old", recipe=digest(recipe), recipe_name=recipe.name))
    opened, place = open_run(layout)
    assert opened == recipe
    assert place.evaluator_devices == ("cpu",)


def test_the_old_and_the_new_name_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "place.toml"
    path.write_text('evaluator_device = "cpu"\nevaluator_devices = ["cpu", "cpu"]\n')
    with pytest.raises(ValueError, match="evaluator_device: no such field"):
        load_place(str(path))
