"""How much a recipe will have written to the disk at the most. Pure.

The numbers are those of `k2 plan`, the counts those of retention and of what each checkpoint is owed. Of k2_tiny with its publication
this says 318 MB; 295 MB were measured, 29 of them an incident's evidence, which is not foretold.
"""

from dataclasses import dataclass

from k2.checkpoint.retention import most_passing
from k2.estimate import plan
from k2.recipe.schema import Recipe
from k2.run.holdings import HeldCheckpoint
from k2.run.layout import checkpoint_name
from k2.run.plan import duties_of

_TOKEN_BYTES = 2  # uint16
_BESIDE_A_CHECKPOINT = 2_000_000  # its scores, answers, receipts, its part of the page and of the logs; measured of k2_tiny: 0.6 MB


@dataclass(frozen=True)
class Writing:
    """Bytes by kind. `published` is what one target of the place gets."""

    checkpoints: int
    exports: int
    data: int
    beside: int
    published: int


def writing_of(recipe: Recipe) -> Writing:
    """What a run of the recipe writes until its end, without pins, and with no incident's evidence."""
    planned = plan(recipe)
    ends = chunk_ends(recipe)
    owed = [duties_of(recipe, end) for end in ends]
    published = sum("published" in duties for duties in owed)
    chunks = planned.tokens * _TOKEN_BYTES
    beside = len(ends) * _BESIDE_A_CHECKPOINT
    each = planned.export_bytes + (planned.checkpoint_bytes if recipe.publishing.state else 0)
    return Writing(
        checkpoints=(len(ends) + most_passing(recipe)) * planned.checkpoint_bytes,
        exports=sum("exported" in duties for duties in owed) * planned.export_bytes,
        data=2 * chunks,  # the streams of tokens, and the chunks that are made of them
        beside=beside,
        published=published * each + (chunks if recipe.publishing.data else 0) + beside,
    )


def chunk_ends(recipe: Recipe) -> list[HeldCheckpoint]:
    """The checkpoints that end the chunks of all stages, as they will be."""
    return [
        HeldCheckpoint(checkpoint_name(recipe.first_checkpoint_number(stage.name) + k), "chunk", stage.name, k * stage.steps_per_chunk, 0)
        for stage in recipe.stages
        for k in range(1, stage.chunks + 1)
    ]
