"""What DeepSpeed does silently by default, seen from outside of the engine on two ranks."""

import json

import pytest
from ranks import run_script


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    root = tmp_path_factory.mktemp("traps")
    assert "this must not run" not in run_script("engine_traps.py", str(root))
    return [json.loads((root / f"seen_{rank}.json").read_text()) for rank in (0, 1)]


def test_a_gradient_that_is_not_finite_is_refused_and_leaves_the_weights(seen):
    for rank in seen:
        assert rank["refused"] == 1
        assert rank["weight kept"]
        assert rank["trains on"]


def test_weights_that_are_not_finite_are_counted(seen):
    assert all(rank["not finite"] > 0 for rank in seen)


def test_state_is_written_and_read_back_to_the_bit(seen):
    for rank in seen:
        assert rank["problem"] is None
        assert rank["counters"] == {"step": 1, "tokens": 128}
        assert rank["same after loading"]


def test_deepspeeds_own_marker_and_scripts_are_not_written(seen):
    assert all(rank["no latest file"] for rank in seen)


def test_a_state_that_would_run_something_is_refused(seen):
    assert all("UnpicklingError" in rank["pickle"] for rank in seen)


def test_nothing_to_load_is_never_a_start_from_scratch(seen):
    assert all(rank["nothing there"] for rank in seen)


def test_another_number_of_ranks_than_the_layouts_is_refused(seen):
    assert all("2 ranks were started" in rank["world"] and "4" in rank["world"] for rank in seen)
