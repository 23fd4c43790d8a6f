"""`k2 plan`: the report's figures for K2-65B, and what happens where a recipe declares less."""

import pytest

from k2.estimate import Memory, Plan, describe, plan
from k2.recipe.load import load_recipe

CONTRACT = {
    "parameters",
    "parameters_without_embedding",
    "stages",
    "memory_bytes_per_rank",
    "flops",
    "days",
    "mwh",
    "tco2e",
    "checkpoint_bytes",
    "export_bytes",
}
CONTRACT_STAGE = {
    "name",
    "context",
    "batch_samples",
    "micro_batches",
    "steps",
    "chunks",
    "samples_per_chunk",
    "tokens",
    "bubble_fraction",
}


@pytest.fixture(scope="module")
def k2() -> Plan:
    return plan(load_recipe("k2_65b"))


def test_the_contracts_fields_are_there(k2: Plan) -> None:
    document = k2.model_dump(mode="json")
    assert set(document) >= CONTRACT
    assert all(set(stage) >= CONTRACT_STAGE for stage in document["stages"])
    assert document["memory_bytes_per_rank"]["total"] > 0


def test_k2s_stages(k2: Plan) -> None:
    one, two = k2.stages
    assert (one.steps, one.tokens_per_step, one.chunks, one.samples_per_chunk) == (338_760, 4_177_920, 360, 1_919_640)
    assert one.tokens == 1_415_312_179_200
    assert (two.chunks, two.steps_per_chunk, two.batch_samples, two.samples_per_chunk) == (20, 829, 510, 422_790)
    assert round(two.tokens / 1e9, 2) == 69.27
    assert two.unpublished_tokens > 0
    assert k2.checkpoints == 380


def test_k2s_bubble_in_both_ways_of_saying_it(k2: Plan) -> None:
    for stage in k2.stages:
        assert stage.micro_batches == 34
        assert round(100 * stage.bubble_fraction, 1) == 8.8
        assert round(100 * stage.bubble_fraction_of_wall, 1) == 8.1


def test_k2s_energy_is_the_reports(k2: Plan) -> None:
    assert (k2.days, k2.days_basis) == (100, "declared")
    assert k2.mwh == pytest.approx(430.848) and k2.tco2e == pytest.approx(165.87648)
    assert (round(k2.mwh, 1), round(k2.tco2e, 1)) == (430.8, 165.9)


def test_the_reports_other_two_phases_by_the_same_formula() -> None:
    energy = load_recipe("k2_65b").energy
    assert energy.mwh(24 * 30) == pytest.approx(129.25, abs=0.01)
    finetuning = energy.model_copy(update={"devices": 240})
    assert finetuning.mwh(24 * 5) == pytest.approx(10.77, abs=0.01)
    assert finetuning.tco2e(24 * 5) == pytest.approx(4.147, abs=0.001)  # the report prints 4.2, from the rounded 10.8


def test_k2s_throughput_and_utilization(k2: Plan) -> None:
    assert k2.mfu is not None
    assert k2.tokens_per_second_per_device == pytest.approx(358.0, abs=0.05)
    assert k2.seconds_per_step == pytest.approx(24.31, abs=0.005)
    assert k2.flops == pytest.approx(5.82e23, rel=1e-3) and k2.stages[0].flops == pytest.approx(5.54e23, rel=1e-3)
    assert k2.mfu.parameters_only == pytest.approx(0.449, abs=5e-4)
    assert k2.mfu.causal_attention == pytest.approx(0.460, abs=5e-4)
    assert k2.mfu.full_attention == pytest.approx(0.470, abs=1e-3)


def test_k2s_bytes(k2: Plan) -> None:
    assert round(k2.checkpoint_bytes / 1e9) == 783
    assert round(k2.export_bytes / 1e9, 1) == 130.6


def test_k2s_memory_fits_its_devices_and_says_which_rank_is_fullest(k2: Plan) -> None:
    memory = k2.memory_bytes_per_rank
    assert memory.pipeline_rank == 0  # it holds the embedding, and most micro-batches in flight
    assert memory.total == memory.weights + memory.gradients + memory.optimizer + memory.activations + memory.logits
    assert memory.weights == 2 * -(-(20 * 809_517_056 + 32_032 * 8192) // 8)
    assert memory.total < 80e9
    assert [rank.logits > 0 for rank in k2.memory_by_pipeline_rank] == [False, False, False, True]


def test_sharding_the_optimizer_further_saves_exactly_that() -> None:
    one = plan(load_recipe("k2_65b", ("layout.data=15",))).memory_bytes_per_rank
    half = plan(load_recipe("k2_65b", ("layout.data=30", "stages.stage1.micro_batch_samples=2"))).memory_bytes_per_rank
    assert half.optimizer == pytest.approx(one.optimizer / 2, abs=1)
    assert half.weights == one.weights


def test_sequence_parallelism_saves_activations() -> None:
    with_it = plan(load_recipe("k2_65b")).memory_bytes_per_rank
    without = plan(load_recipe("k2_65b", ("layout.sequence_parallel=false",))).memory_bytes_per_rank
    assert without.activations > 2 * with_it.activations


def test_days_are_estimated_from_a_declared_peak() -> None:
    planned = plan(load_recipe("k2_1b"))
    assert 1.1e9 < planned.parameters < 1.3e9
    assert planned.days_basis == "assumed 40 % MFU"
    assert planned.mfu is not None and planned.mfu.parameters_only == pytest.approx(0.4)
    assert planned.memory_bytes_per_rank.total < 80e9


def test_without_days_or_peak_nothing_is_invented() -> None:
    recipe = load_recipe("k2_1b")
    unknown = recipe.model_copy(update={"energy": recipe.energy.model_copy(update={"peak_tflops": None})})
    planned = plan(unknown)
    assert (planned.days, planned.mwh, planned.tco2e, planned.mfu) == (None, None, None, None)
    assert "declare energy.days" in describe(planned)


def test_the_table_for_the_terminal_prints_the_reports_figures(k2: Plan) -> None:
    text = describe(k2)
    for figure in (
        "65,286,184,960",
        "338,760",
        "1,919,640",
        "422,790",
        "8.8%",
        "8.1%",
        "430.8 MWh",
        "165.9 tCO2e",
        "783.4 GB",
        "130.6 GB",
        "44.9%",
    ):
        assert figure in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_recomputation_and_zero_take_what_they_save() -> None:
    def memory(*overrides: str) -> Memory:
        return plan(load_recipe("k2_1b", overrides)).memory_bytes_per_rank

    whole, selective, full = (memory(f'layout.recompute="{kind}"') for kind in ("none", "selective", "full"))
    assert whole.activations > selective.activations > 5 * full.activations > 0
    assert (whole.weights, whole.optimizer) == (full.weights, full.optimizer)
    one, two, three = (memory("layout.data=2", f"layout.zero_stage={stage}") for stage in (1, 2, 3))
    assert (two.gradients, two.weights) == (one.gradients // 2, one.weights)
    assert (three.gradients, three.weights) == (one.gradients // 2, one.weights // 2)
