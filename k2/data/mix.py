"""The mix: which sample of which subset sits in which chunk. Pure arithmetic over counts.

Enters how many samples each subset has, its repeat, and the stage's chunks; leaves a `Plan`. Every subset is spread
evenly: between any two chunks its count differs by at most one. The copies of a sample lie chunks / repeat
apart, as far as they can, after the pseudo-chunk rule of K2's gather.py (K2 §1.2); a truncation takes evenly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
import numpy.typing as npt

from k2.data.document import DataError
from k2.recipe.schema import Stage

_GOLDEN = 0.6180339887498949  # steps of this share of the chunks spread the odd samples best


@dataclass(frozen=True)
class Share:
    """One subset's part of a stage.

    `slots` are its samples times its repeat; `kept` of them are trained, `slots - kept` are the remainder that the
    stage has no room for.
    """

    subset: str
    repeat: float
    samples: int
    slots: int
    kept: int
    per_chunk: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A stage's mix, counted out."""

    stage: str
    shares: tuple[Share, ...]

    def share(self, subset: str) -> Share:
        return next(share for share in self.shares if share.subset == subset)


def plan_mix(stage: Stage, samples: Mapping[str, int]) -> Plan:
    """Count the stage out over the subsets. `DataError` when there is too little of them."""
    slots = [int(entry.repeat * samples[entry.subset] + 0.5) for entry in stage.mix]
    needed = stage.chunks * stage.samples_per_chunk
    if sum(slots) < needed:
        raise DataError(_too_few(stage, samples, slots, needed))
    kept = apportion(slots, needed)
    columns = spread(kept, stage.chunks)
    return Plan(
        stage.name,
        tuple(Share(entry.subset, entry.repeat, samples[entry.subset], slots[i], kept[i], columns[i]) for i, entry in enumerate(stage.mix)),
    )


def apportion(slots: Sequence[int], needed: int) -> list[int]:
    """`needed` seats given out in proportion to `slots`, by largest remainders, never more than a slot has."""
    total = sum(slots)
    kept = [needed * count // total for count in slots]
    by_remainder = sorted(range(len(slots)), key=lambda i: (-(needed * slots[i] % total), i))
    for i in by_remainder[: needed - sum(kept)]:
        kept[i] += 1
    return kept


def spread(kept: Sequence[int], chunks: int) -> list[tuple[int, ...]]:
    """Each subset's count in each chunk: within one of each other, and all chunks the same in sum.

    What is left after the even part is dealt out one a chunk, each subset going on where the one before stopped;
    so no chunk gets two of a subset, and each gets the same number in all (McNaughton's wrap-around).
    """
    stride = _stride(chunks)
    dealt = 0
    columns = []
    for count in kept:
        even, odd = divmod(count, chunks)
        more = {(dealt + k) * stride % chunks for k in range(odd)}
        columns.append(tuple(even + (chunk in more) for chunk in range(chunks)))
        dealt += odd
    return columns


def samples_of_chunk(share: Share, chunks: int, chunk: int) -> npt.NDArray[np.int64]:
    """The numbers of the subset's samples that sit in the chunk, copies included."""
    first = sum(share.per_chunk[:chunk])
    seats = np.arange(first, first + share.per_chunk[chunk], dtype=np.int64)
    slots = seats * share.slots // max(share.kept, 1)  # evenly over all slots when some are the remainder
    return _in_reading_order(slots % max(share.samples, 1), share.samples, max(1, round(chunks / share.repeat)))


def chunks_of_sample(share: Share, chunks: int, sample: int) -> list[tuple[int, int]]:
    """The inverse of `samples_of_chunk`: each chunk that the sample sits in, and its place among the subset's samples there."""
    place = _place_in_reading_order(sample, share.samples, max(1, round(chunks / share.repeat)))
    ends = np.cumsum(share.per_chunk)
    found = []
    for slot in range(place, share.slots, max(share.samples, 1)):
        seat = -(-slot * share.kept // share.slots)  # the one seat that may fall on this slot
        if seat < share.kept and seat * share.slots // share.kept == slot:
            chunk = int(np.searchsorted(ends, seat, side="right"))
            found.append((chunk, seat - int(ends[chunk]) + share.per_chunk[chunk]))
    return found


def _in_reading_order(places: npt.NDArray[np.int64], samples: int, pseudo_chunks: int) -> npt.NDArray[np.int64]:
    """Which samples stand at these places of one copy: every p-th sample from 0, then every p-th from 1 ..., p = chunks / repeat.

    So each chunk takes from all over the subset, and the first half of this order is an even half of the subset.
    """
    rounds, longer = divmod(samples, pseudo_chunks)  # the first `longer` residues occur once more than the others
    border = longer * (rounds + 1)
    first = np.where(places < border, places // (rounds + 1), longer + (places - border) // max(rounds, 1))
    turn = np.where(places < border, places % (rounds + 1), (places - border) % max(rounds, 1))
    samples_there: npt.NDArray[np.int64] = first + turn * pseudo_chunks
    return samples_there


def _place_in_reading_order(sample: int, samples: int, pseudo_chunks: int) -> int:
    """Where `_in_reading_order` puts the sample."""
    rounds, longer = divmod(samples, pseudo_chunks)
    turn, first = divmod(sample, pseudo_chunks)
    return first * (rounds + 1) + turn if first < longer else longer * (rounds + 1) + (first - longer) * rounds + turn


def _stride(chunks: int) -> int:
    """A step near the golden share of the chunks that visits each of them."""
    near = max(1, round(chunks * _GOLDEN))
    return next(step for step in range(near, near + chunks) if gcd(step, chunks) == 1)


def _too_few(stage: Stage, samples: Mapping[str, int], slots: Sequence[int], needed: int) -> str:
    given = ", ".join(
        f"{entry.subset} {samples[entry.subset]} x {entry.repeat:g} = {count}" for entry, count in zip(stage.mix, slots, strict=True)
    )
    room = sum(slots) // stage.samples_per_chunk
    fix = f"train at most {room} chunks" if room else f"train fewer than {stage.steps_per_chunk} steps a chunk"
    return (
        f"stages.{stage.name} needs {needed} samples of {stage.context} tokens ({stage.chunks} chunks of {stage.samples_per_chunk}), "
        f"but its mix gives {sum(slots)} ({given}): {fix}, or give its subsets more text (max_bytes, source) or a higher repeat"
    )
