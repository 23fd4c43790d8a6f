"""The mix of data that is not here yet: planned from how many tokens each subset has.

Enters a recipe and a manifest (TOML: `[tokens]`, a count a subset); leaves the mix that `k2 data build` would make of it,
by the very code that makes it, at any size. So a mix is audited before a byte is tokenized, and never reckoned by hand:
K2's card multiplies its shares by 1.3T where 1.4153T were trained (K2 §0.5).
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from k2.data.audit import Mix, StageMix, SubsetMix, declared_mix
from k2.data.document import DataError
from k2.data.mix import Share, plan_mix
from k2.recipe.part import Count
from k2.recipe.schema import Recipe, Stage


class Manifest(BaseModel):
    """Tokens of each subset, read once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: dict[str, Count] = Field(min_length=1)


def read_manifest(path: Path) -> Manifest:
    """The manifest in the file. `DataError` when it is none."""
    try:
        return Manifest.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise DataError(f"{path} is no manifest of tokens ({error}): write `[tokens]` and a line `subset = count` for each") from error


def planned_mix(recipe: Recipe, manifest: Manifest) -> Mix:
    """The mix of every stage whose subsets the manifest counts, planned; of the others, as declared."""
    unknown = sorted(set(manifest.tokens) - {subset.name for subset in recipe.data.subsets})
    if unknown:
        raise DataError(f"the manifest counts {', '.join(unknown)}, which recipe {recipe.name!r} has not: use the names of data.subsets")
    declared = declared_mix(recipe)
    planned = zip(recipe.stages, declared.stages, strict=True)
    return Mix(stages=tuple(_planned(stage, told, manifest.tokens) or told for stage, told in planned))


def _planned(stage: Stage, told: StageMix, tokens: Mapping[str, int]) -> StageMix | None:
    if any(entry.subset not in tokens for entry in stage.mix):
        return None
    plan = plan_mix(stage, {entry.subset: tokens[entry.subset] // stage.context for entry in stage.mix})
    declared = {subset.name: subset.declared for subset in told.subsets}
    return StageMix(name=stage.name, subsets=tuple(_subset(stage, share, declared[share.subset]) for share in plan.shares), basis="planned")


def _subset(stage: Stage, share: Share, declared: float | None) -> SubsetMix:
    return SubsetMix(
        name=share.subset,
        repeat=share.repeat,
        samples=share.kept,
        tokens=share.kept * stage.context,
        fraction=share.kept / (stage.chunks * stage.samples_per_chunk),
        per_chunk_min=min(share.per_chunk),
        per_chunk_max=max(share.per_chunk),
        declared=declared,
    )
