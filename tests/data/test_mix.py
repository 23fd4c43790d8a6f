"""The mix: exact counts, even spread, copies far apart."""

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2.data.document import DataError
from k2.data.mix import chunks_of_sample, plan_mix, samples_of_chunk
from k2.recipe.schema import MixEntry, Schedule, Stage


def stage_of(mix: dict[str, float], chunks: int, samples_per_chunk: int) -> Stage:
    return Stage(
        name="s",
        context=8,
        rope_base=1e4,
        chunks=chunks,
        steps_per_chunk=samples_per_chunk,
        batch_samples=1,
        micro_batch_samples=1,
        schedule=Schedule(kind="cosine", peak=1.0, final=0.1, warmup_steps=0),
        mix=tuple(MixEntry(subset=name, repeat=repeat) for name, repeat in mix.items()),
    )


def chunks_of_samples(stage: Stage, samples: dict[str, int], subset: str) -> dict[int, list[int]]:
    """Each sample's chunks, one entry a copy."""
    share = plan_mix(stage, samples).share(subset)
    seats = defaultdict(list)
    for chunk in range(stage.chunks):
        for sample in samples_of_chunk(share, stage.chunks, chunk).tolist():
            seats[sample].append(chunk)
    return seats


@settings(max_examples=200, deadline=None)
@given(
    chunks=st.integers(1, 24),
    per_chunk=st.integers(1, 40),
    subsets=st.lists(st.tuples(st.integers(0, 400), st.sampled_from([0.25, 0.5, 1.0, 1.5, 3.0, 6.0])), min_size=1, max_size=6),
)
def test_chunks_hold_exactly_what_is_asked_and_every_subset_evenly(chunks, per_chunk, subsets):
    stage = stage_of({f"s{i}": repeat for i, (_, repeat) in enumerate(subsets)}, chunks, per_chunk)
    samples = {f"s{i}": count for i, (count, _) in enumerate(subsets)}
    slots = sum(int(repeat * count + 0.5) for count, repeat in subsets)
    if slots < chunks * per_chunk:
        with pytest.raises(DataError):
            plan_mix(stage, samples)
        return
    plan = plan_mix(stage, samples)
    for chunk in range(chunks):
        assert sum(share.per_chunk[chunk] for share in plan.shares) == per_chunk
    for share in plan.shares:
        assert max(share.per_chunk) - min(share.per_chunk) <= 1
        assert sum(share.per_chunk) == share.kept <= share.slots
        assert abs(share.kept - share.slots * chunks * per_chunk / slots) < 1
        seated = Counter(s for chunk in range(chunks) for s in samples_of_chunk(share, chunks, chunk).tolist())
        assert all(0 <= s < share.samples and n <= np.ceil(share.repeat) for s, n in seated.items())


@pytest.mark.parametrize(("repeat", "chunks"), [(6.0, 12), (3.0, 12), (6.0, 360), (3.0, 360), (2.0, 5)])
def test_copies_lie_chunks_over_repeat_apart(repeat, chunks):
    samples = {"a": 2 * chunks, "b": chunks}
    stage = stage_of({"a": repeat, "b": 1.0}, chunks, int(2 * repeat + 1))
    seats = chunks_of_samples(stage, samples, "a")
    assert len(seats) == samples["a"]
    for copies in seats.values():
        assert len(copies) == repeat
        assert all(abs(later - earlier - chunks / repeat) < 1.01 for earlier, later in pairwise(copies))


def test_half_takes_an_even_half_once():
    stage = stage_of({"a": 0.5}, 12, 20)
    seats = chunks_of_samples(stage, {"a": 480}, "a")
    assert len(seats) == 240
    assert all(len(copies) == 1 for copies in seats.values())
    for first in range(0, 480, 24):
        assert sum(first <= sample < first + 24 for sample in seats) == 12


def test_each_chunk_takes_from_all_over_a_subset():
    stage = stage_of({"a": 1.0}, 12, 40)
    share = plan_mix(stage, {"a": 480}).share("a")
    for chunk in range(12):
        quarters = Counter(samples_of_chunk(share, 12, chunk) // 120)
        assert all(quarters[q] == 10 for q in range(4))


def test_what_does_not_fit_is_left_out_evenly():
    stage = stage_of({"a": 1.0}, 4, 30)
    seats = chunks_of_samples(stage, {"a": 240}, "a")
    assert len(seats) == 120
    assert all(28 <= sum(first <= s < first + 60 for s in seats) <= 32 for first in range(0, 240, 60))


def test_too_few_samples_say_value_rule_and_fix():
    with pytest.raises(DataError) as error:
        plan_mix(stage_of({"web": 1.0, "code": 0.5}, 4, 100), {"web": 200, "code": 120})
    assert str(error.value) == (
        "stages.s needs 400 samples of 8 tokens (4 chunks of 100), but its mix gives 260 (web 200 x 1 = 200, code 120 x 0.5 = 60): "
        "train at most 2 chunks, or give its subsets more text (max_bytes, source) or a higher repeat"
    )


@settings(max_examples=100, deadline=None)
@given(
    chunks=st.integers(1, 12),
    per_chunk=st.integers(1, 30),
    samples=st.integers(1, 300),
    repeat=st.sampled_from([0.25, 0.5, 1.0, 1.5, 3.0, 6.0]),
)
def test_a_sample_leads_back_to_its_chunks(chunks, per_chunk, samples, repeat):
    stage = stage_of({"a": repeat, "b": 1.0}, chunks, per_chunk)
    share = plan_mix(stage, {"a": samples, "b": chunks * per_chunk}).share("a")
    seats = {(chunk, place): int(s) for chunk in range(chunks) for place, s in enumerate(samples_of_chunk(share, chunks, chunk))}
    back = {seat: sample for sample in range(samples) for seat in chunks_of_sample(share, chunks, sample)}
    assert back == seats
