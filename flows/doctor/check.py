"""What is examined, and what is said about it."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.recipe.world import in_world, ranks_per_node

Verdict = Literal["ok", "fails", "note"]


@dataclass(frozen=True)
class Check:
    """One line. `found` says the value and the rule, `hint` the fix; a note is worth knowing and fails nothing."""

    name: str
    verdict: Verdict
    found: str
    hint: str = ""

    @property
    def ok(self) -> bool:
        return self.verdict != "fails"


@dataclass(frozen=True)
class Patient:
    """The machine with what is to run on it: no recipe means whatever may. `runs_dir` need not exist."""

    recipe: Recipe | None
    place: Place
    runs_dir: Path

    def in_its_world(self) -> "Patient":
        """With the recipe as the place trains it. `RecipeError` where it cannot."""
        if self.recipe is None:
            return self
        ranks_per_node(self.recipe, self.place)
        return replace(self, recipe=in_world(self.recipe, self.place.world))

    @property
    def ranks_here(self) -> int | None:
        """How many ranks this host starts."""
        return None if self.recipe is None else self.recipe.layout.ranks // self.place.nodes


def fine(name: str, found: str) -> Check:
    return Check(name, "ok", found)


def fails(name: str, found: str, hint: str) -> Check:
    return Check(name, "fails", found, hint)


def note(name: str, found: str, hint: str = "") -> Check:
    return Check(name, "note", found, hint)


def standing_folder(path: Path) -> Path:
    """The folder itself, or the nearest above it that can be seen: where it would be made."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if os.access(folder, os.F_OK) and folder.is_dir())
