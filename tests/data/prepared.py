"""A prepared mini run, and how to make one."""

from dataclasses import dataclass
from pathlib import Path

from k2.data.build import build
from k2.data.document import Document
from k2.data.freeze import frozen
from k2.data.stream import Stream, read_document
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
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

    def documents(self, subset: str) -> list[Document]:
        """What is trained on of the subset, read again from the user's files."""
        declared = next(s for s in self.recipe.data.subsets if s.name == subset)
        files = frozen(self.place, self.layout, declared)
        return [read_document(files, subset, document) for document in Stream(self.layout, subset).documents()]


def prepare(root: Path, *overrides: str) -> Prepared:
    made = Prepared(load_recipe(str(TESTS / "mini.toml"), overrides), Place(data_dir=str(TESTS / "corpus")), RunLayout(root))
    build(made.recipe, made.place, made.layout, lambda _: None)
    return made


def with_subset(recipe: Recipe, name: str, **changes: object) -> Recipe:
    """The recipe with another declaration of one subset."""
    subsets = tuple(s.model_copy(update=changes) if s.name == name else s for s in recipe.data.subsets)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"subsets": subsets})})
