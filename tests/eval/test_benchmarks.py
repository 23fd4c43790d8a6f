"""The table of the 21 rows, and the report's averages recomputed from the report's own rows."""

import pytest

from k2.eval.benchmarks import BENCHMARKS, Direction, IncompleteScores, average, benchmark, data_sets
from k2.eval.published import PUBLISHED

# to two places; the report prints three of them otherwise, by cutting or by a slip: 57.11, 65.93, 64.22
AVERAGES = {
    "K2-65B": 57.20, "LLaMA-65B": 53.77, "Llama2-70B": 57.12, "Falcon-40B": 45.87, "Falcon-180B": 55.99,
    "K2-Chat 65B": 60.24, "Qwen1.5-Chat 72B": 59.98, "DeepSeek-Chat 67B": 65.94, "Llama2-Chat 70B": 55.81, "Llama3-Instruct 70B": 64.23,
}  # fmt: skip


@pytest.mark.parametrize("column", PUBLISHED, ids=lambda column: column.model)
def test_the_reports_averages_follow_from_its_rows(column):
    assert round(average(column.by_name()), 2) == AVERAGES[column.model]
    assert abs(average(column.by_name()) - column.printed_average) < 0.01


def test_k2s_own_columns_say_their_stage_and_no_other_does():
    assert {c.model: c.stage for c in PUBLISHED if c.stage} == {"K2-65B": "stage1", "K2-Chat 65B": "finetune"}


def test_the_table_has_the_reports_rows():
    assert len(BENCHMARKS) == 21
    assert len({row.name for row in BENCHMARKS}) == 21
    shots = {row.row: row.shots for row in BENCHMARKS}
    for name, count in shots.items():
        if "-shot" in name:
            assert f"({count}-shot)" in name
    assert [row.group for row in BENCHMARKS].count("medical") == 3
    assert [row.name for row in BENCHMARKS if row.executes_code] == ["humaneval", "humaneval_pass_at_10", "mbpp", "mbpp_pass_at_10"]
    assert len(data_sets()) == 18  # ARC, HumanEval and MBPP give two rows each


def test_what_the_report_leaves_open_is_marked():
    assert {row.name for row in BENCHMARKS if not row.shots_certain} == {
        "winogrande", "humaneval", "humaneval_pass_at_10", "mbpp", "mbpp_pass_at_10",
    }  # fmt: skip
    assert benchmark("crows_pairs_english").direction is Direction.HALF
    assert [row.name for row in BENCHMARKS if row.direction is not Direction.HIGHER] == ["crows_pairs_english"]


def test_an_average_of_fewer_rows_is_refused():
    with pytest.raises(IncompleteScores, match="all 21 rows, and mmlu have no score"):
        average({row.name: 50.0 for row in BENCHMARKS[1:]})
    with pytest.raises(ValueError, match="no benchmark 'boolq'; there are mmlu"):
        benchmark("boolq")
