"""Ids over all shards of a subset: which documents are copies of earlier ones, and the way from an id to its documents.

Enters the shards' sorted `ids.npy`; leaves a mask of first copies and the merged, sorted ids. The space of ids is walked in
slices, of which each shard holds a contiguous part, so that memory is bounded by a slice however large the subset is.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from k2.data.shard import IDS, ArrayWriter, load_array
from k2.run.layout import RunLayout

# `shard` and `document` in it: where the document of that id lies. No field is padded: what fills a gap is not the same twice.
PLACED = np.dtype([("high", "<u8"), ("low", "<u4"), ("shard", "<u4"), ("document", "<i8")])
_SLICE_DOCUMENTS = 1 << 20
_ID_BITS = 64  # of `high`, by which the ids are sliced


def first_copies(layout: RunLayout, subset: str, documents: Sequence[int], path: Path) -> npt.NDArray[np.bool_]:
    """A mask over the subset's documents, shard by shard, in a file at `path`: False for each copy of an earlier document.

    `documents` is how many each shard holds. Order is the order of the shards, and in a shard that of its documents.
    """
    begins = np.array([0, *accumulate(documents)], np.int64)
    mask = np.memmap(path, dtype=np.bool_, mode="w+", shape=(max(int(begins[-1]), 1),))
    mask[:] = True
    for placed in _slices(layout, subset, documents):
        copies = placed[1:][(placed["high"][1:] == placed["high"][:-1]) & (placed["low"][1:] == placed["low"][:-1])]
        mask[begins[copies["shard"]] + copies["document"]] = False
    return mask


def write_ids(layout: RunLayout, subset: str, documents: Sequence[int], path: Path) -> None:
    """Write the ids of all documents of the subset as one sorted array of `PLACED`."""
    with ArrayWriter(path, PLACED) as merged:
        for placed in _slices(layout, subset, documents):
            merged.extend(placed)


def _slices(layout: RunLayout, subset: str, documents: Sequence[int]) -> Iterator[npt.NDArray[np.void]]:
    """The subset's documents sorted by id, a slice of the ids at a time; equal ids in the order of their documents."""
    bits = max(0, (sum(documents) // _SLICE_DOCUMENTS).bit_length())
    for part in range(1 << bits):
        slices = [_of_shard(layout, subset, shard, part, bits) for shard in range(len(documents))]
        placed = np.concatenate(slices) if slices else np.empty(0, PLACED)
        yield placed[np.lexsort((placed["low"], placed["high"]))]


def _of_shard(layout: RunLayout, subset: str, shard: int, part: int, bits: int) -> npt.NDArray[np.void]:
    """The shard's ids whose first `bits` bits are `part`."""
    named = load_array(layout.shard(subset, shard) / IDS)
    first = np.searchsorted(named["high"], np.uint64(part << (_ID_BITS - bits))) if part else 0
    beyond = part + 1 == 1 << bits
    last = len(named) if beyond else np.searchsorted(named["high"], np.uint64((part + 1) << (_ID_BITS - bits)))
    placed = np.empty(last - first, PLACED)
    for field in ("high", "low", "document"):
        placed[field] = named[field][first:last]
    placed["shard"] = shard
    return placed
