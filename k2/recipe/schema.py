"""The recipe: one complete, frozen description of a run, and the rules that make it sound.

What enters is a TOML document (see `recipe.load`); what leaves is a `Recipe` whose numbers agree with
each other. A recipe says *what* is trained. *Where* it runs is a `Place` (`recipe.place`), which never changes the digest.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from k2.recipe.data import TOKENS_LIMIT, Data, Tokenizer
from k2.recipe.part import Count, Fraction, Name, NonNegative, Part, Positive, divides, no_repeats
from k2.recipe.spikes import Spikes

NUM_CODE_TOKENS = 18  # K2 §2: the StarCoder tokens appended to LLaMA's 32,000
END_OF_DOCUMENT = 2  # LLaMA's end of a sentence, which every tokenizer of a recipe keeps

AttentionSpan = Literal["row", "document"]
Recompute = Literal["none", "selective", "full"]


class Model(Part):
    """The LLaMA shape of the model. RoPE's base belongs to the stage, as K2 raised it for stage 2."""

    layers: Count
    hidden: Count
    ffn: Count = Field(description="width of the SwiGLU MLP")
    heads: Count
    vocab_rows: Annotated[int, Field(ge=1, le=TOKENS_LIMIT)] = Field(description="rows of the untied embeddings")
    norm_eps: Positive = 1e-5
    init_std: Positive = 0.02

    @property
    def head_width(self) -> int:
        return self.hidden // self.heads

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        divides("model.hidden", self.hidden, "model.heads", self.heads)
        if self.head_width % 2:
            raise ValueError(f"model.hidden / model.heads = {self.head_width} must be even: RoPE turns pairs of numbers")
        return self


class MixEntry(Part):
    """One subset in a stage's mix: `repeat` 3 reads it three times, 0.5 reads half of it."""

    subset: Name
    repeat: Positive = 1.0
    fraction: Fraction | None = Field(default=None, description="published share of the stage's samples")
    tokens: NonNegative | None = Field(default=None, description="published tokens of the subset in this stage")


class Schedule(Part):
    """Linear warmup to `peak`, then cosine or linear decay to `final` at the stage's last step."""

    kind: Literal["cosine", "linear"]
    peak: Positive
    final: NonNegative
    warmup_steps: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.final > self.peak:
            raise ValueError(f"schedule.final = {self.final} must not exceed schedule.peak = {self.peak}")
        return self


class Stage(Part):
    """A mix, a context length, a schedule, and a number of chunks. One checkpoint a chunk."""

    name: Name
    context: Count
    rope_base: Positive
    chunks: Count
    steps_per_chunk: Count
    batch_samples: Count = Field(description="samples of one step, over all ranks")
    micro_batch_samples: Count = Field(description="samples of one micro-batch on one data rank")
    schedule: Schedule
    mix: tuple[MixEntry, ...]
    attention_span: AttentionSpan = Field(
        default="row",
        description="what a position sees of its row: everything before it (K2), or its own document, whose positions then begin at 0",
    )
    unpublished_tokens: NonNegative = Field(default=0.0, description="tokens of the mix whose source was never published")

    @property
    def steps(self) -> int:
        return self.chunks * self.steps_per_chunk

    @property
    def samples_per_chunk(self) -> int:
        return self.steps_per_chunk * self.batch_samples

    @property
    def tokens_per_step(self) -> int:
        return self.batch_samples * self.context

    @property
    def tokens(self) -> int:
        return self.steps * self.tokens_per_step

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.schedule.warmup_steps >= self.steps:
            raise ValueError(
                f"stages.{self.name}.schedule.warmup_steps = {self.schedule.warmup_steps} must be below the stage's "
                f"{self.steps} steps ({self.chunks} chunks of {self.steps_per_chunk})"
            )
        no_repeats(f"stages.{self.name}.mix", [entry.subset for entry in self.mix])
        return self


class Optimizer(Part):
    """AdamW. No weight decay on one-dimensional parameters."""

    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.95
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.1
    clip: Positive = Field(default=1.0, description="limit of the global gradient norm")


