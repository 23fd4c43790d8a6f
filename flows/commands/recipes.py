"""Recipes: what they would take, whether they are sound, how they differ."""

from argparse import Namespace

from flows.commands.answering import answer
from k2.recipe.load import differences, load_recipe


def plan(arguments: Namespace) -> int:
    """k2 plan"""
    from k2.estimate import describe
    from k2.estimate import plan as plan_recipe

    planned = plan_recipe(load_recipe(arguments.recipe, tuple(arguments.overrides)))
    answer(arguments, planned, describe(planned))
    return 0


def check(arguments: Namespace) -> int:
    """k2 recipe check"""
    from k2.recipe.load import digest

    recipe = load_recipe(arguments.recipe)
    answer(
        arguments, {"recipe": recipe.name, "digest": digest(recipe), "differences": []}, f"{recipe.name} is sound; digest {digest(recipe)}"
    )
    return 0


def diff(arguments: Namespace) -> int:
    """k2 recipe diff"""
    found = differences(load_recipe(arguments.a), load_recipe(arguments.b))
    answer(arguments, {"differences": found}, "\n".join(found) or "no differences")
    return 0
