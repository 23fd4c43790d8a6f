"""The 21 rows of the report's Table 2 as a table in code: which harness task gives a row, at how many shots, by which metric.

Torch-free. What the report does not say is a judgement and marked so: `shots_certain` and `metric_certain`. K2's own scorer was never
published; the metric of a row is the one that LLM360's scorer of Amber takes (Analysis360@08a6863, scripts/utils.py) where it has the
row, and the harness's first metric where it has not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Group = Literal["natural language", "code", "medical"]


class Direction(StrEnum):
    """Which values are good. The report's average adds all rows up alike, the last kind too."""

    HIGHER = "higher is better"
    HALF = "half is unbiased"  # CrowS-Pairs: the share of pairs in which the stereotype is the likelier sentence


@dataclass(frozen=True)
class Benchmark:
    """One row. `row` is its name in the report, `name` that of the harness's task, found in the folder `files` of the harness's tasks
    or, where that is None, in a task file of our own. `metric` is what a score calls it: the metric, and the filter of the answers where
    it has one."""

    name: str
    row: str
    group: Group
    files: str | None
    shots: int
    metric: str
    data_set: str  # owner/name of the data set on the Hugging Face Hub
    shots_certain: bool = True
    metric_certain: bool = False
    direction: Direction = Direction.HIGHER
    executes_code: bool = False
    note: str = field(default="", compare=False)


def _language(  # noqa: PLR0913 (a row of a table)
    name: str, row: str, files: str, shots: int, metric: str, data_set: str, *, metric_certain: bool = False, note: str = ""
) -> Benchmark:
    return Benchmark(name, row, "natural language", files, shots, metric, data_set, metric_certain=metric_certain, note=note)


def _code(name: str, row: str, data_set: str, shots: int, metric: str, files: str | None, note: str) -> Benchmark:
    return Benchmark(name, row, "code", files, shots, metric, data_set, shots_certain=False, executes_code=True, note=note)


def _medical(name: str, row: str, files: str, shots: int, data_set: str) -> Benchmark:
    return Benchmark(name, row, "medical", files, shots, "acc", data_set)


_SAMPLED = (
    "K2's numbers of samples and temperatures are unpublished; these are CrystalCoder's (LLM360, crystalcoder_eval.py), top_p 0.95, and "
    "Chen et al.'s unbiased estimator"
)

BENCHMARKS: tuple[Benchmark, ...] = (  # K2 §4, Table 2, in its order
    _language("mmlu", "MMLU (0-shot)", "mmlu/default", 0, "acc", "cais/mmlu", metric_certain=True,
              note="57 subjects, weighted by size; LLM360's scorer took their plain mean"),
    _language("race", "RACE (0-shot)", "race", 0, "acc", "EleutherAI/race", metric_certain=True, note="the high-school half"),
    _language("hellaswag", "HellaSwag (10-shot)", "hellaswag", 10, "acc_norm", "Rowan/hellaswag", metric_certain=True),
    _language("piqa", "PIQA (5-shot)", "piqa", 5, "acc_norm", "baber/piqa", metric_certain=True),
    _language("arc_easy", "ARC-easy (5-shot)", "arc", 5, "acc_norm", "allenai/ai2_arc", metric_certain=True),
    _language("arc_challenge", "ARC-challenge (25-shot)", "arc", 25, "acc_norm", "allenai/ai2_arc", metric_certain=True),
    _language("openbookqa", "OpenBookQA (5-shot)", "openbookqa", 5, "acc_norm", "allenai/openbookqa", metric_certain=True),
    Benchmark("winogrande", "Winogrande (5-shot)", "natural language", "winogrande", 5, "acc", "allenai/winogrande",
              shots_certain=False, metric_certain=True,
              note="the report says 5-shot; its 77.0 looks like 0-shot, and the project's site shows 77 and 78.6 for one model"),
    _language("truthfulqa_mc2", "TruthfulQA (0-shot)", "truthfulqa", 0, "acc", "truthfulqa/truthful_qa", metric_certain=True,
              note="six examples stand in the task's own prompt"),
    Benchmark("crows_pairs_english", "CrowS-Pairs (0-shot)", "natural language", "crows_pairs", 0,
              "pct_stereotype", "jannalu/crows_pairs_multilingual", metric_certain=True, direction=Direction.HALF),
    _language("gsm8k", "GSM8K (5-shot)", "gsm8k", 5, "exact_match,strict-match", "openai/gsm8k",
              note="strict-match is the harness's own choice; flexible-extract is stored beside it"),
    _language("mathqa", "MathQA (5-shot)", "mathqa", 5, "acc_norm", "regisss/math_qa", metric_certain=True),
    _language("logiqa2", "LogiQA2.0 (0-shot)", "logiqa2", 0, "acc_norm", "baber/logiqa2"),
    _language("bbh_cot_zeroshot", "BBH CoT (0-shot)", "bbh/cot_zeroshot", 0, "exact_match,flexible-extract", "SaylorTwift/bbh",
              note="27 tasks, weighted by size"),
    _code("humaneval", "HumanEval (pass@1)", "openai/openai_humaneval", 0, "pass@1,create_test", "humaneval", "one greedy answer"),
    _code("humaneval_pass_at_10", "HumanEval (pass@10)", "openai/openai_humaneval", 0, "pass@10,every_answer", None,
          f"20 samples at temperature 0.8. {_SAMPLED}"),
    _code("mbpp", "MBPP (pass@1)", "google-research-datasets/mbpp", 3, "pass_at_1", "mbpp", "one greedy answer"),
    _code("mbpp_pass_at_10", "MBPP (pass@10)", "google-research-datasets/mbpp", 3, "pass@10,every_answer", None,
          f"16 samples at temperature 0.8. {_SAMPLED}"),
    _medical("medqa_4options", "MedQA (0-shot)", "medqa", 0, "GBaker/MedQA-USMLE-4-options-hf"),
    _medical("medmcqa", "MedMCQA (5-shot)", "medmcqa", 5, "openlifescienceai/medmcqa"),
    _medical("pubmedqa", "PubMedQA (0-shot)", "pubmedqa", 0, "bigbio/pubmed_qa"),
)  # fmt: skip


class IncompleteScores(ValueError):
    """An average that would leave rows out. The text names them."""


def benchmark(name: str) -> Benchmark:
    """The row of that name; `ValueError` names those there are."""
    for row in BENCHMARKS:
        if row.name == name:
            return row
    raise ValueError(f"no benchmark {name!r}; there are {', '.join(row.name for row in BENCHMARKS)}")


def average(percent_by_name: Mapping[str, float]) -> float:
    """The report's "Overall Average Score": the plain mean of the 21 rows, in percent. CrowS-Pairs counts as it stands, HumanEval and
    MBPP count twice. `IncompleteScores` when a row is missing: a mean of fewer rows is another number."""
    missing = [row.name for row in BENCHMARKS if row.name not in percent_by_name]
    if missing:
        raise IncompleteScores(f"the average is over all {len(BENCHMARKS)} rows, and {', '.join(missing)} have no score yet")
    return sum(percent_by_name[row.name] for row in BENCHMARKS) / len(BENCHMARKS)


def data_sets() -> tuple[str, ...]:
    """Every data set that the rows ask, once, by name."""
    return tuple(sorted({row.data_set for row in BENCHMARKS}))
