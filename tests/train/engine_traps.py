"""Two ranks: what DeepSpeed does silently by default, and what the engine makes of it.

Argument: the folder to work in; each rank writes what it saw there.
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import deepspeed.pipe  # noqa: F401 (it and the next before the ranks fork)
import torch
import torch._inductor.config
import torch.distributed as dist
from plain_loop import synthetic_samples
from ranks import in_ranks
from trainer_run import MINI

from k2.checkpoint.commit import Commit
from k2.checkpoint.saving import NotFinite, Order, Saver
from k2.checkpoint.shard import shard_name
from k2.checkpoint.state import StateReader
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.receipt import BrokenOutput, Receipt, now
from k2.train.engine import Engine, connect
from k2.train.startup import assert_as_set
from k2.train.step import micro_batches

PLACE = Place(device="cpu")
RECEIPT = Receipt(kind="checkpoint", name="saved", recipe="r", made_at=now(), facts={"step": 1})


class Trap:
    def __reduce__(self):
        return print, ("this must not run",)


def refusal_of(act, kind: type[BaseException]) -> str:
    try:
        act()
    except kind as error:
        return f"{type(error).__name__}: {error}"
    return ""


def refusal_without_a_gradient(engine: Engine, recipe: Recipe, parameter: torch.nn.Parameter) -> str:
    stage = recipe.stage("stage1")
    parameter.requires_grad_(False)
    engine.set_learning_rate(1e-3)
    batch = micro_batches(engine, recipe, stage, 5, synthetic_samples(recipe, stage))
    return refusal_of(lambda: engine.train_batch(batch), AssertionError)


def not_as_set(engine: Any, usual: tuple[str, ...]) -> dict[str, str]:
    """What is said at start-up of an engine that has dropped a setting, by the setting."""

    def said(*overrides: str) -> str:
        return refusal_of(lambda: assert_as_set(engine, load_recipe(MINI, (*usual, *overrides))), AssertionError)

    seen = {"nothing": said(), "clip": said("optimizer.clip=0.5"), "accumulation": said("layout.precision='bf16'")}
    seen["zero"] = said("layout.tensor=1", "layout.data=2", "layout.zero_stage=2", "layout.sequence_parallel=false")
    slices = next(p for p in engine.module.parameters() if p.ndim > 1)
    slices.tensor_model_parallel = False
    seen["mark"] = said()
    slices.tensor_model_parallel = engine.is_grad_partitioned = True
    seen["boundaries"] = said()
    engine.is_grad_partitioned, engine.basic_optimizer = False, torch.optim.SGD(engine.module.parameters())
    seen["optimizer"] = said()
    return seen


def work() -> None:
    root, seen = Path(sys.argv[1]), {}
    seen["world"] = refusal_of(lambda: connect(load_recipe(MINI, ("layout.data=2",)), PLACE), ValueError)
    recipe = load_recipe(MINI)
    stage = recipe.stage("stage1")
    connect(recipe, PLACE)
    engine, read = Engine(recipe, stage), synthetic_samples(recipe, stage)

    def train(step: int, rate: float) -> float:
        engine.set_learning_rate(rate)
        return engine.train_batch(micro_batches(engine, recipe, stage, step, read))[0]

    train(1, 1e-3)
    saver = Saver(dist.get_rank(), 2)
    engine.before_update(saver.before_update)
    saver.begin(Order(Commit(root / "saved", 1, 2), RECEIPT, {}, lambda: None, lambda: True), engine.state())
    expected = train(2, 1e-3)  # while the state of step 1 is being saved
    saver.settle()
    dist.barrier()
    weight = next(engine._engine.module.parameters())
    before, hook = weight.detach().clone(), weight.register_hook(lambda gradient: gradient * math.nan)
    train(3, 1e-3)
    hook.remove()
    seen["refused"], seen["weight kept"] = engine.skipped_updates, torch.equal(weight, before)
    train(4, 1e-3)
    seen["trains on"] = engine.skipped_updates == 1 and not torch.equal(weight, before)
    with StateReader(root / "saved") as state:
        engine.restore(state)
    seen["updates"] = engine.state().updates
    seen["same after loading"] = train(2, 1e-3) == expected and math.isfinite(expected)
    with torch.no_grad():
        engine.state().partitions["master"][0][0] = math.nan
    saver.begin(Order(Commit(root / "not_finite", 1, 2), RECEIPT, {}, lambda: None, lambda: True), engine.state())
    seen["not finite"] = refusal_of(saver.settle, NotFinite)
    dist.barrier()
    seen["visible"] = sorted(path.name for path in root.glob("*") if path.is_dir())
    torch.save({"weight": Trap()}, root / "saved" / "state" / shard_name(0))
    dist.barrier()
    seen["pickle"] = refusal_of(lambda: StateReader(root / "saved"), BrokenOutput)
    seen["nothing there"] = refusal_of(lambda: StateReader(root / "nowhere"), BrokenOutput)
    seen["no gradient"] = [refusal_without_a_gradient(engine, recipe, list(engine._engine.module.parameters())[-1])]
    cut = ("layout.pipeline=1", "layout.tensor=2", "layout.sequence_parallel=true")
    recipe = load_recipe(MINI, cut)
    engine = Engine(recipe, stage, PLACE)
    seen["not as set"] = not_as_set(engine._engine, cut)
    seen["no gradient"] += [refusal_without_a_gradient(engine, recipe, next(p for p in engine._engine.module.parameters() if p.ndim == 1))]
    seen["compiled"] = [path.name for path in (root / "compiled").rglob("*")]
    (root / f"seen_{dist.get_rank()}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    # where torch compiles extensions to, with a compiler that only fails: nothing may want one
    os.environ |= {"TORCH_EXTENSIONS_DIR": f"{sys.argv[1]}/compiled", "CXX": "false"}
    in_ranks(2, work)
