"""What policies cost at scale, before anything is spent."""

from argparse import Namespace

from flows.commands.answering import answer
from k2.recipe.load import load_recipe


def simulate(arguments: Namespace) -> int:
    """k2 goodput simulate"""
    from k2.watch.pricing import Assumptions, policies, prices, shown, step_seconds_of, text, young_daly_seconds

    recipe = load_recipe(arguments.recipe, tuple(arguments.overrides))
    step_seconds = arguments.step_seconds or step_seconds_of(recipe)
    if step_seconds is None:
        raise ValueError(f"recipe {recipe.name!r} declares no energy.days, so a step's length is not known; give --step-seconds")
    assumed = Assumptions(step_seconds, arguments.checkpoint_seconds, arguments.restart_seconds)
    hours = tuple(arguments.mtbf or (24.0, 106.0, 214.0))
    found = list(prices(policies(recipe, assumed), hours, arguments.runs, arguments.seed))
    intervals = {f"{h:g}": young_daly_seconds(assumed.saving_seconds, h * 3600) / step_seconds for h in hours}
    document = {"recipe": recipe.name, "step_seconds": step_seconds, "policies": [shown(p) for p in found], "young_daly_steps": intervals}
    answer(arguments, document, text(found, assumed))
    return 0
