"""Two ranks: what DeepSpeed does silently by default, and what the engine makes of it.

Argument: the folder to work in; each rank writes what it saw there.
"""

import json
import math
import pickle
import sys
from pathlib import Path

import deepspeed.pipe  # noqa: F401 (it and the next before the ranks fork)
import torch
import torch._inductor.config
import torch.distributed as dist
from plain_loop import synthetic_samples
from ranks import in_ranks
from trainer_run import MINI

from k2.recipe.load import load_recipe
from k2.recipe.schema import Place
from k2.train.engine import Engine, connect
from k2.train.step import micro_batches

PLACE = Place(device="cpu")


class Trap:
    def __reduce__(self):
        return print, ("this must not run",)


def refusal_of(act, kind: type[BaseException]) -> str:
    try:
        act()
    except kind as error:
        return f"{type(error).__name__}: {error}"
    return ""


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
    state = root / "state"
    state.mkdir(exist_ok=True)
    seen["problem"] = engine.write_state(state, {"step": 1, "tokens": 128})
    expected = train(2, 1e-3)
    weight = next(engine._engine.module.parameters())
    before, hook = weight.detach().clone(), weight.register_hook(lambda gradient: gradient * math.nan)
    train(3, 1e-3)
    hook.remove()
    seen["refused"], seen["weight kept"] = engine.skipped_updates, torch.equal(weight, before)
    train(4, 1e-3)
    seen["trains on"] = engine.skipped_updates == 1 and not torch.equal(weight, before)
    with torch.no_grad():
        weight[..., 0] = math.inf
    seen["not finite"] = engine.non_finite_weights()
    seen["counters"] = engine.load_state(state)
    seen["same after loading"] = train(2, 1e-3) == expected and math.isfinite(expected)
    dist.barrier()
    seen["no latest file"] = not (root / "latest").exists() and not (root / "zero_to_fp32.py").exists()
    torch.save({"weight": Trap()}, state / f"layer_0{0 if dist.get_rank() == 0 else 3}-model_00-model_states.pt")
    seen["pickle"] = refusal_of(lambda: engine.load_state(state), pickle.UnpicklingError)
    seen["nothing there"] = refusal_of(lambda: engine.load_state(root / "nowhere"), (AssertionError, OSError))  # type: ignore[arg-type]
    (root / f"seen_{dist.get_rank()}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    in_ranks(2, work)
