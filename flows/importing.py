"""Starting a run from an existing Llama: its recipe, its directory, its first checkpoint."""

from pathlib import Path

from flows.run import Say
from k2.recipe.load import load_recipe, revalidated
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.lease import hold
from k2.run.opening import create_or_open
from k2.run.receipt import Receipt

_DEFAULT = "k2_tiny"


def import_run(
    layout: RunLayout, source: Path, recipe_name: str | None, overrides: tuple[str, ...], place: Place | None, say: Say
) -> Receipt:
    """Create the run and commit what it starts from. Where that is refused nothing is there to go on from."""
    from k2.checkpoint.importing import check_fit, import_weights, read_config

    if layout.ledger.exists():
        raise ValueError(
            f"there is a run at {layout.root} already: import under a name that is free, or go on with `k2 resume {layout.name}`"
        )
    config = read_config(source)
    recipe = load_recipe(recipe_name, overrides) if recipe_name else _recipe_of(source, config, overrides)
    check_fit(recipe, config)
    with hold(layout):
        create_or_open(layout, recipe, place)
        say(f"reading the model in {source} and comparing its logits")
        return import_weights(recipe, layout, source.resolve())


def _recipe_of(source: Path, config: dict[str, object], overrides: tuple[str, ...]) -> Recipe:
    """The small recipe's data and schedule for this model, with the tokenizer that lies beside it."""
    from k2.checkpoint.importing import model_of, rope_base_of

    document = load_recipe(_DEFAULT, overrides).model_dump(mode="json")
    document |= {"name": "imported", "description": f"{_DEFAULT}'s data and schedule, from the weights of {source.name}"}
    document["model"] = model_of(config).model_dump(mode="json")
    document["stages"][0]["rope_base"] = rope_base_of(config)
    if document["model"]["layers"] % document["layout"]["pipeline"]:
        document["layout"]["pipeline"] = 1
    if (source / "tokenizer.model").is_file():
        document["tokenizer"] = _tokenizer_of(source / "tokenizer.model")
    return revalidated(document, f"the recipe for {source}")


def _tokenizer_of(path: Path) -> dict[str, object]:
    from k2.tokenizer.pieces import load_pieces

    return {"kind": "file", "path": str(path.resolve()), "pieces": load_pieces(path).get_piece_size()}