class Layout(Part):
    """The parallel layout: pipeline x data x tensor ranks."""

    pipeline: Count = 1
    data: Count = 1
    tensor: Count = 1
    sequence_parallel: bool = False
    zero_stage: Literal[1, 2, 3] = Field(default=1, description="shared out over the data ranks: optimizer, 2 gradients too, 3 weights too")
    recompute: Recompute = Field(
        default="none", description="activations computed again for the backward pass: none, the MLP's product, or whole blocks"
    )
    precision: Literal["fp32", "bf16"] = "bf16"

    @property
    def ranks(self) -> int:
        return self.pipeline * self.data * self.tensor

    def micro_batches(self, stage: Stage) -> int:
        """How many micro-batches one data rank takes in a step of `stage`."""
        return stage.batch_samples // (self.data * stage.micro_batch_samples)

    @model_validator(mode="after")
    def _sequence_needs_tensor(self) -> Self:
        if self.sequence_parallel and self.tensor == 1:
            raise ValueError("layout.sequence_parallel = true has no effect with layout.tensor = 1: set it to false, or tensor above 1")
        return self

    @model_validator(mode="after")
    def _zero_fits(self) -> Self:
        if self.zero_stage > 1 and (self.pipeline > 1 or self.tensor > 1):
            raise ValueError(
                f"layout.zero_stage = {self.zero_stage} shares a whole model out over data ranks: it does not go with "
                f"layout.pipeline = {self.pipeline} and layout.tensor = {self.tensor}; set both to 1, or zero_stage to 1"
            )
        if self.zero_stage > 1 and self.data == 1:
            raise ValueError(f"layout.zero_stage = {self.zero_stage} has no effect with layout.data = 1: set it to 1, or data above 1")
        return self


class Checkpoints(Part):
    rescue_every_steps: Count = Field(description="steps between two rescue checkpoints; chunk ends are always saved, and kept")
    keep_last: Count = Field(default=5, description="the newest rescue checkpoints, kept beside those that a rollback may want")


FaultKind = Literal["learning_rate", "repeated_tokens", "nan_gradients", "zeroed_optimizer"]


class Fault(Part):
    """A disturbance that the recipe itself declares, keyed by step, so that it strikes once on the accepted lineage.

    `learning_rate`: the rate is multiplied. `repeated_tokens`: every row repeats a few tokens drawn for it. `nan_gradients`: no
    gradient is a number. `zeroed_optimizer`: a segment that begins at one of the steps finds AdamW's moments zeroed.
    """

    stage: Name
    first_step: Count
    steps: Count
    kind: FaultKind = "learning_rate"
    learning_rate_factor: Positive = 1.0

    def strikes(self, kind: FaultKind, stage: str, step: int) -> bool:
        """Whether it disturbs that step in that way."""
        return self.kind == kind and self.stage == stage and self.first_step <= step < self.first_step + self.steps

    @model_validator(mode="after")
    def _factor_has_an_effect(self) -> Self:
        if (self.kind == "learning_rate") == (self.learning_rate_factor == 1.0):
            raise ValueError(
                f"faults: kind = {self.kind!r} with learning_rate_factor = {self.learning_rate_factor}: the kind 'learning_rate' needs a "
                "factor other than 1, and no other kind takes one"
            )
        return self


class SuitePolicy(Part):
    """A further suite, and the checkpoints that are scored with it."""

    suite: Name
    every: Count = Field(default=1, description="every k-th checkpoint is scored with it, and the last")


class Evaluation(Part):
    """Which suites score which checkpoints: a quick one each, for instance, and the 21 benchmarks every third."""

    suite: Name
    every: Count = Field(default=1, description="every k-th checkpoint is scored, and the last")
    more: tuple[SuitePolicy, ...] = Field(default=(), description="further suites, each with its own checkpoints")

    @property
    def suites(self) -> tuple[str, ...]:
        """Every suite of the run."""
        return (self.suite, *(policy.suite for policy in self.more))

    def suites_of(self, number: int, last: bool) -> tuple[str, ...]:
        """The suites that the checkpoint of that number is scored with."""
        policies = (SuitePolicy(suite=self.suite, every=self.every), *self.more)
        return tuple(policy.suite for policy in policies if last or number % policy.every == 0)

    @model_validator(mode="after")
    def _suites_differ(self) -> Self:
        no_repeats("evaluation", list(self.suites))
        return self


class Publishing(Part):
    every: Count | dict[Name, Count] = Field(
        default=1, description="every k-th checkpoint is published, and the last; one number, or one a stage (K2: every third of stage 1)"
    )
    state: bool = Field(default=True, description="with the training state, so that others can go on from it: 12 bytes a parameter")
    data: bool = Field(default=True, description="with the data chunks that were trained since the published checkpoint before")
    licence: str = "apache-2.0"
    data_licence: str = "odc-by"

    def every_of(self, stage: str) -> int:
        """Every how many checkpoints of the stage one is published."""
        return self.every if isinstance(self.every, int) else self.every.get(stage, 1)


