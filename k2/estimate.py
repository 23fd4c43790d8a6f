"""What a recipe would take, before anything starts: parameters, steps, bubble, memory, FLOPs, days, energy, bytes.

A recipe enters, a `Plan` leaves; nothing is run, read or loaded. Memory is an estimate by formula (Korthikanti et
al. 2022, with the recipe's recomputation and with an attention that stores no square); everything else is exact arithmetic.
"""

from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from k2.model.count import Attention, ParameterCount, count_parameters, flops_per_token
from k2.recipe.schema import Layout, Model, Recipe, Recompute, Stage

ASSUMED_MFU = 0.40  # of a recipe that declares no days: what tuned codes of the field reach on one node and on hundreds
_SECONDS_A_DAY = 86_400
_STATE_BYTES = 12  # a parameter: the fp32 weight and Adam's two moments; what a bf16 run computes with follows from them
_WEIGHT_BYTES = {"fp32": 4, "bf16": 2}
_GRADIENT_BYTES = 4  # gradients accumulate in fp32 at either precision
_OPTIMIZER_BYTES = 12

DaysBasis = Literal["declared", "assumed 40 % MFU", "unknown"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class StagePlan(_Part):
    """One stage in numbers."""

    name: str
    context: int
    rope_base: float
    batch_samples: int
    micro_batches: int = Field(description="of one data rank in one step")
    micro_batch_samples: int
    tokens_per_step: int
    steps: int
    steps_per_chunk: int
    chunks: int
    samples_per_chunk: int
    tokens: int
    unpublished_tokens: float = Field(description="tokens of the mix whose source was never published")
    bubble_fraction: float = Field(description="pipeline idle time over ideal time, (p - 1) / m of 1F1B")
    bubble_fraction_of_wall: float = Field(description="the same over the whole step, (p - 1) / (m + p - 1)")
    flops: float = Field(description="6 a parameter and token")


class Memory(_Part):
    """Estimated bytes on one rank, by part."""

    pipeline_rank: int
    stage: str = Field(description="the training stage that needs most")
    weights: int
    gradients: int
    optimizer: int = Field(description="fp32 master and two moments, sharded over the data ranks")
    activations: int = Field(description="of all micro-batches in flight, with the recipe's recomputation")
    logits: int
    total: int


class ModelFlopsUtilization(_Part):
    """Useful FLOPs over the devices' peak, in each convention."""

    parameters_only: float
    causal_attention: float
    full_attention: float


class Plan(_Part):
    """The contract's fields of `k2 plan`, and more."""

    recipe: str
    parameters: int
    parameters_without_embedding: int
    parameters_per_layer: int
    ranks: int
    stages: tuple[StagePlan, ...]
    tokens: int
    memory_bytes_per_rank: Memory = Field(description="of the fullest pipeline rank")
    memory_by_pipeline_rank: tuple[Memory, ...]
    flops: float = Field(description="6 a parameter and token, over all stages")
    flops_causal_attention: float
    flops_full_attention: float
    devices: int
    device_kw: float
    days: float | None
    days_basis: DaysBasis
    tokens_per_second_per_device: float | None
    seconds_per_step: float | None
    mfu: ModelFlopsUtilization | None = Field(description="none when no days or no peak are declared")
    mwh: float | None
    tco2e: float | None
    checkpoint_bytes: int
    checkpoints: int
    export_bytes: int


def plan(recipe: Recipe) -> Plan:
    """What `recipe` would take."""
    count = count_parameters(recipe.model)
    stages = tuple(_stage(recipe, stage) for stage in recipe.stages)
    tokens = sum(stage.tokens for stage in stages)
    days, basis = _days(recipe)
    ranks = [_memory(recipe, rank, count) for rank in range(recipe.layout.pipeline)]
    seconds = None if days is None else days * _SECONDS_A_DAY
    return Plan(
        recipe=recipe.name,
        parameters=count.total,
        parameters_without_embedding=count.without_embedding,
        parameters_per_layer=count.layer,
        ranks=recipe.layout.ranks,
        stages=stages,
        tokens=tokens,
        memory_bytes_per_rank=max(ranks, key=lambda memory: memory.total),
        memory_by_pipeline_rank=tuple(ranks),
        flops=sum(stage.flops for stage in stages),
        flops_causal_attention=_flops(recipe, "causal"),
        flops_full_attention=_flops(recipe, "full"),
        devices=recipe.energy.devices,
        device_kw=recipe.energy.device_kw,
        days=days,
        days_basis=basis,
        tokens_per_second_per_device=None if seconds is None else tokens / seconds / recipe.energy.devices,
        seconds_per_step=None if seconds is None else seconds / sum(stage.steps for stage in stages),
        mfu=None if seconds is None else _utilization(recipe, seconds),
        mwh=None if days is None else recipe.energy.mwh(24 * days),
        tco2e=None if days is None else recipe.energy.tco2e(24 * days),
        checkpoint_bytes=count.total * _STATE_BYTES,
        checkpoints=sum(stage.chunks for stage in stages),
        export_bytes=count.total * _WEIGHT_BYTES[recipe.layout.precision],
    )


def _stage(recipe: Recipe, stage: Stage) -> StagePlan:
    pipeline, micro_batches = recipe.layout.pipeline, recipe.layout.micro_batches(stage)
    return StagePlan(
        name=stage.name,
        context=stage.context,
        rope_base=stage.rope_base,
        batch_samples=stage.batch_samples,
        micro_batches=micro_batches,
        micro_batch_samples=stage.micro_batch_samples,
        tokens_per_step=stage.tokens_per_step,
        steps=stage.steps,
        steps_per_chunk=stage.steps_per_chunk,
        chunks=stage.chunks,
        samples_per_chunk=stage.samples_per_chunk,
        tokens=stage.tokens,
        unpublished_tokens=stage.unpublished_tokens,
        bubble_fraction=(pipeline - 1) / micro_batches,
        bubble_fraction_of_wall=(pipeline - 1) / (micro_batches + pipeline - 1),
        flops=float(flops_per_token(recipe.model, stage.context) * stage.tokens),
    )


def _flops(recipe: Recipe, attention: Attention) -> float:
    return float(sum(flops_per_token(recipe.model, stage.context, attention) * stage.tokens for stage in recipe.stages))


def _days(recipe: Recipe) -> tuple[float | None, DaysBasis]:
    """The length of the run: as declared, or at an assumed utilization of a declared peak."""
    energy = recipe.energy
    if energy.days is not None:
        return energy.days, "declared"
    if energy.peak_tflops is None:
        return None, "unknown"
    flops_a_second = ASSUMED_MFU * energy.peak_tflops * 1e12 * energy.devices
    return _flops(recipe, "uncounted") / flops_a_second / _SECONDS_A_DAY, "assumed 40 % MFU"


def _utilization(recipe: Recipe, seconds: float) -> ModelFlopsUtilization | None:
    if recipe.energy.peak_tflops is None:
        return None
    possible = recipe.energy.peak_tflops * 1e12 * recipe.energy.devices * seconds
    return ModelFlopsUtilization(
        parameters_only=_flops(recipe, "uncounted") / possible,
        causal_attention=_flops(recipe, "causal") / possible,
        full_attention=_flops(recipe, "full") / possible,
    )


def _memory(recipe: Recipe, pipeline_rank: int, count: ParameterCount) -> Memory:
    """Of one pipeline rank, in the training stage that needs most."""
    per_stage = [_memory_in(recipe, pipeline_rank, count, stage) for stage in recipe.stages]
    return max(per_stage, key=lambda memory: memory.total)


def _memory_in(recipe: Recipe, pipeline_rank: int, count: ParameterCount, stage: Stage) -> Memory:
    layout, model = recipe.layout, recipe.model
    first, last = pipeline_rank == 0, pipeline_rank == layout.pipeline - 1
    held = model.layers // layout.pipeline * count.layer + first * count.embedding + last * (count.final_norm + count.head)
    held = -(-held // layout.tensor)
    in_flight = min(layout.pipeline - pipeline_rank, layout.micro_batches(stage))  # 1F1B: the first rank holds most
    micro_tokens = stage.micro_batch_samples * stage.context
    in_layers = in_flight * model.layers // layout.pipeline
    at_work = _layer_bytes_per_token(model, layout, "none") if layout.recompute == "full" else 0  # the block that is computed again
    parts = {
        "weights": -(-held * _WEIGHT_BYTES[layout.precision] // (layout.data if layout.zero_stage == 3 else 1)),
        "gradients": -(-held * _GRADIENT_BYTES // (layout.data if layout.zero_stage > 1 else 1)),
        "optimizer": -(-held * _OPTIMIZER_BYTES // layout.data),
        "activations": micro_tokens * (in_layers * _layer_bytes_per_token(model, layout, layout.recompute) + at_work),
        "logits": last * micro_tokens * model.vocab_rows // layout.tensor * (_WEIGHT_BYTES[layout.precision] + 4),  # and once in fp32
    }
    return Memory(pipeline_rank=pipeline_rank, stage=stage.name, total=sum(parts.values()), **parts)


def _layer_bytes_per_token(model: Model, layout: Layout, recompute: Recompute) -> int:
    """What one layer keeps of one token for its backward pass.

    Inputs and outputs of the two norms (4 h, sharded only with sequence parallelism); query, key, value and the
    attention's output (4 h); gate, up, SiLU and their product (4 f), the latter two sharded over the tensor ranks.
    Selective recomputation keeps gate and up alone of the last (2 f), full the layer's input (h).
    """
    stream = layout.tensor if layout.sequence_parallel else 1
    if recompute == "full":
        return model.hidden // stream * _WEIGHT_BYTES[layout.precision]
    of_mlp = 2 if recompute == "selective" else 4
    numbers = 4 * model.hidden // stream + (4 * model.hidden + of_mlp * model.ffn) // layout.tensor
    return numbers * _WEIGHT_BYTES[layout.precision]


def describe(planned: Plan) -> str:
    """The plan as a table for the terminal."""
    sections = [_model_lines(planned), _stage_table(planned), _memory_lines(planned), _cost_lines(planned), _disk_lines(planned)]
    return "\n\n".join("\n".join(lines) for lines in sections)


def _model_lines(planned: Plan) -> list[str]:
    return [
        f"{planned.recipe}: {planned.parameters:,} parameters",
        f"  without the input embedding  {planned.parameters_without_embedding:>22,}",
        f"  one layer                    {planned.parameters_per_layer:>22,}",
    ]


def _stage_table(planned: Plan) -> list[str]:
    rows: list[tuple[str, Callable[[StagePlan], str]]] = [
        ("context", lambda stage: f"{stage.context:,}"),
        ("RoPE base", lambda stage: f"{stage.rope_base:,.0f}"),
        ("samples a step", lambda stage: f"{stage.batch_samples:,}"),
        ("tokens a step", lambda stage: f"{stage.tokens_per_step:,}"),
        ("micro-batches", lambda stage: f"{stage.micro_batches} of {stage.micro_batch_samples}"),
        ("chunks", lambda stage: f"{stage.chunks:,}"),
        ("steps a chunk", lambda stage: f"{stage.steps_per_chunk:,}"),
        ("samples a chunk", lambda stage: f"{stage.samples_per_chunk:,}"),
        ("steps", lambda stage: f"{stage.steps:,}"),
        ("tokens", lambda stage: f"{stage.tokens:,}"),
        ("of them unpublished", lambda stage: f"{stage.unpublished_tokens:,.0f}" if stage.unpublished_tokens else "-"),
        ("bubble, of ideal", lambda stage: f"{stage.bubble_fraction:.1%}"),
        ("bubble, of wall", lambda stage: f"{stage.bubble_fraction_of_wall:.1%}"),
        ("FLOPs (6N)", lambda stage: f"{stage.flops:.3g}"),
    ]
    head = f"{'':<22}" + "".join(f"{stage.name:>22}" for stage in planned.stages)
    return [head, *(f"  {name:<20}" + "".join(f"{show(stage):>22}" for stage in planned.stages) for name, show in rows)]


def _memory_lines(planned: Plan) -> list[str]:
    fullest = planned.memory_bytes_per_rank
    parts = fullest.model_dump(include={"weights", "gradients", "optimizer", "activations", "logits"})
    where = f"pipeline rank {fullest.pipeline_rank}, {fullest.stage}"
    title = f"Memory of the fullest of {planned.ranks} ranks ({where}; estimated)"
    return [title, *(f"  {name:<28} {sized(value):>12}" for name, value in (parts | {"total": fullest.total}).items())]


def _cost_lines(planned: Plan) -> list[str]:
    if planned.days is None or planned.mwh is None or planned.tco2e is None:
        return ["Time and energy: unknown; declare energy.days, or energy.peak_tflops to have them estimated"]
    lines = [
        f"Time and energy ({planned.days:,.2f} days, {planned.days_basis}, on {planned.devices:,} x {planned.device_kw:g} kW declared)",
        f"  {planned.flops:.3g} training FLOPs (6N); {planned.flops_causal_attention:.3g} with causal attention, "
        f"{planned.flops_full_attention:.3g} with full",
        f"  {planned.seconds_per_step:,.2f} s a step, {planned.tokens_per_second_per_device:,.1f} tokens/s on each device",
        f"  {planned.mwh:,.4g} MWh, {planned.tco2e:,.4g} tCO2e",
    ]
    if planned.mfu is not None:
        used = planned.mfu
        lines.append(
            f"  MFU {used.parameters_only:.1%} (6N), {used.causal_attention:.1%} with causal attention, {used.full_attention:.1%} with full"
        )
    return lines


def _disk_lines(planned: Plan) -> list[str]:
    return [
        f"Disk: {planned.checkpoints} checkpoints of {sized(planned.checkpoint_bytes)}, "
        f"{sized(planned.checkpoints * planned.checkpoint_bytes)} if all are kept,",
        f"      and {sized(planned.export_bytes)} a copy in Hugging Face format",
    ]


def sized(count: int) -> str:
    """Bytes in the decimal unit that leaves one to three digits before the point."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.4g} {unit}"
