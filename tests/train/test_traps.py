"""What DeepSpeed does silently by default, seen from outside of the engine on two ranks.

`traps.toml` lists every trap with its guard and the test that fails without it, here or elsewhere; `unguarded.py` shows it.
"""

import json
import random

import pytest
from ranks import run_script
from unguarded import ROOT, all_traps, copied, failure_without, moved


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


def test_a_parameter_without_a_gradient_is_an_error(seen):
    """Laid end to end, and summed over tensor ranks."""
    for rank in seen:
        assert all("have no gradient: the loss does not depend on them" in said for said in rank["no gradient"])


SAID = {
    "nothing": "",
    "clip": "gradients would not be clipped",
    "zero": "the gradient's norm would leave out pipeline stages",
    "accumulation": "gradients would not accumulate in fp32: DeepSpeedZeroOptimizer",
    "mark": "are not marked: the norm would count them on one tensor rank alone",
    "boundaries": "boundary tensors would be sliced",
    "optimizer": "AdamW is torch's own, not SGD",
}


@pytest.mark.parametrize("dropped", SAID)
def test_a_setting_that_did_not_arrive_is_named(seen, dropped):
    for rank in seen:
        assert SAID[dropped] in rank["not as set"][dropped]
        assert bool(SAID[dropped]) == bool(rank["not as set"][dropped])


def test_nothing_is_compiled(seen):
    assert all(rank["compiled"] == [] for rank in seen)


@pytest.mark.parametrize("trap", all_traps(), ids=lambda trap: trap.what)
def test_every_guard_stands_and_every_trap_has_its_test(trap):
    for guard in trap.guards:
        assert (ROOT / guard.file).read_text().count(guard.text) == 1, moved(guard)
    file, _, test = trap.test.partition("::")
    assert f"\ndef {test.partition('[')[0]}(" in (ROOT / file).read_text()


@pytest.mark.slow
def test_without_its_guard_a_trap_is_seen(tmp_path):
    """Two of those whose tests take seconds, drawn."""
    quick = [trap for trap in all_traps() if "parity" not in trap.test and "segment" not in trap.test]
    copy = copied(tmp_path)
    for trap in random.Random(1).sample(quick, 2):
        assert failure_without(trap, copy) is not None, trap
