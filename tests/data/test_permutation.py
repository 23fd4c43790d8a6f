"""The permutation inside a chunk: whole, frozen, and invertible at any place."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from k2.data.permutation import permutation_of_chunk


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), chunk=st.integers(0, 400), samples=st.integers(1, 3000))
def test_every_place_is_taken_once_and_leads_back(seed, chunk, samples):
    permutation = permutation_of_chunk(seed, "stage1", chunk, samples)
    whole = permutation.whole()
    assert np.array_equal(np.sort(whole), np.arange(samples))
    assert np.array_equal(permutation.place_of(whole), np.arange(samples))
    assert permutation.at(np.array([samples - 1])).tolist() == whole[-1:].tolist()


def test_the_permutation_is_frozen():
    """These numbers rest on numpy's frozen RandomState: a change of them would change every run's data."""
    assert permutation_of_chunk(22238, "stage1", 0, 8).whole().tolist() == [3, 7, 4, 1, 6, 0, 5, 2]
    assert (
        permutation_of_chunk(22238, "stage1", 1, 1000).whole().tolist() != permutation_of_chunk(22238, "stage1", 0, 1000).whole().tolist()
    )


def test_each_sample_comes_to_each_row_equally_often():
    """Over 1,600 chunks of 32 samples: a chi-square of 961 degrees of freedom lies below 1,100 but for one seed in a thousand."""
    counts = np.zeros((32, 32))
    for chunk in range(1600):
        counts[np.arange(32), permutation_of_chunk(7, "stage1", chunk, 32).whole()] += 1
    assert ((counts - 50) ** 2 / 50).sum() < 1100


def test_a_chunk_of_k2_is_not_made_whole_to_find_one_row():
    permutation = permutation_of_chunk(22238, "stage1", 359, 1_919_640)
    assert sum(turn.size for turn in permutation.turns) < 12_000
    places = np.arange(0, 1_919_640, 9973)
    assert np.array_equal(permutation.place_of(permutation.at(places)), places)
