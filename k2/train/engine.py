"""DeepSpeed behind a small door: connect the ranks, cut the model, train one batch, give and take the state.

What DeepSpeed does wrong by default is set right here, and looked at in `startup` where it would be silent. Nothing
else in the project knows DeepSpeed, and it is imported only when an engine is built.
"""

import contextlib
import gc
import importlib
import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor

from k2.checkpoint.placed import TrainingState
from k2.checkpoint.state import StateReader
from k2.model.backend import Backend, choose_backend, this_machine
from k2.model.layers import CUT_AT, PlainLlama, layer_list
from k2.model.llama import mean_loss
from k2.model.parallel import ALONE, TensorRanks
from k2.recipe.place import Place
from k2.recipe.schema import Recipe, Stage
from k2.recipe.world import world_of
from k2.train.deepspeed_json import deepspeed_json
from k2.train.faults import declares
from k2.train.gradients import lay_end_to_end
from k2.train.optimizer import adamw, parameter_groups
from k2.train.optimizer_state import OptimizerState
from k2.train.sharded import ShardedWeights, gathered_by_block, train_sharded
from k2.train.startup import assert_as_set
from k2.train.tensor import sum_copied_gradients, tensor_ranks

THIS_MACHINE = Place()
MicroBatch = tuple[Tensor, Tensor]  # token ids and labels, each [B, T]


def connect(recipe: Recipe, place: Place) -> None:
    """Join the other ranks, started by torchrun. Sets threads, seeds and device of this process."""
    layout = recipe.layout
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != layout.ranks:
        raise ValueError(
            f"{world} ranks were started, the recipe's layout has {layout.ranks}: --nnodes x --nproc-per-node must be that many"
        )
    device = _device(place)
    os.environ["DS_ACCELERATOR"] = device
    torch.set_num_threads(place.threads_per_rank)
    torch.manual_seed(recipe.seed)
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, hides nothing here
    _join(device)
    gc.freeze()  # what is loaded stays: each of DeepSpeed's collections while it builds a bf16 optimizer takes a quarter of a second


class Engine:
    """One rank's share of the model in training. Every method is called by all ranks together."""

    def __init__(self, recipe: Recipe, stage: Stage, place: Place = THIS_MACHINE) -> None:
        backend = choose_backend(recipe, place, this_machine(os.environ["DS_ACCELERATOR"]))
        self._pipelined = recipe.layout.zero_stage == 1
        self._engine = _initialize(recipe, stage, backend)
        assert_as_set(self._engine, recipe)
        self._state = (ShardedWeights if recipe.layout.zero_stage == 3 else OptimizerState)(self._engine, recipe)
        self._world = f"{world_of(recipe)}mb{stage.micro_batch_samples}, {backend}"
        self._spoiled = False
        if declares(recipe, "nan_gradients", stage):
            next(self._engine.module.parameters()).register_hook(lambda gradient: gradient * math.nan if self._spoiled else gradient)
        if place.compile_layers:
            self._engine.compile()

    @property
    def data_rank(self) -> int:
        return cast(int, self._engine.grid.get_data_parallel_rank()) if self._pipelined else dist.get_rank()

    @property
    def device(self) -> torch.device:
        return cast(torch.device, self._engine.device)

    @property
    def device_name(self) -> str:
        """As its maker calls it; `cpu` for any CPU."""
        return "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)

    @property
    def arithmetic(self) -> str:
        """What decides how sums are rounded: where it is the same, so are the losses of the same steps, on CPUs to the bit."""
        chip = torch.backends.cpu.get_cpu_capability() if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)
        return f"{self.device.type} {chip}, torch {torch.__version__}, {torch.get_num_threads()} threads, {self._world}"

    def set_learning_rate(self, rate: float) -> None:
        """For the next batch. Ours rather than DeepSpeed's scheduler, which stands still at a skipped update."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate

    def set_clip(self, limit: float) -> None:
        """Of the global gradient norm, for the next batch."""
        self._engine.optimizer.clip_grad = limit

    def train_batch(self, micro_batches: Iterator[MicroBatch]) -> tuple[float, float]:
        """One step over this data rank's micro-batches: the mean loss of the global batch and the gradient's norm before clipping."""
        loss = self._engine.train_batch(micro_batches) if self._pipelined else train_sharded(self._engine, micro_batches)
        return float(loss), float(self._engine.get_global_grad_norm())

    def spoil_gradients(self, spoiled: bool) -> None:
        """Whether the gradients of the next batch are no numbers: a fault that the recipe declares."""
        self._spoiled = spoiled

    @property
    def skipped_updates(self) -> int:
        """How many times a non-finite gradient was refused."""
        return cast(int, self._engine.skipped_steps)

    def before_update(self, call: Callable[[], None]) -> None:
        """Have `call` called before each update of the optimizer, when the gradients are there and the state still stands."""
        self._engine.basic_optimizer.register_step_pre_hook(lambda *_: call())

    def state(self) -> TrainingState:
        """This rank's numbers as they stand; the next update changes them."""
        return self._state.live()

    def restore(self, state: StateReader) -> None:
        """Take over the numbers of a checkpoint. `BrokenOutput` when it does not hold what this rank needs."""
        self._state.restore(state)

    def damage_optimizer(self, way: Literal["lose", "zero", "reset"]) -> None:
        """Only for tests of what must notice it: the optimizer's state is lost, its moments are zeroed, or its counter is."""
        self._state.damage(way)