class Energy(Part):
    """The report's formula, §5: devices x hours x kW x PUE, and its carbon."""

    devices: Count
    device_kw: Positive
    pue: Positive
    tco2e_per_mwh: Positive
    days: Positive | None = Field(default=None, description="measured or assumed length of the whole run")
    peak_tflops: Positive | None = Field(default=None, description="of one device, dense, at the layout's precision")

    def mwh(self, hours: float) -> float:
        """K2 §5: device hours x power of one device x PUE."""
        return self.devices * hours * self.device_kw * self.pue / 1000

    def tco2e(self, hours: float) -> float:
        """K2 §5: tonnes of carbon dioxide and its equivalents."""
        return self.mwh(hours) * self.tco2e_per_mwh


class Recipe(Part):
    """One run, whole. Its digest is the run's identity."""

    name: Name
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    model: Model
    tokenizer: Tokenizer
    data: Data
    stages: tuple[Stage, ...]
    optimizer: Optimizer = Optimizer()
    layout: Layout = Layout()
    checkpoints: Checkpoints
    spikes: Spikes = Spikes()
    faults: tuple[Fault, ...] = ()
    evaluation: Evaluation
    publishing: Publishing = Publishing()
    energy: Energy

    def stage(self, name: str) -> Stage:
        """The stage of that name; `ValueError` names those there are."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise ValueError(f"no stage {name!r} in recipe {self.name!r}; it has {', '.join(s.name for s in self.stages)}")

    def stages_before(self, name: str) -> tuple[Stage, ...]:
        """The stages that are trained before the one of that name."""
        return self.stages[: self.stages.index(self.stage(name))]

    def first_checkpoint_number(self, stage_name: str) -> int:
        """Checkpoints run on through the stages: the number of chunks trained before this stage."""
        return sum(stage.chunks for stage in self.stages_before(stage_name))

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not self.stages:
            raise ValueError("stages is empty: a recipe trains at least one stage")
        no_repeats("stages", [s.name for s in self.stages])
        self._tokenizer_fits()
        self._layout_divides()
        self._mix_is_known()
        self._faults_lie_inside()
        return self

    def _tokenizer_fits(self) -> None:
        needed = self.tokenizer.pieces + NUM_CODE_TOKENS
        if self.model.vocab_rows < needed:
            raise ValueError(
                f"model.vocab_rows = {self.model.vocab_rows} must hold tokenizer.pieces = {self.tokenizer.pieces} "
                f"and {NUM_CODE_TOKENS} code tokens: at least {needed}"
            )

    def _layout_divides(self) -> None:
        layout = self.layout
        divides("model.layers", self.model.layers, "layout.pipeline", layout.pipeline)
        divides("model.heads", self.model.heads, "layout.tensor", layout.tensor)
        divides("model.ffn", self.model.ffn, "layout.tensor", layout.tensor)
        divides("model.vocab_rows", self.model.vocab_rows, "layout.tensor", layout.tensor)
        for stage in self.stages:
            if layout.sequence_parallel:
                divides(f"stages.{stage.name}.context", stage.context, "layout.tensor (sequence_parallel = true)", layout.tensor)
            share = layout.data * stage.micro_batch_samples
            if stage.batch_samples % share:
                raise ValueError(
                    f"stages.{stage.name}.batch_samples = {stage.batch_samples} is not a multiple of layout.data x "
                    f"micro_batch_samples = {layout.data} x {stage.micro_batch_samples} = {share}; "
                    f"the nearest that is: {max(1, round(stage.batch_samples / share)) * share}"
                )

    def _mix_is_known(self) -> None:
        known = {subset.name for subset in self.data.subsets}
        for stage in self.stages:
            for entry in stage.mix:
                if entry.subset not in known:
                    raise ValueError(
                        f"stages.{stage.name}.mix names the subset {entry.subset!r}; data.subsets has {', '.join(sorted(known))}"
                    )

    def _faults_lie_inside(self) -> None:
        for fault in self.faults:
            steps = self.stage(fault.stage).steps
            last_step = fault.first_step + fault.steps - 1
            if last_step > steps:
                raise ValueError(f"faults: steps {fault.first_step} to {last_step} lie beyond the {steps} steps of {fault.stage}")
