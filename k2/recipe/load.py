"""From a TOML document to a `Recipe` and back: loading, overrides, digest, differences.

A recipe that is refused says the field, the value, the rule and the fix in one paragraph (`RecipeError`).
"""

import hashlib
import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from k2.recipe.part import Part, is_later_default
from k2.recipe.place import Place
from k2.recipe.schema import Recipe

P = TypeVar("P", bound=Part)


class RecipeError(ValueError):
    """A recipe, a place or an override that is refused. The text is for the user."""


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    folder = resources.files("k2.recipe") / "recipes"
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def load_recipe(name_or_path: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe of that shipped name or file, with `a.b=value` overrides (values in TOML) applied."""
    text, where = _read(name_or_path)
    document = _parse(text, where)
    for override in overrides:
        _apply(document, override)
    return _validate(Recipe, document, where)


def load_place(path: str) -> Place:
    """The place described by a TOML file."""
    return _validate(Place, _parse(_read_file(Path(path)), path), path)


def digest(recipe: Recipe) -> str:
    """SHA-256 over the canonical JSON of every field, defaults included: the run's identity.

    A field that came later (`k2.recipe.part.LATER`) is left out while it has its default, so that a run from before it is still itself.
    """
    return hashlib.sha256(_canonical(recipe).encode()).hexdigest()


def differences(a: BaseModel, b: BaseModel) -> list[str]:
    """One line a differing field: `stages.0.context: 2048 -> 8192`."""
    return _differ("", a.model_dump(mode="json"), b.model_dump(mode="json"))


def revalidated(document: dict[str, Any], where: str) -> Recipe:
    """A recipe from a changed dump of one; `RecipeError` when its numbers no longer agree."""
    return _validate(Recipe, document, where)


def to_toml(part: Part) -> str:
    """The part, all defaults resolved, as a TOML document that loads back to an equal one."""
    import tomli_w

    return tomli_w.dumps(part.model_dump(mode="json", exclude_none=True))


def _canonical(recipe: Recipe) -> str:
    return json.dumps(_identity(recipe, recipe.model_dump(mode="json")), sort_keys=True, separators=(",", ":"))


def _identity(value: Any, dumped: Any) -> Any:
    """The dumped value without the later fields that say nothing new."""
    if isinstance(value, BaseModel):
        said = {name: getattr(value, name) for name, field in type(value).model_fields.items() if not is_later_default(field, value, name)}
        return {name: _identity(one, dumped[name]) for name, one in said.items()}
    if isinstance(value, tuple):
        return [_identity(one, of_it) for one, of_it in zip(value, dumped, strict=True)]
    return dumped


def _read(name_or_path: str) -> tuple[str, str]:
    if name_or_path in shipped_recipes():
        return (resources.files("k2.recipe") / "recipes" / f"{name_or_path}.toml").read_text("utf-8"), name_or_path
    path = Path(name_or_path)
    if not path.is_file():
        raise RecipeError(
            f"no recipe {name_or_path!r}: it is neither a file nor one of the shipped recipes "
            f"({', '.join(shipped_recipes())}). Give a path to a .toml file or one of these names."
        )
    return _read_file(path), name_or_path


def _read_file(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read as a TOML document: {error}") from error


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where} is not valid TOML: {error}") from error


def _apply(document: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"override {override!r} must be written field.subfield=value, for instance layout.data=2")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *path, last = key.strip().split(".")
    target: Any = document
    for step in path:
        target = _enter(target, step, override)
    if isinstance(target, list):
        target[_position(target, last, override)] = parsed
    else:
        target[last] = parsed


def _enter(target: Any, step: str, override: str) -> Any:
    if isinstance(target, list):
        return target[_position(target, step, override)]
    if not isinstance(target, dict):
        raise RecipeError(f"override {override!r}: {step!r} lies inside a plain value, not a table")
    return target.setdefault(step, {})


def _position(items: list[Any], step: str, override: str) -> int:
    """Where `step` points in a list of tables: by its number or by its `name`."""
    for position, item in enumerate(items):
        if isinstance(item, dict) and item.get("name", item.get("subset")) == step:
            return position
    if step.isdigit() and int(step) < len(items):
        return int(step)
    names = [str(item.get("name", item.get("subset", "?"))) for item in items if isinstance(item, dict)]
    raise RecipeError(f"override {override!r}: no entry {step!r}; there are {', '.join(names)}")


def _validate(kind: type[P], document: dict[str, Any], where: str) -> P:
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise RecipeError(_explain(error, where)) from error


def _explain(error: ValidationError, where: str) -> str:
    """One paragraph: how many fields are wrong, and each with its value, rule and place."""
    found = error.errors(include_url=False)
    parts = []
    for item in found[:5]:
        field = ".".join(str(step) for step in item["loc"]) or "the recipe"
        if item["type"] == "extra_forbidden":
            parts.append(f"{field}: no such field; see `k2 recipe check --help` for those there are, or remove it")
        elif item["type"] == "missing":
            parts.append(f"{field}: is missing; it must be given")
        elif item["type"] == "value_error":
            parts.append(item["msg"].removeprefix("Value error, "))
        else:
            parts.append(f"{field} = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}")
    more = f" ... and {len(found) - 5} more" if len(found) > 5 else ""
    return f"{where} is refused: " + "; ".join(parts) + more


def _differ(prefix: str, a: Any, b: Any) -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(set(a) | set(b))
        return [line for key in keys for line in _differ(f"{prefix}{key}.", a.get(key), b.get(key))]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [line for i, (x, y) in enumerate(zip(a, b, strict=True)) for line in _differ(f"{prefix}{i}.", x, y)]
    return [] if a == b else [f"{prefix.rstrip('.')}: {a!r} -> {b!r}"]
