"""pass@k: the estimator against counting, and programs judged in their jails."""

from itertools import combinations

import pytest

from k2.eval.jail import jail_missing
from k2.eval.judging import after_the_prompt, as_they_are, estimates, unbiased

needs_jail = pytest.mark.skipif(jail_missing() is not None, reason=f"no jail works here: {jail_missing()}")


@pytest.mark.parametrize(("samples", "passed", "k"), [(5, 0, 2), (5, 1, 2), (5, 3, 2), (5, 4, 2), (5, 5, 5), (6, 2, 1), (6, 2, 5)])
def test_the_estimate_is_the_share_of_draws_that_hold_a_pass(samples: int, passed: int, k: int) -> None:
    draws = list(combinations([True] * passed + [False] * (samples - passed), k))
    assert unbiased(samples, passed, k) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))


@needs_jail
def test_programs_are_counted_by_running_them() -> None:
    right, wrong = "def f(x):\n    return x + 1", "def f(x):\n    return x"
    found = estimates(["assert f(1) == 2", "assert f(1) == 3"], [[right, wrong, right, wrong], [right, wrong, wrong, wrong]], [1, 2])
    assert found == {"pass@1": pytest.approx(0.25), "pass@2": pytest.approx((1 - 1 / 6) / 2)}


def test_fewer_samples_than_k_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pass@10 needs at least 10 samples a problem; the task has 2"):
        estimates(["assert True"], [["", ""]], [1, 10])


def test_answers_become_programs() -> None:
    assert after_the_prompt([[" 1", " 2"]], [{"prompt": "return"}]) == [["return 1", "return 2"]]
    assert as_they_are([["a", "b"]], [{}]) == [["a", "b"]]
