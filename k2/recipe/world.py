"""The world that a run is trained by: how many ranks of each kind, and the micro-batch. Pure.

A recipe declares one; a place may have another, since the samples of a step and their order are the same in every world. It is
written `pp2dp1tp1`, with `sp` for sequence parallelism and `mb4` for micro-batches of four samples where those change too (of
fewer in a stage with a smaller batch).
"""

import math
import re

from k2.recipe.load import RecipeError, revalidated
from k2.recipe.place import Place
from k2.recipe.schema import Recipe

WORLD = re.compile(r"^pp(?P<pipeline>\d{1,5})dp(?P<data>\d{1,5})(tp(?P<tensor>\d{1,5}))?(?P<sp>sp)?(mb(?P<micro>\d{1,6}))?$")


def in_world(recipe: Recipe, world: str | None) -> Recipe:
    """The recipe as that world trains it; none: its own. `RecipeError` for what is no world or does not divide the recipe."""
    if world is None:
        return recipe
    parts = WORLD.fullmatch(world)
    if parts is None:
        raise RecipeError(f"{world!r} is no world: write pipeline, data and tensor ranks as pp2dp1tp1, with sp and mb4 behind where wanted")
    layout = {name: int(parts[name] or 1) for name in ("pipeline", "data", "tensor")} | {"sequence_parallel": parts["sp"] is not None}
    document = recipe.model_dump(mode="json")
    document["layout"] |= layout
    for stage in document["stages"]:
        if parts["micro"] is not None:  # of a stage with a smaller batch what divides both
            stage["micro_batch_samples"] = math.gcd(int(parts["micro"]), max(1, stage["batch_samples"] // max(1, layout["data"])))
    return revalidated(document, f"{recipe.name} in the world {world}")


def ranks_per_node(recipe: Recipe, place: Place) -> int:
    """How many ranks each host of the place starts. `RecipeError` where they cannot all have the same share."""
    ranks = in_world(recipe, place.world).layout.ranks
    if ranks % place.nodes:
        raise RecipeError(
            f"{ranks} ranks cannot be shared evenly by nodes = {place.nodes}: choose nodes that divide them, or another world for the place"
        )
    return ranks // place.nodes


def world_of(recipe: Recipe) -> str:
    """The recipe's own world, as it is written."""
    layout = recipe.layout
    return f"pp{layout.pipeline}dp{layout.data}tp{layout.tensor}{'sp' if layout.sequence_parallel else ''}"
