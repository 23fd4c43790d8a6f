"""Train recipes one after another, those of each world in one process group; write each one's curve and final state.

Argument: a folder with `scenarios.json`, {ranks: [{"name", "overrides", "stage", "steps"}]}. Leaves `<name>/curve.json`
and `<name>/state` there.
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

from k2.checkpoint.commit import STATE
from k2.recipe.load import load_recipe
from k2.recipe.schema import Place
from k2.train.engine import Engine, connect
from k2.train.step import train_step


def train_all(folder: Path, scenarios: list[dict[str, Any]]) -> None:
    for scenario in scenarios:
        recipe = load_recipe(MINI, tuple(scenario["overrides"]))
        stage = recipe.stage(scenario["stage"])
        connect(recipe, Place(device="cpu"))
        engine, read = Engine(recipe, stage), synthetic_samples(recipe, stage)
        results = [train_step(engine, recipe, stage, step, read) for step in range(1, scenario["steps"] + 1)]
        state = folder / scenario["name"] / STATE
        state.mkdir(parents=True, exist_ok=True)
        assert engine.write_state(state, {"step": scenario["steps"], "tokens": 0}) is None
        if dist.get_rank() == 0:
            curve = {"losses": [r.loss for r in results], "grad_norms": [r.grad_norm for r in results]}
            (state.parent / "curve.json").write_text(json.dumps(curve))


def main() -> None:
    folder = Path(sys.argv[1])
    for ranks, scenarios in json.loads((folder / "scenarios.json").read_text()).items():
        in_ranks(int(ranks), partial(train_all, folder, scenarios))


if __name__ == "__main__":
    main()
