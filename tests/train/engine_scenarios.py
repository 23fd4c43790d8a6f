"""Train recipes one after another, those of each world in one process group; write each one's curve and final state.

Each then goes one step further, restores what it saved and repeats the step, and once more from what one process saved.

Argument: a folder with `scenarios.json`, [[ranks, [{"name", "overrides", "stage", "steps", "alone"}]]]. Leaves the checkpoint
`<name>` there, with `curve.json` in it, and `<name>.json`: loss and gradient norm of the step after, by where it began.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed.pipe  # noqa: F401 (it and the next before the ranks fork)
import torch._inductor.config  # noqa: F401
import torch.distributed as dist
from plain_loop import synthetic_samples
from ranks import in_ranks
from trainer_run import MINI

from k2.checkpoint.commit import Commit
from k2.checkpoint.saving import Order, Saver
from k2.checkpoint.state import StateReader
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.run.receipt import Receipt, now
from k2.train.engine import Engine, connect
from k2.train.step import StepResult, train_step


def train_all(folder: Path, scenarios: list[dict[str, Any]]) -> None:
    for scenario in scenarios:
        recipe = load_recipe(MINI, tuple(scenario["overrides"]))
        stage = recipe.stage(scenario["stage"])
        connect(recipe, Place(device="cpu"))
        engine, read = Engine(recipe, stage), synthetic_samples(recipe, stage)
        results = [train_step(engine, recipe, stage, step, read) for step in range(1, scenario["steps"] + 1)]
        curve = {"losses": [r.loss for r in results], "grad_norms": [r.grad_norm for r in results]}
        target = folder / scenario["name"]
        save(engine, target, {"curve.json": json.dumps(curve)})
        after = {"unbroken": loss_and_norm(train_step(engine, recipe, stage, scenario["steps"] + 1, read))}
        dist.barrier()
        for began, name in (("resumed", scenario["name"]), ("alone", scenario["alone"])):
            if name is not None:
                with StateReader(folder / name) as state:
                    engine.restore(state)
                after[began] = loss_and_norm(train_step(engine, recipe, stage, scenario["steps"] + 1, read))
        if dist.get_rank() == 0:  # all ranks have the same
            (folder / f"{scenario['name']}.json").write_text(json.dumps(after))


def loss_and_norm(result: StepResult) -> tuple[float, float]:
    return result.loss, result.grad_norm


def save(engine: Engine, target: Path, texts: dict[str, str]) -> None:
    """Commit the state, as the trainer does."""
    saver = Saver(dist.get_rank(), dist.get_world_size())
    receipt = Receipt(kind="checkpoint", name=target.name, recipe="r", made_at=now(), facts={"step": 1})
    saver.begin(Order(Commit(target, 1, dist.get_world_size()), receipt, texts, lambda: None, lambda: True), engine.state())
    saver.settle()


def main() -> None:
    folder = Path(sys.argv[1])
    for ranks, scenarios in json.loads((folder / "scenarios.json").read_text()):
        in_ranks(ranks, partial(train_all, folder, scenarios))


if __name__ == "__main__":
    main()
