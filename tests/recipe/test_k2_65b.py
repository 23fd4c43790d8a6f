"""The recipe of K2-65B holds the report's numbers, and says of each where it stands."""

import re
import tomllib
from importlib import resources

import pytest

from k2.recipe.load import load_recipe

TEXT = (resources.files("k2.recipe") / "recipes" / "k2_65b.toml").read_text("utf-8")
SOURCE = re.compile(r"#.*(K2 (§|Table|Figure)|k2-train |k2-data-prep |card |derived: |ours: )")


def numbers_outside_strings(line: str) -> list[str]:
    return re.findall(r"(?<![\w.])-?\d[\w.]*", re.sub(r'"[^"]*"', "", line.split("#", maxsplit=1)[0]))


def lines_with_a_number() -> list[str]:
    return [line for line in TEXT.splitlines() if numbers_outside_strings(line)]


def test_every_number_names_its_source() -> None:
    unsourced = [line for line in lines_with_a_number() if not SOURCE.search(line)]
    assert len(lines_with_a_number()) > 60
    assert unsourced == []


def test_a_number_without_a_source_would_be_seen() -> None:
    assert numbers_outside_strings('steps = 941 # "12"') == ["941"]
    assert not SOURCE.search("steps = 941 # the number of steps")
    assert numbers_outside_strings('{ subset = "s2orc" },') == []


def test_model_and_optimizer_are_the_reports() -> None:
    recipe = load_recipe("k2_65b")
    model, optimizer = recipe.model, recipe.optimizer
    assert (model.layers, model.hidden, model.ffn, model.heads, model.vocab_rows) == (80, 8192, 22016, 64, 32032)
    assert (model.norm_eps, model.init_std, model.head_width) == (1e-5, 0.02, 128)
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.weight_decay, optimizer.clip) == (0.9, 0.95, 1e-8, 0.1, 1.0)
    assert recipe.tokenizer.kind == "file" and recipe.tokenizer.pieces == 32_000
    assert recipe.seed == 22_238


def test_stages_are_the_reports() -> None:
    one, two = load_recipe("k2_65b").stages
    assert (one.steps, one.tokens_per_step, one.chunks, one.samples_per_chunk) == (338_760, 4_177_920, 360, 1_919_640)
    assert (two.steps, two.tokens_per_step, two.chunks, two.samples_per_chunk) == (16_580, 4_177_920, 20, 422_790)
    assert (one.context, two.context, one.rope_base, two.rope_base) == (2048, 8192, 10_000.0, 500_000.0)
    assert (one.schedule.kind, one.schedule.peak, one.schedule.final) == ("cosine", 1.5e-4, 1.5e-5)
    assert (two.schedule.kind, two.schedule.peak, two.schedule.final) == ("linear", 1e-4, 0.0)
    assert one.schedule.warmup_steps == two.schedule.warmup_steps == 2000


def test_layout_spikes_and_publishing_are_the_reports() -> None:
    recipe = load_recipe("k2_65b")
    layout = recipe.layout
    assert (layout.pipeline, layout.data, layout.tensor, layout.ranks) == (4, 15, 8, 480)
    assert layout.sequence_parallel and layout.precision == "bf16" and layout.zero_stage == 1
    assert [layout.micro_batches(stage) for stage in recipe.stages] == [34, 34]
    assert (recipe.spikes.bypass, recipe.spikes.persistence_steps) == ("defer", 100)
    assert (recipe.publishing.every_of("stage1"), recipe.evaluation.every, recipe.checkpoints.rescue_every_steps) == (3, 3, 250)


def test_stage_1_mix_adds_up() -> None:
    mix = load_recipe("k2_65b").stages[0].mix
    assert sum(entry.fraction or 0 for entry in mix) == pytest.approx(1.0, abs=1e-9)
    assert {entry.subset: entry.repeat for entry in mix if entry.repeat != 1} == {
        "redpajama.wikipedia": 6,
        "redpajama.book": 3,
        "redpajama.stackexchange": 3,
        "uspto": 3,
        "pubmed-abstracts": 3,
        "dm-math": 3,
        "starcoder": 0.5,
    }


def test_stage_2_names_what_was_never_published() -> None:
    stage = load_recipe("k2_65b").stages[1]
    published = sum(entry.tokens or 0 for entry in stage.mix)
    assert published == pytest.approx(65.3e9)
    assert stage.unpublished_tokens == pytest.approx(stage.tokens - published)


def test_that_zero_is_not_k2s_is_said() -> None:
    line = next(line for line in TEXT.splitlines() if line.startswith("zero_stage"))
    assert "ours: K2 sharded no optimizer state" in line


def test_it_is_plain_toml_of_the_schema() -> None:
    assert tomllib.loads(TEXT)["energy"] == {
        "devices": 480,
        "device_kw": 0.34,
        "pue": 1.1,
        "tco2e_per_mwh": 0.385,
        "days": 100.0,
        "peak_tflops": 312.0,
    }
