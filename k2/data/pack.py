"""Packing: samples of a stream as rows, and which documents lie in them.

Enters the places at which samples begin, in ascending order; leaves their tokens and the entries of the chunk's index. All
samples that lie in one shard are taken at once, so that the work a sample costs is little more than its bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from k2.data.shard import Shard
from k2.data.stream import Stream

Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Segments:
    """Parts of samples that each lie in one shard: `length` tokens, from `at` of sample `sample` on and from `first` of the shard on.

    The shard's documents are `document_offset` higher in the stream.
    """

    shard: int
    sample: Array
    at: Array
    first: Array
    length: Array
    document_offset: Array


def segments_of(stream: Stream, begins: Array, context: int) -> Iterator[Segments]:
    """The samples that begin at these ascending tokens of the stream, cut where shards and intervals end, shard by shard."""
    intervals = stream.intervals
    first = np.searchsorted(intervals["token"], begins, side="right") - 1
    last = np.searchsorted(intervals["token"], begins + context, side="left") - 1
    touched = last - first + 1
    sample = np.repeat(np.arange(len(begins)), touched)
    interval = first[sample] + np.arange(len(sample)) - np.repeat(np.cumsum(touched) - touched, touched)
    there = intervals[interval]
    begin = np.maximum(there["token"], begins[sample])
    length = np.minimum(intervals["token"][interval + 1], begins[sample] + context) - begin
    at, first_token = begin - begins[sample], there["first_token"] + begin - there["token"]
    offset = there["document"] - there["first_document"]
    bounds = np.flatnonzero(np.diff(there["shard"], prepend=-1, append=-1))
    for start, stop in pairwise(bounds):
        of_shard = slice(start, stop)
        yield Segments(
            int(there["shard"][start]), sample[of_shard], at[of_shard], first_token[of_shard], length[of_shard], offset[of_shard]
        )


def copy_tokens(shard: Shard, segments: Segments, rows: npt.NDArray[np.uint16]) -> None:
    """Copy the segments' tokens to their places in the samples' rows."""
    context = rows.shape[1]
    whole = segments.length == context
    if whole.any():
        windows = np.lib.stride_tricks.sliding_window_view(shard.tokens, context)
        rows[segments.sample[whole]] = windows[segments.first[whole]]
    for n in np.flatnonzero(~whole):
        sample, at, first, length = segments.sample[n], segments.at[n], segments.first[n], segments.length[n]
        rows[sample, at : at + length] = shard.tokens[first : first + length]


def entries_of(shard: Shard, segments: Segments, rows: Array, subset: int) -> npt.NDArray[np.int32]:
    """The index entries (`chunk.Span`) of the segments, one a document that a segment touches; `rows` is where each sample sits."""
    beyond = segments.first + segments.length
    first = np.searchsorted(shard.ends, segments.first, side="right")
    last = np.searchsorted(shard.ends, beyond, side="left")
    touched = last - first + 1
    of = np.repeat(np.arange(len(touched)), touched)
    document = first[of] + np.arange(len(of)) - np.repeat(np.cumsum(touched) - touched, touched)
    document_begin = shard.begins(document)
    begin, end = np.maximum(document_begin, segments.first[of]), np.minimum(shard.ends[document], beyond[of])
    into_row = segments.at[of] - segments.first[of]
    columns = (
        rows[segments.sample[of]],
        np.full_like(document, subset),
        document + segments.document_offset[of],
        begin - document_begin,
        begin + into_row,
        end + into_row,
    )
    return np.stack(columns, axis=1).astype(np.int32)