def _device(place: Place) -> str:
    if place.device == "cuda" and not torch.cuda.is_available():
        raise ValueError('place.device = "cuda", but torch sees no CUDA device here; set it to "cpu" or "auto", or install torch for CUDA')
    if place.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return place.device


def _join(device: str) -> None:
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", r"`torch\.distributed\.", FutureWarning)  # DeepSpeed calls what torch 2.13 has renamed
    if device == "cpu":  # serves inference only, and compiling it takes more than a minute
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():
        deepspeed.init_distributed(dist_init_required=True)


def _import_muon_uncompiled() -> None:
    """DeepSpeed asks of every optimizer whether it is its Muon, whose module loads torch's compiler: 3 s of start-up for nothing."""
    from deepspeed.runtime import compiler

    usual = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = usual


def _initialize(recipe: Recipe, stage: Stage, backend: Backend) -> Any:
    import deepspeed

    _import_muon_uncompiled()
    with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints its settings
        module, ranks = _pipeline(recipe, stage, backend) if recipe.layout.zero_stage == 1 else _whole(recipe, stage, backend)
        engine, *_ = deepspeed.initialize(
            model=module,
            model_parameters=parameter_groups(module.parameters(), recipe.optimizer.weight_decay),
            optimizer=adamw(recipe.optimizer),
            config=deepspeed_json(recipe, stage),
        )
    lay_end_to_end(engine, recipe.layout)
    sum_copied_gradients(engine, ranks)
    return engine


def _pipeline(recipe: Recipe, stage: Stage, backend: Backend) -> tuple[Any, TensorRanks]:
    """This rank's layers, or its slices of them."""
    from deepspeed.pipe import LayerSpec, PipelineModule
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    layout = recipe.layout
    topology = PipeModelDataParallelTopology(num_pp=layout.pipeline, num_mp=layout.tensor, num_dp=layout.data)
    ranks = tensor_ranks(topology, layout)
    module = PipelineModule(
        layers=[LayerSpec(spec.kind, *spec.arguments) for spec in layer_list(recipe, stage, ranks, backend)],
        topology=topology,
        loss_fn=partial(mean_loss, ranks=ranks),
        partition_method=CUT_AT,
    )
    return module, ranks


def _whole(recipe: Recipe, stage: Stage, backend: Backend) -> tuple[PlainLlama, TensorRanks]:
    return gathered_by_block(PlainLlama(layer_list(recipe, stage, backend=backend)), recipe), ALONE
