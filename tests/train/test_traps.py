"""What DeepSpeed does silently by default, seen from outside of the engine on two ranks.

Traps whose tests are elsewhere. For each the guard was taken away once by hand, and the test failed:

| trap | guard | test |
|---|---|---|
| boundaries sliced beside SP | deepspeed_json: pipe_partitioned | test_deepspeed_json: test_what_is_wrong_by_default_is_set |
| ZeRO 0 clips by one stage's norm | deepspeed_json: zero_optimization | test_deepspeed_json: test_what_is_wrong_by_default_is_set |
| micro-batches add up in bf16 | deepspeed_json: data_types | test_deepspeed_json: test_bf16_accumulates_gradients_in_fp32 |
| copied norms drift apart over tensor ranks | tensor: _sum_together | test_parity: its scenarios no longer resume to the same bits |
| reentrant recomputation | llama: checkpoint(use_reentrant=False); deepspeed_json | test_untouched_deepspeed: test_nothing_of_it_is_used |
| loading without `latest` starts from scratch | engine: restore reads our shards | test_untouched_deepspeed: test_nothing_of_it_is_used |
| universal loading bypasses safe reading | deepspeed_json: load_universal | test_untouched_deepspeed: test_nothing_of_it_is_used |
"""

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


def test_a_state_that_is_not_finite_is_not_saved(seen):
    for rank in seen:
        assert "NotFinite: after step 1 1 weights or moments are not finite" in rank["not finite"]
        assert rank["visible"] == ["saved"]


def test_a_state_saved_beside_the_next_step_is_that_of_the_step_before(seen):
    for rank in seen:
        assert rank["updates"] == 1
        assert rank["same after loading"]


def test_a_state_that_would_run_something_is_refused(seen):
    assert all("is no readable share of a training state" in rank["pickle"] for rank in seen)


def test_nothing_to_load_is_never_a_start_from_scratch(seen):
    assert all("holds no share of a state" in rank["nothing there"] for rank in seen)


def test_another_number_of_ranks_than_the_layouts_is_refused(seen):
    assert all("2 ranks were started" in rank["world"] and "4" in rank["world"] for rank in seen)
