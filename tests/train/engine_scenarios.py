"""Run under torchrun: train several recipes one after another in one process group and write each one's curve.

Argument: a JSON file {"output": FILE, "scenarios": [{"name", "overrides", "stage", "steps"}]}.
"""

import json
import sys
from pathlib import Path

import torch.distributed as dist
from plain_loop import synthetic_samples
from trainer_run import MINI

from k2.recipe.load import load_recipe
from k2.recipe.schema import Place
from k2.train.engine import Engine, connect
from k2.train.step import train_step


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text())
    curves = {}
    for scenario in asked["scenarios"]:
        recipe = load_recipe(MINI, tuple(scenario["overrides"]))
        stage = recipe.stage(scenario["stage"])
        connect(recipe, Place(device="cpu"))
        engine, read = Engine(recipe, stage), synthetic_samples(recipe, stage)
        results = [train_step(engine, recipe, stage, step, read) for step in range(1, scenario["steps"] + 1)]
        curves[scenario["name"]] = {
            "losses": [r.loss for r in results],
            "grad_norms": [r.grad_norm for r in results],
        }
    if dist.get_rank() == 0:
        Path(asked["output"]).write_text(json.dumps(curves))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
