"""pass@k of programs that a model wrote, each judged in a jail of its own; and how tasks make programs of answers.

Enters: for every problem the programs and the test that is appended to each. Leaves: the unbiased estimate of the chance that at least
one of k samples passes (Chen et al. 2021, equation 1). Task files name these functions.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import comb
from pathlib import Path
from typing import Any

from k2.eval.jail import run_jailed
from k2.run.durable import write_durably

# what stands in for the metric `code_eval` that the harness's tasks ask of a hub: the same call, judged in jails
CODE_EVAL = """\
import evaluate
from k2.eval.judging import estimates


class CodeEval(evaluate.Metric):
    def _info(self):
        features = {"predictions": [], "references": []}
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def compute(self, *, predictions, references, k=(1, 10, 100)):
        "pass@k as the metric of that name gives it."
        return estimates(references, predictions, k), {}
"""


def write_code_eval(folder: Path) -> None:
    """Lay our `code_eval` where the harness's tasks, run in `folder`, find it before they ask a hub."""
    module = folder / "code_eval" / "code_eval.py"
    write_durably(module, CODE_EVAL.encode())


def pass_at_k(references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int]) -> dict[str, float]:
    """The metric that task files name: `pass@1` and so on."""
    return estimates(references, predictions, k)


def estimates(references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int]) -> dict[str, float]:
    """Mean over the problems of each pass@k. `ValueError` for fewer samples than k: they say nothing about k of them."""
    fewest = min(len(programs) for programs in predictions)
    if fewest < max(k):
        raise ValueError(f"pass@{max(k)} needs at least {max(k)} samples a problem; the task has {fewest}: raise its `repeats`")
    passed = [_count_passed(programs, test) for programs, test in zip(predictions, references, strict=True)]
    sampled = [len(programs) for programs in predictions]
    return {f"pass@{n}": sum(map(unbiased, sampled, passed, [n] * len(passed))) / len(passed) for n in k}


def unbiased(samples: int, passed: int, k: int) -> float:
    """The chance that k drawn of the samples hold one that passed: 1 - C(samples - passed, k) / C(samples, k)."""
    return 1.0 - comb(samples - passed, k) / comb(samples, k)


def after_the_prompt(resps: Sequence[Sequence[str]], docs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Programs that go on from their prompt, all samples of each problem."""
    return [[doc["prompt"] + answer for answer in answers] for answers, doc in zip(resps, docs, strict=True)]


def as_they_are(resps: Sequence[Sequence[str]], docs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Answers that are whole programs, all samples of each problem."""
    return [list(answers) for answers in resps]


def _count_passed(programs: Sequence[str], test: str) -> int:
    """How many of the programs pass the test. Equal ones are judged once."""
    wholes = [f"{program}\n{test}" for program in programs]
    different = list(dict.fromkeys(wholes))
    passed = {whole for whole, verdict in zip(different, _judges().map(run_jailed, different), strict=True) if verdict.passed}
    return sum(whole in passed for whole in wholes)


@cache
def _judges() -> ThreadPoolExecutor:
    """As many programs at once as there are cores, at most four."""
    return ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1)), "judge")
