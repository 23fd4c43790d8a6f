"""Which checkpoint is due after which step. Pure; the trainer saves by it, and who watches the trainer knows by it when a save goes on."""

from dataclasses import dataclass
from typing import Literal

from k2.recipe.schema import Recipe, Stage
from k2.run.layout import checkpoint_name, rescue_name


@dataclass(frozen=True)
class Due:
    """A checkpoint to be saved at this step."""

    name: str
    kind: Literal["chunk", "rescue", "stop"]


def due_checkpoint(recipe: Recipe, stage: Stage, step: int, trained: bool) -> Due | None:
    """What is saved after `step`. A chunk end always is, skipped or not; between them every so many trained steps."""
    if step % stage.steps_per_chunk == 0:
        return Due(checkpoint_name(recipe.first_checkpoint_number(stage.name) + step // stage.steps_per_chunk), "chunk")
    if trained and step % recipe.checkpoints.rescue_every_steps == 0:
        return Due(rescue_name(stage.name, step), "rescue")
    return None
