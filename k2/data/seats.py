"""Where a sample of a subset sits: the arithmetic of the mix and of the chunks' permutations, backwards.

Enters a stage's plan and a sample's number; leaves the chunks and rows that hold it. Nothing is read or searched: a
document of a run of 360 chunks is found as quickly as one of a run of three.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from k2.data.mix import Plan, chunks_of_sample, samples_of_chunk
from k2.data.permutation import Permutation, permutation_of_chunk
from k2.recipe.schema import Recipe, Stage


@dataclass(frozen=True, order=True)
class Place:
    """A row of a chunk, and the sample of the subset that it holds."""

    chunk: int
    row: int
    sample: int


@dataclass(frozen=True)
class Seats:
    """The seats of one stage."""

    recipe: Recipe
    stage: Stage
    plan: Plan

    def of_samples(self, subset: str, samples: Iterable[int]) -> list[Place]:
        """Every place where one of the subset's samples sits, by chunk and row."""
        share = self.plan.share(subset)
        by_chunk: dict[int, list[tuple[int, int]]] = {}
        for sample in samples:
            for chunk, place in chunks_of_sample(share, self.stage.chunks, sample):
                by_chunk.setdefault(chunk, []).append((place, sample))
        return sorted(place for chunk, found in by_chunk.items() for place in self._rows(subset, chunk, found))

    def of_rows(self, chunk: int, rows: Iterable[int]) -> Iterator[tuple[str, int]]:
        """The subset and the sample that each of these rows of the chunk holds."""
        places = self._permutation(chunk).at(np.fromiter(rows, dtype=np.int64))
        ends = np.cumsum([share.per_chunk[chunk] for share in self.plan.shares])
        samples = {}
        for place, number in zip(places.tolist(), np.searchsorted(ends, places, side="right").tolist(), strict=True):
            share = self.plan.shares[number]
            if number not in samples:
                samples[number] = samples_of_chunk(share, self.stage.chunks, chunk)
            yield share.subset, int(samples[number][place - int(ends[number]) + share.per_chunk[chunk]])

    def _rows(self, subset: str, chunk: int, found: list[tuple[int, int]]) -> Iterator[Place]:
        names = [share.subset for share in self.plan.shares]
        before = sum(share.per_chunk[chunk] for share in self.plan.shares[: names.index(subset)])
        rows = self._permutation(chunk).place_of(np.array([before + place for place, _ in found], dtype=np.int64))
        return (Place(chunk, int(row), sample) for row, (_, sample) in zip(rows, found, strict=True))

    def _permutation(self, chunk: int) -> Permutation:
        return permutation_of_chunk(self.recipe.seed, self.stage.name, chunk, self.stage.samples_per_chunk)
