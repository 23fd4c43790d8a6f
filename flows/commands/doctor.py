"""What will fail before it does."""

from argparse import Namespace
from collections.abc import Sequence

from flows.commands.answering import answer
from flows.doctor.check import Check, Patient
from k2.recipe.load import RecipeError, load_place, load_recipe
from k2.recipe.place import Place

_WORDS = {"ok": "ok", "fails": "FAILS", "note": "note"}


def doctor(arguments: Namespace) -> int:
    """k2 doctor"""
    from flows.doctor.examination import examine

    if arguments.overrides and not arguments.recipe:
        raise RecipeError(f"--set {arguments.overrides[0]} has no effect without a recipe: name one, or leave it out")
    recipe = load_recipe(arguments.recipe, tuple(arguments.overrides)) if arguments.recipe else None
    place = load_place(arguments.place) if arguments.place else Place()
    checks = list(examine(Patient(recipe, place, arguments.runs_dir)))
    document = {"ok": all(check.ok for check in checks), "checks": [_shown(check) for check in checks]}
    answer(arguments, document, _text(checks, recipe.name if recipe else None))
    return 0 if document["ok"] else 1


def _shown(check: Check) -> dict[str, object]:
    return {"name": check.name, "ok": check.ok, "verdict": check.verdict, "found": check.found, "hint": check.hint}


def _text(checks: Sequence[Check], recipe: str | None) -> str:
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{_WORDS[check.verdict]:5}  {check.name:{width}}  {check.found}")
        if check.hint:
            lines.append(f"{'':5}  {'':{width}}    {check.hint}")
    failing = list(dict.fromkeys(check.name for check in checks if not check.ok))
    if failing:
        lines.append(f"this will fail: {', '.join(failing)}")
    else:
        lines.append(f"of what can be seen before, nothing {f'of {recipe} ' if recipe else ''}will fail here")
    return "\n".join(lines)
