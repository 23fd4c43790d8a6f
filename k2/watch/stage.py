"""The detector of one stage: the recipe's numbers, its declared boundaries, and what was recorded of steps trained again."""

from collections.abc import Mapping
from types import MappingProxyType

from k2.recipe.schema import Recipe
from k2.watch.spikes import Detector

NOTHING: Mapping[int, float] = MappingProxyType({})


def stage_detector(recipe: Recipe, stage: str, replayed: Mapping[int, float] = NOTHING) -> Detector:
    """A fresh detector for the stage's accepted lineage, whose last attempt trains the steps in `replayed` again."""
    detector = Detector(recipe.spikes, expected_boundaries(recipe, stage))
    detector.expect(replayed)
    return detector


def expected_boundaries(recipe: Recipe, stage_name: str) -> frozenset[int]:
    """First steps after a boundary of the kinds that `spikes.expected_shifts` names."""
    stage = recipe.stage(stage_name)
    steps = {
        "schedule": [stage.schedule.warmup_steps + 1] if stage.schedule.warmup_steps else [],
        "chunk": range(stage.steps_per_chunk + 1, stage.steps + 1, stage.steps_per_chunk),
    }
    return frozenset(step for kind in recipe.spikes.expected_shifts for step in steps[kind])
