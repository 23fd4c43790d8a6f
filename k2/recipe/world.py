"""The world that a run is trained by: how many ranks of each kind, and the micro-batch. Pure.

A recipe declares one; a place may have another, since the samples of a step and their order are the same in every world. It is
written `pp2dp1tp1`, with `sp` behind it for sequence parallelism, `zero3` for a ZeRO stage (not written: the recipe's, where the
ranks take it), and `mb4` for micro-batches of four samples where those change too (of fewer in a stage whose batch four does not divide).
"""

import math
import re
from typing import Any

from k2.recipe.load import RecipeError, revalidated
from k2.recipe.place import Place
from k2.recipe.schema import Layout, Recipe

WORLD = re.compile(
    r"^pp(?P<pipeline>\d{1,5})dp(?P<data>\d{1,5})(tp(?P<tensor>\d{1,5}))?(?P<sp>sp)?(zero(?P<zero>[123]))?(mb(?P<micro>[1-9]\d{0,5}))?$"
)
WRITTEN = "pp2dp1tp1, with sp, zero3 and mb4 behind where wanted"


def in_world(recipe: Recipe, world: str | None) -> Recipe:
    """The recipe as that world trains it; none: its own. `RecipeError` for what is no world or does not divide the recipe."""
    if world is None:
        return recipe
    parts = WORLD.fullmatch(world)
    if parts is None:
        raise RecipeError(f"{world!r} is no world: write pipeline, data and tensor ranks as {WRITTEN}")
    ranks = {name: int(parts[name] or 1) for name in ("pipeline", "data", "tensor")}
    document = recipe.model_dump(mode="json")
    zero_stage = int(parts["zero"] or _zero_stage(recipe.layout, **ranks))
    document["layout"] |= ranks | {"sequence_parallel": parts["sp"] is not None, "zero_stage": zero_stage}
    if parts["micro"] is not None:
        _cut_batches(document["stages"], int(parts["micro"]), ranks["data"])
    return revalidated(document, f"{recipe.name} in the world {world}")


def ranks_per_node(recipe: Recipe, place: Place) -> int:
    """How many ranks each host of the place starts. `RecipeError` where they cannot all have the same share."""
    ranks = in_world(recipe, place.world).layout.ranks
    if ranks % place.nodes:
        raise RecipeError(
            f"{ranks} ranks cannot be shared evenly by nodes = {place.nodes}: choose nodes that divide them, or another world for the place"
        )
    return ranks // place.nodes


def _zero_stage(layout: Layout, pipeline: int, data: int, tensor: int) -> int:
    """Of a world that names none: the recipe's own, if these ranks can share out as much."""
    return layout.zero_stage if data > 1 and pipeline == tensor == 1 else 1


def _cut_batches(stages: list[dict[str, Any]], micro: int, data: int) -> None:
    """Have every stage take micro-batches of so many samples, or of what divides both that and its share of a batch."""
    shares = {stage["name"]: max(1, stage["batch_samples"] // max(1, data)) for stage in stages}
    if all(share % micro for share in shares.values()):
        raise RecipeError(
            f"mb{micro}: micro-batches of {micro} samples divide no stage's batch; of one data rank of {data} these are "
            + ", ".join(f"{share} samples in {name}" for name, share in shares.items())
        )
    for stage in stages:
        stage["micro_batch_samples"] = math.gcd(micro, shares[stage["name"]])


def world_of(recipe: Recipe) -> str:
    """The recipe's own world, as it is written."""
    layout = recipe.layout
    more = ("sp" if layout.sequence_parallel else "") + (f"zero{layout.zero_stage}" if layout.zero_stage > 1 else "")
    return f"pp{layout.pipeline}dp{layout.data}tp{layout.tensor}{more}"
