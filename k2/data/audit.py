"""Audits: the mix as declared and as counted from the chunks, and whether every byte agrees with its receipt.

Enters a recipe or a run directory; leaves the contract's `k2 data mix` and `k2 data verify`. Counting reads the
chunks' indexes, not what their receipts claim.
"""

import math
import re
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from k2.data.chunk import chunk_receipt, read_index
from k2.recipe.schema import MixEntry, Recipe, Stage
from k2.run.durable import UNFINISHED
from k2.run.layout import RunLayout
from k2.run.receipt import RECEIPT, BrokenOutput, Receipt, check_files, find_receipt, read_receipt

_CHUNK_RECEIPT = re.compile(r"chunk_\d{3,}\.json")


class SubsetMix(BaseModel):
    """One subset in a stage. None where it is not known before the text is. `declared` is the share that the recipe states."""

    model_config = ConfigDict(frozen=True)

    name: str
    repeat: float
    samples: int | None
    tokens: int | None
    fraction: float | None
    per_chunk_min: int | None
    per_chunk_max: int | None
    declared: float | None = None


class StageMix(BaseModel):
    """A stage's mix, and where its numbers come from: the recipe, a manifest of tokens, or the chunks themselves."""

    model_config = ConfigDict(frozen=True)

    name: str
    subsets: tuple[SubsetMix, ...]
    basis: Literal["declared", "planned", "counted"] = "declared"


class Mix(BaseModel):
    """The contract's fields of `k2 data mix`."""

    model_config = ConfigDict(frozen=True)

    stages: tuple[StageMix, ...]


class Verification(BaseModel):
    """The contract's fields of `k2 data verify`; `bad` has one line a fault."""

    model_config = ConfigDict(frozen=True)

    files: int
    bytes: int
    bad: tuple[str, ...]


def declared_mix(recipe: Recipe) -> Mix:
    """The mix as the recipe declares it: counts where it states shares or tokens."""
    return Mix(stages=tuple(StageMix(name=s.name, subsets=tuple(_declared(s, entry) for entry in s.mix)) for s in recipe.stages))


def counted_mix(recipe: Recipe, layout: RunLayout) -> Mix:
    """The mix of a prepared run, counted sample by sample from its chunks."""
    return Mix(stages=tuple(StageMix(name=s.name, subsets=_counted(recipe, layout, s), basis="counted") for s in recipe.stages))


def verify(folder: Path) -> Verification:
    """Compare every file that a receipt below `folder` lists with it, and every chunk with the receipt over all."""
    found = [path for path in sorted(folder.rglob("*.json")) if _is_receipt(path)]
    files = size = 0
    bad = [] if found else [f"{folder}: holds no receipt, so there is nothing to verify; give the folder of a run or of `k2 data build`"]
    for path in found:
        try:
            receipt = read_receipt(path)
        except BrokenOutput as error:
            bad.append(str(error))
            continue
        files += len(receipt.files)
        size += sum(file.bytes for file in receipt.files)
        bad += [f"{path.parent.relative_to(folder)}/{wrong}" for wrong in check_files(path.parent, receipt)]
        bad += _other_parts(path.parent, receipt) if receipt.kind in {"chunks", "tokens"} else []
    return Verification(files=files, bytes=size, bad=tuple(bad))


def _declared(stage: Stage, entry: MixEntry) -> SubsetMix:
    fraction = _stated_share(stage, entry)
    if fraction is None:
        return SubsetMix(
            name=entry.subset, repeat=entry.repeat, samples=None, tokens=None, fraction=None, per_chunk_min=None, per_chunk_max=None
        )
    samples = round(fraction * stage.chunks * stage.samples_per_chunk)
    return SubsetMix(
        name=entry.subset,
        repeat=entry.repeat,
        samples=samples,
        tokens=samples * stage.context,
        fraction=fraction,
        per_chunk_min=samples // stage.chunks,
        per_chunk_max=math.ceil(samples / stage.chunks),
        declared=fraction,
    )


def _stated_share(stage: Stage, entry: MixEntry) -> float | None:
    """The share of the stage's samples that the recipe states, by itself or as tokens."""
    if entry.fraction is not None or entry.tokens is None:
        return entry.fraction
    return entry.tokens / stage.tokens


def _counted(recipe: Recipe, layout: RunLayout, stage: Stage) -> tuple[SubsetMix, ...]:
    chunks = [_samples_of(recipe, layout, stage, chunk) for chunk in range(stage.chunks)]
    total = sum(count.total() for count in chunks)
    counted = []
    for entry in stage.mix:
        counts = [chunk[entry.subset] for chunk in chunks]
        counted.append(
            SubsetMix(
                name=entry.subset,
                repeat=entry.repeat,
                samples=sum(counts),
                tokens=sum(counts) * stage.context,
                fraction=sum(counts) / total,
                per_chunk_min=min(counts),
                per_chunk_max=max(counts),
                declared=_stated_share(stage, entry),
            )
        )
    return tuple(counted)


def _samples_of(recipe: Recipe, layout: RunLayout, stage: Stage, chunk: int) -> Counter[str]:
    """Rows of each subset in the chunk; every row has exactly one entry that begins at its start."""
    read_receipt(chunk_receipt(layout, stage.name, chunk))
    index = read_index(layout, stage.name, chunk)
    numbers, counts = np.unique(index[index[:, 4] == 0, 1], return_counts=True)
    return Counter({recipe.data.subsets[number].name: int(count) for number, count in zip(numbers, counts, strict=True)})


def _is_receipt(path: Path) -> bool:
    unfinished = any(part.startswith(UNFINISHED) for part in path.parts)
    return not unfinished and (path.name == RECEIPT or _CHUNK_RECEIPT.fullmatch(path.name) is not None)


def _other_parts(folder: Path, receipt: Receipt) -> list[str]:
    """Chunks and shards that are not the ones which the receipt over all of them names."""
    wrong = []
    for name, digest in receipt.inputs.items():
        if "/" in name:
            part = find_receipt(_part(folder, receipt.kind, name))
            if part is None or part.digest != digest:
                wrong.append(f"{name}: is not the {'chunk' if receipt.kind == 'chunks' else 'shard'} that {folder / RECEIPT} names")
    return wrong


def _part(folder: Path, kind: str, name: str) -> Path:
    """Where the receipt of a chunk lies that the receipt over all names, or of a shard that its stream's names."""
    return folder / f"{name}.json" if kind == "chunks" else folder.parent / f"shard_{name.rpartition('/')[2]}"
